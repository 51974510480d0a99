"""`benchmarks.train`: what it runs, complete runs, which are not repeated, and folders that hold something else."""
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import train_timm
from benchmarks import recipes, train
from benchmarks.methods import METHODS
from tests.docs.pages import ROOT
from tests.support.training_runs import rows_of
from timm_multimix.training.checkpoints.saver import AtomicCheckpointSaver as Saver


@pytest.fixture
def command(tiny, image_folder, tmp_path):
    def command(*flags):
        return train.main([
            '--recipe', 'tiny', '--data-dir', str(image_folder), '--output', str(tmp_path), '--methods', 'plain',
            *flags])
    return command


def refused(command, capsys, *flags):
    with pytest.raises(SystemExit, match='2'):
        command(*flags)
    return capsys.readouterr().err.splitlines()[-1]


def test_every_method_and_seed_is_a_run_that_is_not_repeated(command, tmp_path, monkeypatch, caplog):
    seeds = ['--methods', 'plain', 'multimix@alpha=1', '--seeds', '0', '3']
    assert command(*seeds) == 0
    assert len(rows_of(tmp_path / 'tiny' / 'multimix@alpha=1-3')) == 2
    assert rows_of(tmp_path / 'tiny' / 'plain-0') != rows_of(tmp_path / 'tiny' / 'plain-3')
    assert '[3/4]' in caplog.text and 'min left' in caplog.text
    monkeypatch.setattr(train_timm, 'main', None)  # would raise
    assert command(*seeds, '--flags', '--workers 1') == 0  # machines may differ


def test_a_shortened_recipe_has_a_folder_of_its_own(command, tmp_path):
    assert command('--epochs', '1') == 0
    assert len(rows_of(tmp_path / 'tiny@epochs=1' / 'plain-0')) == 1


def test_a_run_of_another_budget_is_refused(command, tiny, tmp_path, monkeypatch, capsys):
    assert command() == 0
    monkeypatch.setitem(recipes.RECIPES, 'tiny', replace(tiny, flags=f'{tiny.flags} --momentum 0.8'))
    folder = tmp_path / 'tiny' / 'plain-0'
    assert f'the run in {folder} was started with another momentum (0.9 instead of 0.8); delete it' in refused(
        command, capsys)
    shutil.rmtree(folder)
    assert command() == 0


@pytest.mark.parametrize('method, flag, value', [
    ('multimix', 'multimix-alpha', 4), ('mixupe', 'mixupe-eta', 0.5), ('multimix-distilled', 'multimix-gamma', 0.75),
    ('dense-multimix', 'multimix-attention', 'cam')])
def test_a_run_with_values_left_to_the_library_is_recognised(method, flag, value, command, monkeypatch, capsys):
    """args.yaml has the values that they got."""
    assert command('--methods', method) == 0
    monkeypatch.setattr(train_timm, 'train_one_epoch', None)  # would raise
    assert command('--methods', method) == 0
    entry = METHODS[method]
    monkeypatch.setitem(METHODS, method, replace(entry, flags=f'{entry.flags} --{flag} {value}'))
    assert f'another {flag.replace("-", "_")} (' in refused(command, capsys, '--methods', method)


@pytest.mark.parametrize('flags, message', [
    (['--flags=--epochs 80 --lr 1'], 'which changes epochs (80 instead of 2), lr (1.0 instead of 0.01)'),
    (['--flags=--workers many'], "invalid int value: 'many'"),
    (['--flags=--no-such-flag'], 'unrecognized arguments: --no-such-flag'),
    (['--flags=--val-split train'], "which changes val_split ('train' instead of 'validation')"),
    (['--methods', 'mixap'], "must be one of plain, .*, got 'mixap'"),
    (['--nproc', '4'], '--nproc must divide the batch size'),
    (['--nodes', '2'], '--nodes needs --rendezvous HOST:PORT'),
    (['--recipe', 'finetune-few', '--methods', 'plain'], 'python -m benchmarks.pretrained writes it'),
    (['--data-dir', 'nowhere'], 'must have the folder nowhere/train'),
])
def test_mistakes_are_refused(flags, message, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = refused(command, capsys, *flags)
    assert all(part in text for part in message.split('.*')), text
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('at', [0, 1])
def test_an_interrupted_run_continues(at, command, tmp_path, monkeypatch, caplog):
    epochs, train_one_epoch = [], train_timm.train_one_epoch

    def interrupted(epoch, *args, **kwargs):
        if epoch == at and at not in epochs:
            epochs.append(at)
            raise KeyboardInterrupt
        epochs.append(epoch)
        return train_one_epoch(epoch, *args, **kwargs)

    monkeypatch.setattr(train_timm, 'train_one_epoch', interrupted)
    monkeypatch.setattr(train, 'COMMIT', 'first')
    assert command() == 130 and 'plain-0: interrupted; the command resumes it' in caplog.text
    monkeypatch.setattr(train, 'COMMIT', 'second')
    assert command() == command() == 0
    assert epochs == ([0, 1, 1] if at else [0, 0, 1])
    assert (tmp_path / 'tiny' / 'plain-0' / 'commits.txt').read_text().split() == ['first', 'second']


def test_an_epoch_counts_only_once_its_checkpoint_is_saved(command, tmp_path, monkeypatch):
    """Otherwise the weights of the epoch before would be measured in its name."""
    saved, save = [], Saver.save_checkpoint

    def interrupted(self, epoch, *args, **kwargs):
        saved.append(epoch)
        if saved == [0, 1]:
            raise KeyboardInterrupt
        return save(self, epoch, *args, **kwargs)

    monkeypatch.setattr(Saver, 'save_checkpoint', interrupted)
    assert (command(), command()) == (130, 0)
    assert saved == [0, 1, 1]


def test_a_run_of_another_process_is_left_alone(command, tmp_path):
    folder = tmp_path / 'tiny' / 'plain-0'
    folder.mkdir(parents=True)
    with open(folder / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command() == 0
        assert not (folder / 'summary.csv').exists()


@pytest.mark.parametrize('code, made', [(1, ['multimix-0']), (2, [])])
def test_after_a_failed_run_the_others_are_made(code, made, command, tmp_path, monkeypatch, caplog):
    """Except after a mistake on the command line, which would stop them too."""
    launch = train.launch
    monkeypatch.setattr(train, 'launch', lambda flags, args: launch(flags, args) if 'multimix' in flags else code)
    assert command('--methods', 'plain', 'multimix') == code
    assert code == 2 or 'plain-0 failed; its command was: ' in caplog.text
    assert [path.parent.name for path in tmp_path.glob('tiny/*/last.pth.tar')] == made


@pytest.mark.slow
def test_two_processes_train_digits(tmp_path):
    """In real processes, by torchrun: each takes half of the batch."""
    subprocess.run(
        [sys.executable, '-m', 'benchmarks.train', '--recipe', 'digits', '--methods', 'dense-multimix', '--epochs', '2',
         '--nproc', '2', '--output', str(tmp_path), '--flags', '--device cpu'],
        cwd=ROOT, check=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, timeout=500)
    folder = tmp_path / 'digits@epochs=2' / 'dense-multimix-0'
    assert 'batch_size: 32' in (folder / 'args.yaml').read_text()
    first, second = rows_of(folder)
    assert float(second['train_loss']) < float(first['train_loss']) and second['eval_top1']
