"""An interrupted run ends as an uninterrupted one, and a kill leaves whole checkpoints."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import train_timm
from tests.training.checkpoints import assert_identical, final_state, read
from tests.training.test_train import MODES


@pytest.mark.parametrize('workers', ['0', '2'])
@pytest.mark.parametrize('mode', ['plain', 'mixup', 'multimix', 'dense and cutmix'])
def test_a_resumed_run_is_bit_identical(mode, workers, flags, tmp_path, epochs_run):
    """Random crops, flips, CutMix, dropout, tuples and the order of the images: all go on where they were."""
    flags = [*flags, *MODES[mode], '--epochs', '3', '--workers', workers, '--model-ema',
             '--drop', '0.2', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 1
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))


@pytest.mark.slow
def test_killed_at_random_moments_every_resume_works(flags, tmp_path):
    """kill -9, ten times; each run goes on from a whole checkpoint, and in the end all epochs are there."""
    flags = [*flags, *MODES['multimix'], '--epochs', '12', '--resume', 'auto', '--checkpoint-hist', '3']
    folder = tmp_path / 'run'
    rng = random.Random(0)
    for _ in range(10):
        run = subprocess.Popen([sys.executable, '-m', 'train_timm', *flags], stderr=subprocess.PIPE, text=True)
        time.sleep(rng.uniform(4., 9.))
        run.send_signal(signal.SIGKILL)
        error = run.communicate()[1]
        assert 'Traceback' not in error and ': error:' not in error, error
        for name in os.listdir(folder) if folder.exists() else ():
            if name.endswith('.pth.tar') and not name.startswith('tmp'):
                assert 'state_dict' in read(folder / name), name
    assert train_timm.main(flags) == 0
    assert read(folder / 'last.pth.tar')['epoch'] == 11
    assert not (tmp_path / 'run-1').exists()
    rows = (folder / 'summary.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['epoch', *map(str, range(12))]


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['plain', 'dense and cutmix'])
def test_two_processes_resume_too(mode, tmp_path):
    flags = (
        '--dataset digits --model test_resnet --num-classes 10 --input-size 3 32 32 --epochs 2 --batch-size 64 '
        '--workers 0 --device cpu --model-ema --drop 0.2 --resume auto').split()

    def run(experiment, *more):
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=29519',
            train_timm.__file__, *flags, *MODES[mode], '--output', str(tmp_path), '--experiment', experiment, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    run('whole')
    run('parts', '--stop-epoch', '1')
    run('parts')
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
