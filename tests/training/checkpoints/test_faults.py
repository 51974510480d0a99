"""Full disks, damaged files, remains of a crash, and errors of all kinds."""
import csv
import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch

import train_timm
from tests.support.training_runs import rows_of
from tests.support.training_states import read
from timm_multimix.checks import UsageError
from timm_multimix.training import evaluate
from timm_multimix.training.checkpoints import resume, saver
from timm_multimix.training.records import Summary


def fail_saves(monkeypatch, numbers, error=errno.ENOSPC):
    """Make these saves of a checkpoint, counted from 0, run out of disk space in the middle of the file."""
    count = iter(range(1000))
    save = torch.save

    def failing(state, file, *args, **kwargs):
        if next(count) in numbers:
            file.write(b'half')
            try:
                raise OSError(error, os.strerror(error))
            except OSError as raised:
                raise RuntimeError('unexpected pos 64 vs 0') from raised  # as torch reports it
        save(state, file, *args, **kwargs)

    monkeypatch.setattr(torch, 'save', failing)


def whole(folder):
    """Return the epoch of each checkpoint; reading fails if one is incomplete."""
    return {name: read(folder / name)['epoch'] for name in sorted(os.listdir(folder)) if '.pth.tar' in name}


def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(flags, tmp_path, monkeypatch, caplog):
    fail_saves(monkeypatch, {1})
    assert train_timm.main([*flags, '--epochs', '3', '--save-epochs', '1', '2']) == 0
    errors = [record.message for record in caplog.records if record.levelname == 'ERROR']
    assert len(errors) == 2
    assert errors[0].startswith('The checkpoint of epoch 1 was not written: ')
    assert 'tmp.pth.tar: No space left on device (' in errors[0] and 'MiB free)' in errors[0]
    assert errors[1].startswith('milestone-2 was not written: ')  # not the weights of another epoch
    epochs = whole(tmp_path / 'run')
    assert epochs['last.pth.tar'] == 2 and epochs['milestone-1.pth.tar'] == 0
    assert 'checkpoint-1.pth.tar' not in epochs and 'checkpoint-2.pth.tar' in epochs
    assert len(rows_of(tmp_path / 'run')) == 3


@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EIO])
def test_a_disk_full_to_the_end_is_exit_code_1_and_loses_no_checkpoint(error, flags, tmp_path, monkeypatch, capsys):
    fail_saves(monkeypatch, {1, 2}, error)
    assert train_timm.main([*flags, '--epochs', '3']) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('train_timm.py: error: the last checkpoint was not written: ')
    assert os.strerror(error) in line and str(tmp_path / 'run') in line
    epochs = whole(tmp_path / 'run')
    assert set(epochs.values()) == {0}
    monkeypatch.undo()
    assert train_timm.main([*flags, '--epochs', '3', '--resume', 'auto']) == 0
    assert whole(tmp_path / 'run')['last.pth.tar'] == 2
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == ['0', '1', '2']


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(flags, monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError('cannot be saved')

    monkeypatch.setattr(torch, 'save', broken)
    with pytest.raises(TypeError, match='cannot be saved'):
        train_timm.main(flags)


def test_rows_of_the_summary_are_written_once_the_disk_has_room(flags, tmp_path, monkeypatch, caplog):
    count = iter(range(100))

    class FullOnce(csv.DictWriter):
        def writerows(self, rows):
            if next(count) == 1:
                self.writer.writerow(['1', '0.'])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().writerows(rows)

    monkeypatch.setattr(csv, 'DictWriter', FullOnce)
    assert train_timm.main([*flags, '--epochs', '3']) == 0
    assert any('summary.csv could not be written: No space left' in record.message for record in caplog.records)
    rows = rows_of(tmp_path / 'run')
    assert [row['epoch'] for row in rows] == ['0', '1', '2'] and all(float(row['eval_loss']) for row in rows)


def test_without_hard_links_or_room_for_a_copy_the_old_file_stays(tmp_path, monkeypatch):
    """The old file keeps its name and its content."""
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, 'no links here')

    def full(src, dst):
        with open(dst, 'w') as file:
            file.write('ha')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'link', refused)
    monkeypatch.setattr(shutil, 'copy2', full)
    (tmp_path / 'last').write_text('new')
    (tmp_path / 'best').write_text('old')
    model = torch.nn.Linear(1, 1)
    made = saver.AtomicCheckpointSaver(model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(tmp_path))
    with pytest.raises(OSError, match='No space left'):
        made._duplicate(tmp_path / 'last', tmp_path / 'best')
    assert (tmp_path / 'best').read_text() == 'old'
    assert sorted(os.listdir(tmp_path)) == ['best', 'last']


@pytest.mark.slow
def test_a_file_size_limit_keeps_the_last_checkpoint(flags, tmp_path):
    """A limit set by the operating system makes the write really fail, even without privileges."""
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    folder = tmp_path / 'run'
    size = os.path.getsize(folder / 'last.pth.tar')
    done = subprocess.run(
        [sys.executable, '-m', 'train_timm', *flags, '--epochs', '2', '--resume', 'auto'],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
        capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith('train_timm.py: error: the last checkpoint was not written: ')
    assert 'File too large' in done.stderr and 'Traceback' not in done.stderr
    assert set(whole(folder).values()) == {0} and 'tmp.pth.tar' not in os.listdir(folder)
    assert len(rows_of(folder)) == 2


def damage(path, how):
    content = path.read_bytes()
    path.unlink()  # a hard link to checkpoint-N, which stays whole
    if how == 'cut off':
        path.write_bytes(content[:len(content) // 2])
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'garbage':
        path.write_bytes(b'\x80garbage' * 1000)
    else:
        middle = content.index(b'/data/0') + 200
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1:])


def test_a_damaged_last_checkpoint_is_skipped(flags, tmp_path, epochs_run, caplog):
    flags, folder = [*flags, '--resume', 'auto'], tmp_path / 'run'
    assert train_timm.main([*flags, '--epochs', '2']) == 0
    (folder / 'checkpoint-1.pth.tar').unlink()
    last = folder / 'last.pth.tar'
    content = last.read_bytes()
    for how in ('cut off', 'empty', 'garbage', 'one bit'):
        last.write_bytes(content)
        damage(last, how)
        caplog.clear()
        assert resume.newest_checkpoint(str(folder)) == str(folder / 'checkpoint-0.pth.tar')
        assert 'last.pth.tar is damaged' in caplog.text
    assert train_timm.main([*flags, '--epochs', '3']) == 0
    assert epochs_run == [0, 1, 1, 2] and whole(folder)['last.pth.tar'] == 2
    assert [row['epoch'] for row in rows_of(folder)] == ['0', '1', '2']


def test_a_run_does_not_start_over_if_no_checkpoint_can_be_read(flags, tmp_path, capsys):
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    folder = tmp_path / 'run'
    for path in folder.glob('*.pth.tar'):
        damage(path, 'cut off')
    assert train_timm.main([*flags, '--resume', 'auto']) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f'--resume auto: no checkpoint in {folder} can be read: ' in line and 'last.pth.tar' in line
    assert resume.newest_checkpoint(str(tmp_path / 'elsewhere')) is None


def test_a_metric_of_nan_does_not_stay_the_best(flags, tmp_path, monkeypatch):
    validate, losses = evaluate.validate, iter([float('nan'), 2., 1.])
    monkeypatch.setattr(
        evaluate, 'validate', lambda *args, **kwargs: {**validate(*args, **kwargs), 'loss': next(losses)})
    assert train_timm.main([*flags, '--epochs', '3', '--eval-metric', 'loss']) == 0
    best = read(tmp_path / 'run' / 'model_best.pth.tar')
    assert best['epoch'] == 2 and best['metric'] == 1.


@pytest.mark.slow
def test_an_error_in_a_worker_ends_the_program(flags):
    """It ends although the traceback keeps the loader alive and the loader's workers ignore SIGTERM."""
    program = (
        'import sys, train_timm\n'
        'from timm_multimix.training.data import images\n'
        'def broken(*args): raise TypeError("something inside a library")\n'
        'images.CheckedImages.__getitem__ = broken\n'
        'train_timm.main(sys.argv[1:])\n')
    result = subprocess.run(
        [sys.executable, '-c', program, *flags, '--workers', '2'], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert 'something inside a library' in result.stderr


def test_repeated_headers_and_remains_of_a_crash_are_skipped(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_bytes(b'epoch,train_loss,lr\n0,2.0,0.1\nepoch,train_loss,lr\n1,1.5,0.1\n\n2,1.0,0.1\n\0\0\0\n,,\n')
    summary = Summary(str(path), 2)
    summary.add_epoch(2, dict(train_loss=0.5, lr=0.05))
    assert [tuple(row.values()) for row in rows_of(tmp_path)] == [
        ('0', '2.0', '0.1'), ('1', '1.5', '0.1'), ('2', '0.5', '0.05')]


def test_a_table_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_text('name,value\na,1\n')
    with pytest.raises(UsageError, match='summary.csv: not the summary of a run'):
        Summary(str(path), 0)
    assert path.read_text() == 'name,value\na,1\n'
