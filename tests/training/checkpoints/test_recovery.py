"""A run stopped within an epoch continues from there, bit for bit."""
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

import train_timm
from tests.support.training_runs import MODES, rows_of
from tests.support.training_states import assert_identical, final_state, read
from timm_multimix import strength
from timm_multimix.training.runtime import get_rng_state, set_rng_state
from timm_multimix.training.stopping import Stopped, StopRequest

CPU = torch.device('cpu')


@pytest.fixture
def six_batches(flags):
    return [*flags, '--batch-size', '4', '--epochs', '2', '--drop', '0.2', '--log-interval', '2']


def recoveries(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith('recovery'))


SLOW = pytest.mark.slow


@pytest.mark.parametrize('more', [
    'dense and cutmix', '--workers 2 --reprob 0.5 --remode pixel', '--no-prefetcher --grad-accum-steps 2',
    pytest.param('--mixup 1 --sched-on-updates --warmup-epochs 1', marks=SLOW),
    pytest.param('--reprob 0.5 --model-ema --opt adamw', marks=SLOW), pytest.param('distilled', marks=SLOW),
])
@pytest.mark.parametrize('at', [pytest.param(1, marks=SLOW), 8])
def test_a_stopped_run_continues_exactly(more, at, six_batches, tmp_path, steps):
    """In the first and the second epoch: draws, data, averages and schedule are those of an uninterrupted run."""
    flags = [*six_batches, *MODES.get(more, more.split()), '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    assert len(steps) == 12
    steps.terminate_at = 12 + at
    assert train_timm.main([*flags, '--experiment', 'parts']) == 143
    accum = 2 if '--grad-accum-steps' in more else 1
    done = (at // accum + 2) * accum  # the rest of that update, and one more
    assert len(steps) == 12 + done
    epoch, batch = divmod(done - 1, 6)
    assert recoveries(tmp_path / 'parts') == [f'recovery-{epoch}-{batch // accum}.pth.tar']
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert len(steps) == 24
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')
    assert not recoveries(tmp_path / 'parts')


@pytest.mark.parametrize('at, left, where', [
    pytest.param(5, 6, 'recovery-0-5', marks=SLOW), (11, 0, 'recovery-1-5')])
def test_a_run_stopped_at_the_end_of_an_epoch_still_validates_it(at, left, where, six_batches, tmp_path, steps):
    """Its training is kept; its validation is done when the run continues."""
    flags = [*six_batches, *MODES['multimix'], '--resume', 'auto', '--model-ema']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    steps.terminate_at = 12 + at
    assert train_timm.main([*flags, '--experiment', 'parts']) == 143
    assert recoveries(tmp_path / 'parts') == [where + '.pth.tar']
    assert len(steps) == 24 - left
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert len(steps) == 24
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')


def test_recovery_interval_bounds_what_a_crash_costs(six_batches, tmp_path, steps):
    flags = [*six_batches, *MODES['multimix'], '--resume', 'auto', '--recovery-interval', '2']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0

    class Crash(BaseException):
        pass

    def crash(input):
        if len(steps) == 23:
            raise Crash

    steps.before = crash
    with pytest.raises(Crash):
        train_timm.main([*flags, '--experiment', 'parts'])
    assert recoveries(tmp_path / 'parts') == ['recovery-1-1.pth.tar', 'recovery-1-3.pth.tar']
    steps.before = lambda input: None
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert len(steps) == 23 + 2
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))


def test_another_batch_size_begins_the_epoch_anew(six_batches, tmp_path, steps, caplog):
    flags = [*six_batches, '--resume', 'auto']
    steps.terminate_at = 8
    assert train_timm.main(flags) == 143 and len(steps) == 10
    assert train_timm.main([*flags, '--batch-size', '8']) == 0
    assert len(steps) == 13
    assert any('epoch 1 starts again' in record.message for record in caplog.records)
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == ['0', '1']


def test_a_position_written_by_version_0_1_begins_the_epoch_anew(six_batches, tmp_path, steps, caplog):
    """As version 0.1 wrote it: all random states as one tensor of bytes."""
    flags = [*six_batches, '--resume', 'auto']
    steps.terminate_at = 8
    assert train_timm.main(flags) == 143 and len(steps) == 10
    path, = (tmp_path / 'run').glob('recovery-*')
    checkpoint = read(path)
    del checkpoint['saver']['position']['ranks']
    checkpoint['saver']['position']['states'] = torch.zeros(1, 100, dtype=torch.uint8)
    torch.save(checkpoint, path)
    assert train_timm.main(flags) == 0
    assert len(steps) == 16
    warning, = (record.message for record in caplog.records if 'before 0.2' in record.message)
    assert 'epoch 1 starts again' in warning
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == ['0', '1']


def test_the_strength_continues_where_it_was(six_batches, tmp_path, steps, monkeypatch):
    """With --multimix-strength auto: the strength, the average that it follows, and thus the weights."""
    monkeypatch.setattr(strength, 'NOT_FITTED', 0.01)  # so few batches reach no higher accuracy
    monkeypatch.setattr(strength, 'FITTED', 0.2)
    flags = [*six_batches, '--epochs', '4', *MODES['multimix'], '--multimix-strength', 'auto', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    steps.terminate_at = 24 + 7
    assert train_timm.main([*flags, '--experiment', 'parts']) == 143
    within, = (tmp_path / 'parts').glob('recovery-*')
    stopped = read(within)['task_state']['strength']
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    parts, whole = (
        read(tmp_path / name / 'last.pth.tar')['task_state']['strength'] for name in ('parts', 'whole'))
    assert parts == whole != stopped and 0. < stopped['accuracy'] < 1. and 0. < whole['value']
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')


def test_the_signal_handler_is_restored(six_batches):
    before = signal.getsignal(signal.SIGTERM)
    assert train_timm.main([*six_batches, '--epochs', '1']) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_repeated_signal_does_not_change_the_exit_code():
    """Launchers repeat it while Python exits, which takes a while; the checkpoint is written by then."""
    program = (
        'import os, signal, torch\n'
        'from timm_multimix.training.stopping import Stopped, StopRequest\n'
        'try:\n'
        '    with StopRequest(False, torch.device("cpu")) as stop:\n'
        '        os.kill(os.getpid(), signal.SIGTERM)\n'
        '        assert stop.agreed()\n'
        '        raise Stopped\n'
        'except Stopped:\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n')
    assert subprocess.run([sys.executable, '-c', program]).returncode == 0


def test_a_program_that_continues_after_a_stop_can_be_ended():
    """One more signal is ignored, after that the program's own handler gets it."""
    received = []

    def record(number, frame):
        received.append(number)

    before = signal.signal(signal.SIGTERM, record)
    try:
        with pytest.raises(Stopped), StopRequest(False, CPU) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.agreed()
            raise Stopped
        os.kill(os.getpid(), signal.SIGTERM)
        assert not received
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_timm_reads_a_recovery_checkpoint(six_batches, tmp_path, steps):
    steps.terminate_at = 1
    assert train_timm.main(six_batches) == 143
    path, = (tmp_path / 'run').glob('recovery-*')
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path))
    assert_identical(dict(model.state_dict()), dict(read(path)['state_dict']))


def test_every_generator_is_restored():
    def draw():
        return [torch.rand(3).tolist(), np.random.randn(3).tolist(), [random.gauss(0., 1.) for _ in range(3)],
                torch.randn(5).tolist(), np.random.rand(2).tolist(), random.random()]

    draw()  # an odd number of Gaussians: each generator keeps the second of a pair
    state = get_rng_state()
    assert set(state) == {'cpu', 'numpy', 'python'}
    first = draw()
    set_rng_state(state)
    assert draw() == first
