"""`benchmarks.accuracy`: methods, budgets, and finished runs, which are not repeated; `benchmarks.accuracy_table`."""
import fcntl
import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from scipy import stats
from timm.data.transforms import RandomResizedCropAndInterpolation

import train_timm
from benchmarks import accuracy, accuracy_table, recipes
from benchmarks.methods import KNOBS, METHODS, find
from benchmarks.recipes import RECIPES, Recipe
from benchmarks.suite.runs import mean_and_spread
from tests.support.benchmarks import check_schema
from timm_multimix import MultiMixTask
from timm_multimix.training.checkpoints.saver import AtomicCheckpointSaver as Saver
from timm_multimix.training.cli.parser import parse_args


@pytest.fixture
def recipe(monkeypatch):
    """A recipe whose training takes two seconds."""
    flags = (
        '--model test_resnet --num-classes 3 --input-size 3 32 32 --epochs 2 --warmup-epochs 0 --batch-size 6 '
        '--lr 0.01 --workers 0 --device cpu')
    monkeypatch.setitem(recipes.RECIPES, 'tiny', Recipe(flags, 6, 3, eval_split='validation'))
    return 'tiny'


@pytest.fixture
def suite(recipe, image_folder, tmp_path):
    def suite(*flags):
        return accuracy.main([
            '--recipe', recipe, '--data-dir', str(image_folder), '--output', str(tmp_path / 'output'),
            '--results', str(tmp_path / 'results'), *flags])
    return suite


@pytest.mark.parametrize('recipe', [
    pytest.param(name, marks=() if name in ('cifar5000-pad-vit', 'finetune-few') else pytest.mark.slow)
    for name in RECIPES])
def test_every_method_is_a_valid_command_line(recipe):
    for method, entry in {**METHODS, **KNOBS}.items():
        args, _ = parse_args(f'DIR {RECIPES[recipe].flags} {entry.flags}'.split())
        assert args.model.startswith(('cifar_', 'efficientnet_lite0'))
        pooled = 'multimix' in method or method.startswith('manifold-mixup')
        dense = 'dense-multimix' in method or method.startswith('auto')
        mode = 'dense-multimix' if dense else 'multimix' if pooled else 'elem' if method == 'mixup-elem' else 'batch'
        assert args.mixup_mode == ('mixupe' if method.startswith('mixupe') else mode), method


def test_the_two_modes_have_their_default_flags():
    for mode in ('multimix', 'dense-multimix'):
        assert METHODS[mode].flags == f'--smoothing 0 --mixup-mode {mode}'


def test_runs_are_written_and_not_repeated(suite, tmp_path, monkeypatch):
    assert suite('--methods', 'plain', 'multimix', '--seeds', '0', '3') == 0
    folder = tmp_path / 'results' / 'tiny'
    assert sorted(os.listdir(folder)) == ['multimix-0.json', 'multimix-3.json', 'plain-0.json', 'plain-3.json']
    record = json.loads((folder / 'multimix-3.json').read_text())
    check_schema(record)
    checkpoint = (tmp_path / 'output' / 'tiny' / 'multimix-3' / 'last.pth.tar').read_bytes()
    assert record['settings'] == dict(
        recipe='tiny', method='multimix', seed=3, flags=f'{RECIPES["tiny"].flags} {METHODS["multimix"].flags} --seed 3',
        data=json.loads((tmp_path / 'output' / 'data' / 'tiny' / 'contents.json').read_text())['digest'],
        checkpoint=hashlib.sha256(checkpoint).hexdigest()[:12])
    epochs = record['result']['epochs']
    assert [row['epoch'] for row in epochs] == [0., 1.] and record['result']['top1'] == epochs[-1]['eval_top1']
    assert json.loads((folder / 'multimix-0.json').read_text())['result']['epochs'] != epochs

    monkeypatch.setattr(train_timm, 'main', None)  # would raise
    assert suite('--methods', 'plain', 'multimix', '--seeds', '0', '3') == 0


def test_a_result_of_other_flags_is_refused(suite, recipe, tmp_path, monkeypatch, capsys):
    assert suite('--methods', 'plain', '--seeds', '0', '--flags', '--workers 0') == 0
    assert suite('--methods', 'plain', '--seeds', '0') == 0  # flags about the machine do not count
    changed = Recipe(f'{RECIPES[recipe].flags} --momentum 0.8', 6, 3, eval_split='validation')
    monkeypatch.setitem(recipes.RECIPES, recipe, changed)
    with pytest.raises(SystemExit, match='2'):
        suite('--methods', 'plain', '--seeds', '0')
    message = capsys.readouterr().err.splitlines()[-1]
    folder = tmp_path / 'output' / 'tiny' / 'plain-0'
    assert 'plain-0.json has the flags' in message and f'delete it and {folder} to train anew' in message

    # without the file, the folder must not be taken for a run with these flags, complete or not
    (tmp_path / 'results' / 'tiny' / 'plain-0.json').unlink()
    with pytest.raises(SystemExit, match='2'):
        suite('--methods', 'plain', '--seeds', '0')
    message = capsys.readouterr().err.splitlines()[-1]
    assert f'the run in {folder} was started with another momentum (0.9 instead of 0.8)' in message
    shutil.rmtree(folder)
    assert suite('--methods', 'plain', '--seeds', '0') == 0


@pytest.mark.parametrize('flags, message', [
    ('--workers 0 --epochs 80 --lr 1', 'which changes epochs (80 instead of 2), lr (1.0 instead of 0.01)'),
    ('--workers many', "argument -j/--workers: invalid int value: 'many'"),
    ('--no-such-flag', 'unrecognized arguments: --no-such-flag'),
    ('--val-split train', "which changes val_split ('train' instead of 'validation')"),
    ('--data-dir elsewhere', 'two folders of data: DIR and --data-dir elsewhere; give one of them'),
    ('--output elsewhere', "which changes output ('elsewhere' instead of"),
])
def test_flags_that_change_the_budget_are_refused(flags, message, suite, tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        suite('--methods', 'plain', f'--flags={flags}')
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'output').exists()


def test_with_a_teacher_the_models_own_accuracy_is_compared(suite, tmp_path, capsys):
    assert suite('--methods', 'multimix-distilled', '--seeds', '0') == 0
    path = tmp_path / 'results' / 'tiny' / 'multimix-distilled-0.json'
    result = json.loads(path.read_text())['result']
    last = result['epochs'][-1]
    assert (result['top1'], result['teacher_top1']) == (last['eval_student_top1'], last['eval_top1'])
    capsys.readouterr()
    assert accuracy_table.main(['--recipe', 'tiny', '--results', str(tmp_path / 'results')]) == 0
    row = f'| MultiMix, self-distilled | {result["top1"]:.2f} |  | {100. * result["ece"]:.1f} | 0 |'
    assert row in capsys.readouterr().out


@pytest.mark.parametrize('at', [0, 1])
@pytest.mark.parametrize('error', [RuntimeError('killed'), KeyboardInterrupt()], ids=['killed', 'interrupted'])
def test_an_interrupted_run_continues(error, at, suite, tmp_path, monkeypatch, caplog):
    """A run that Ctrl-C ended in order is not taken for a complete one either."""
    epochs, train_one_epoch = [], train_timm.train_one_epoch

    def interrupted(epoch, *args, **kwargs):
        if epoch == at and at not in epochs:
            epochs.append(at)
            raise error
        epochs.append(epoch)
        return train_one_epoch(epoch, *args, **kwargs)

    monkeypatch.setattr(train_timm, 'train_one_epoch', interrupted)
    monkeypatch.setattr(accuracy, 'COMMIT', 'first')
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match='killed'):
            suite('--methods', 'plain', '--seeds', '0')
    else:
        assert suite('--methods', 'plain', '--seeds', '0') == accuracy.INTERRUPTED
        assert f'plain with seed 0 was interrupted after {at} of 2 epochs; the same command' in caplog.text
    assert not (tmp_path / 'results').exists()
    monkeypatch.setattr(accuracy, 'COMMIT', 'second')
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    assert epochs == ([0, 1, 1] if at else [0, 0, 1])
    assert read_commits(tmp_path) == ['first', 'second']


def test_an_epoch_counts_only_once_its_checkpoint_is_saved(suite, tmp_path, monkeypatch, caplog):
    """Otherwise the weights of the epoch before would be judged in its name."""
    saved, save = [], Saver.save_checkpoint

    def interrupted(self, epoch, *args, **kwargs):
        saved.append(epoch)
        if saved == [0, 1]:
            raise KeyboardInterrupt
        return save(self, epoch, *args, **kwargs)

    monkeypatch.setattr(Saver, 'save_checkpoint', interrupted)
    assert suite('--methods', 'plain', '--seeds', '0') == accuracy.INTERRUPTED
    assert 'interrupted after 1 of 2 epochs' in caplog.text and not (tmp_path / 'results').exists()
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    assert saved == [0, 1, 1]
    result = json.loads((tmp_path / 'results' / 'tiny' / 'plain-0.json').read_text())['result']
    assert [row['epoch'] for row in result['epochs']] == [0., 1.]


def read_commits(folder):
    return json.loads((folder / 'results' / 'tiny' / 'plain-0.json').read_text())['result']['commits']


def test_a_result_names_the_code_that_trained(suite, tmp_path, monkeypatch):
    """It does not name the code that found the run complete."""
    for commit in ('first', 'second'):
        monkeypatch.setattr(accuracy, 'COMMIT', commit)
        assert suite('--methods', 'plain', '--seeds', '0') == 0
        assert read_commits(tmp_path) == ['first']
        shutil.rmtree(tmp_path / 'results')
    (tmp_path / 'output' / 'tiny' / 'plain-0' / 'commits.txt').unlink()
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    assert read_commits(tmp_path) == ['unknown']


def test_a_run_of_another_process_is_left_alone(suite, tmp_path):
    folder = tmp_path / 'output' / 'tiny'
    folder.mkdir(parents=True)
    with open(folder / 'plain-0.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert suite('--methods', 'plain', '--seeds', '0') == 0
        assert not (tmp_path / 'results').exists()
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    assert (tmp_path / 'results' / 'tiny' / 'plain-0.json').exists()


@pytest.mark.parametrize('code, made', [(1, ['multimix-0.json']), (2, [])])
def test_a_failed_run_names_its_command(code, made, suite, tmp_path, monkeypatch, caplog):
    """The other runs are still made, except after a mistake on the command line, which would stop them too."""
    train = train_timm.main
    monkeypatch.setattr(train_timm, 'main', lambda argv: train(argv) if 'multimix' in argv else code)
    assert suite('--methods', 'plain', 'multimix', '--seeds', '0') == code
    assert 'plain with seed 0 failed; its command was: --data-dir' in caplog.text
    assert [path.name for path in (tmp_path / 'results').rglob('*.json')] == made


def test_a_result_of_other_images_is_refused(suite, tmp_path, image_folder, capsys):
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    shutil.copytree(image_folder, tmp_path / 'images')
    Image.new('RGB', (64, 64)).save(tmp_path / 'images' / 'train' / 'cat' / '0.png')
    with pytest.raises(SystemExit, match='2'):
        suite('--methods', 'plain', '--seeds', '0', '--data-dir', str(tmp_path / 'images'),
              '--output', str(tmp_path / 'elsewhere'))
    assert 'plain-0.json has other images' in capsys.readouterr().err


def test_the_crop_of_padded_images_resizes_nothing():
    args, _ = parse_args(f'DIR {RECIPES["cifar5000-pad-sgd"].flags}'.split())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    crop = RandomResizedCropAndInterpolation(32, scale=args.scale, ratio=args.ratio, interpolation='random')
    pixels, corners = np.asarray(image), set()
    for _ in range(200):
        patch = np.asarray(crop(image))
        found = [
            (top, left) for top in range(9) for left in range(9)
            if np.array_equal(pixels[top:top + 32, left:left + 32], patch)]
        corners.update(found)
        assert len(found) == 1
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(9))


def test_a_folder_without_the_splits_is_refused(suite, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        suite('--data-dir', str(tmp_path / 'nowhere'))
    assert exit_info.value.code == 2 and 'must have the folder' in capsys.readouterr().err


def test_table_and_figure(suite, tmp_path, capsys):
    suite('--methods', 'plain', 'dense-multimix', '--seeds', '0', '1')
    capsys.readouterr()
    flags = ['--recipe', 'tiny', '--results', str(tmp_path / 'results'), '--figure', str(tmp_path / 'figure.png')]
    assert accuracy_table.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = accuracy_table.read_runs('tiny', str(tmp_path / 'results'))
    mean, spread = mean_and_spread([record['result']['top1'] for record in runs['plain']])
    assert [line.split(' | ')[0] for line in lines[2:]] == ['| plain', '| Dense MultiMix']
    assert lines[2].startswith(f'| plain | {mean:.2f} ± {spread:.2f} | ') and lines[2].endswith('| 0, 1 |')
    assert (tmp_path / 'figure.png').stat().st_size > 5000
    assert mean_and_spread([1.5]) == (1.5, None)


def test_a_recipe_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        accuracy_table.main(['--recipe', 'cifar10', '--results', str(tmp_path)])
    assert 'has no runs of cifar10 yet' in capsys.readouterr().err


@pytest.mark.parametrize('name, positions', [('cifar_resnet14', 64), ('cifar_resnet18', 16), ('cifar_vit', 64)])
def test_models_of_small_images_train_with_dense_multimix(name, positions):
    model = timm.create_model(name, num_classes=10)
    task = MultiMixTask(model, mode='dense-multimix', num_tuples=2, verbose=False)
    images = torch.randn(2, 3, 32, 32)
    outputs = task.trainable_module(images, torch.tensor([0, 1]))
    assert outputs.dense_logits.shape == (2, positions, 10)
    task(images, torch.tensor([0, 1]))['loss'].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.pretrained_cfg['input_size'] == (3, 32, 32)


class Payload:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ('unpickled',)


def test_a_checkpoint_runs_no_code(suite, tmp_path, capsys):
    assert suite('--methods', 'plain', '--seeds', '0') == 0
    shutil.rmtree(tmp_path / 'results')
    checkpoint = tmp_path / 'output' / 'tiny' / 'plain-0' / 'last.pth.tar'
    torch.save(dict(epoch=1, args=Payload()), checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        suite('--methods', 'plain', '--seeds', '0')
    assert 'unpickled' not in capsys.readouterr().out


@pytest.mark.parametrize('method, name, value', [
    ('multimix', 'alpha', 4.), ('mixup+dense-multimix', 'input_prob', 0.25),
    ('dense-multimix-paper', 'attention', 'cam'), ('multimix-distilled', 'gamma', 0.75)])
def test_a_run_with_resolved_defaults_is_recognised(method, name, value, suite, tmp_path, monkeypatch, capsys):
    """args.yaml holds the resolved values of flags that were left at their defaults."""
    assert suite('--methods', method, '--seeds', '0') == 0
    args = yaml.safe_load((tmp_path / 'output' / 'tiny' / f'{method}-0' / 'args.yaml').read_text())
    assert None not in [args[f'multimix_{name}'] for name in ('tuples', 'alpha', 'clean_weight', 'concentration')]
    shutil.rmtree(tmp_path / 'results')
    monkeypatch.setattr(train_timm, 'train_one_epoch', None)  # would raise
    assert suite('--methods', method, '--seeds', '0') == 0

    shutil.rmtree(tmp_path / 'results')
    entry, flag = find(method), f'--multimix-{name.replace("_", "-")}'
    monkeypatch.setitem(METHODS, method, replace(entry, flags=f'{entry.flags} {flag} {value}'))
    with pytest.raises(SystemExit, match='2'):
        suite('--methods', method, '--seeds', '0')
    found, wanted = args[f'multimix_{name}'], [value] if name == 'alpha' else value
    assert f'another multimix_{name} ({found!r} instead of {wanted!r}); delete it' in capsys.readouterr().err


def test_table_against_a_method():
    """Only seeds that both have are compared."""
    def records(values):
        return [dict(settings=dict(seed=seed), result=dict(top1=top1, loss=loss)) for seed, top1, loss in values]

    runs = {
        'plain': records([(1, 60., 1.), (2, 61., 1.1), (3, 70., 9.)]),
        'mixup': records([(1, 61., 0.9), (2, 62.5, 1.)]),
        'cutmix': records([(3, 71., 8.)]),
        'multimix': records([(4, 71., 8.)]),
    }
    header, plain, mixup, cutmix, multimix = accuracy_table.table(runs, 'plain')
    names = ('top-1 (%)', 'test loss', 'calibration error (%)')
    assert header[5:] == [f'{name} over plain (p)' for name in names] and plain[5:] == [''] * 3
    p = stats.ttest_1samp([1., 1.5], 0.).pvalue
    assert mixup[5] == f'+1.25 ({p:.2g})' and mixup[6].startswith('-0.100 (')
    assert cutmix[5:] == ['+1.00', '-1.000', ''] and multimix[5:] == [''] * 3
