"""A run that is stopped, interrupted or killed continues, and ends as an uninterrupted one, bit for bit."""
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

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
STRENGTH, WITH_AVERAGE = '--mixup-mode multimix --multimix-strength auto', '--mixup-mode multimix --model-ema'
QUICK = [STRENGTH, '--workers 2 --reprob 0.5 --remode pixel']
LONG = ['dense and cutmix', '--no-prefetcher --grad-accum-steps 2', '--mixup 1 --sched-on-updates --warmup-epochs 1',
        '--reprob 0.5 --model-ema --opt adamw', 'distilled']


@pytest.mark.parametrize('more, at', [
    (WITH_AVERAGE, 11), *((more, 8) for more in QUICK), *(pytest.param(*case, marks=SLOW) for case in (
        (WITH_AVERAGE, 5), *((more, 8) for more in LONG), *((more, 1) for more in (*QUICK, *LONG))))])
def test_a_stopped_run_continues_exactly(more, at, six_batches, tmp_path, steps, monkeypatch):
    """In the first or the second epoch, or at the end of one, which is still validated: draws, data, averages,
    strength and schedule are those of an uninterrupted run."""
    monkeypatch.setattr(strength, 'NOT_FITTED', 0.01)  # so few batches reach no higher accuracy
    monkeypatch.setattr(strength, 'FITTED', 0.2)
    flags = [*six_batches, *MODES.get(more, more.split()), '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    assert len(steps) == 12
    steps.terminate_at = 12 + at
    assert train_timm.main([*flags, '--experiment', 'parts']) == 143
    accum = 2 if '--grad-accum-steps' in more else 1
    done = min((at // accum + 2) * accum, (at // 6 + 1) * 6)  # the rest of that update and one more, if there is one
    assert len(steps) == 12 + done
    epoch, batch = divmod(done - 1, 6)
    assert recoveries(tmp_path / 'parts') == [f'recovery-{epoch}-{batch // accum}.pth.tar']
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert len(steps) == 24
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')
    assert not recoveries(tmp_path / 'parts')
    if more == STRENGTH:
        risen = strength.AdaptiveStrength()
        risen.set_extra_state(final_state(tmp_path / 'whole')['task_state']['strength'])
        assert risen.value > 0.


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


@pytest.mark.parametrize('more, trained', [(['--batch-size', '8'], 3), ([], 6)], ids=['batch size', 'version'])
def test_with_another_batch_size_or_version_the_epoch_begins_anew(more, trained, six_batches, tmp_path, steps, caplog):
    flags = [*six_batches, '--resume', 'auto']
    steps.terminate_at = 8
    assert train_timm.main(flags) == 143 and len(steps) == 10
    path, = (tmp_path / 'run').glob('recovery-*')
    checkpoint = read(path)
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path))
    assert_identical(dict(model.state_dict()), dict(checkpoint['state_dict']))
    if not more:  # as version 0.1 wrote it: all random states as one tensor of bytes
        del checkpoint['saver']['position']['ranks']
        checkpoint['saver']['position']['states'] = torch.zeros(1, 100, dtype=torch.uint8)
        torch.save(checkpoint, path)
    assert train_timm.main([*flags, *more]) == 0
    assert len(steps) == 10 + trained
    assert 'epoch 1 starts again' in caplog.text and ('before 0.2' in caplog.text) == (not more)
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == ['0', '1']


def test_the_signal_handler_is_restored(six_batches):
    before = signal.getsignal(signal.SIGTERM)
    assert train_timm.main([*six_batches, '--epochs', '1']) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_repeated_signal_does_not_change_the_exit_code():
    """Launchers repeat it while Python exits, which takes a while; the checkpoint is written by then."""
    def program():
        try:
            with StopRequest(False, CPU) as stop:
                os.kill(os.getpid(), signal.SIGTERM)
                assert stop.agreed()
                raise Stopped
        except Stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    process = multiprocessing.get_context('fork').Process(target=program)
    process.start()
    process.join()
    assert process.exitcode == 0


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


@pytest.mark.parametrize('mode, workers', [
    ('dense and cutmix', '0'), ('distilled', '0'), *(pytest.param(*case, marks=SLOW) for case in (
        ('one view', '0'), ('exact mixupe', '0'), *((mode, '2') for mode in (
            'plain', 'mixup', 'multimix', 'dense and cutmix', 'mixupe'))))])
def test_a_resumed_run_is_bit_identical(mode, workers, flags, tmp_path, epochs_run):
    """Crops, flips, CutMix, dropout, tuples, order of the images, teacher and mean image continue where they were."""
    flags = [*flags, *MODES[mode], '--epochs', '3', '--workers', workers, '--drop', '0.2', '--resume', 'auto']
    flags += [] if mode == 'distilled' else ['--model-ema']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 1
    assert train_timm.main([*flags, '--experiment', 'parts']) == 130
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')


@pytest.mark.slow
def test_killed_at_random_moments_every_resume_works(flags, tmp_path):
    """After each of thirty kill -9 the run continues from a whole checkpoint; it ends as an uninterrupted one."""
    flags = [*flags, *MODES['multimix'], '--epochs', '40', '--resume', 'auto', '--checkpoint-hist', '3',
             '--recovery-interval', '2', '--model-ema']
    folder = tmp_path / 'run'
    rng = random.Random(0)
    progress = []
    for _ in range(30):
        # the delay counts from the start of training, where every epoch takes some tenths of a second
        with open(tmp_path / 'log', 'w+') as log:
            run = subprocess.Popen([sys.executable, '-m', 'train_timm', *flags], stdout=log, stderr=log)
            while 'Train: ' not in (tmp_path / 'log').read_text() and run.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0., 1.))
            run.send_signal(signal.SIGKILL)
            run.wait()
        text = (tmp_path / 'log').read_text()
        assert 'Traceback' not in text and ': error:' not in text and 'damaged' not in text, text
        for name in os.listdir(folder):
            if name.endswith('.pth.tar') and 'tmp' not in name:
                assert 'state_dict' in read(folder / name), name
        progress.append(read(folder / 'last.pth.tar')['epoch'] if (folder / 'last.pth.tar').exists() else -1)
    print(f'Last whole epoch after each of {len(progress)} kills: {progress}')
    assert progress == sorted(progress) and progress[0] < progress[-1]
    assert train_timm.main(flags) == 0
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    assert_identical(final_state(folder), final_state(tmp_path / 'whole'))
    assert not (tmp_path / 'run-1').exists()
    assert rows_of(folder) == rows_of(tmp_path / 'whole')
    assert [row['epoch'] for row in rows_of(folder)] == [*map(str, range(40))]
