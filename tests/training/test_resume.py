"""An interrupted run ends as an uninterrupted one, and a kill leaves whole checkpoints."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import train_timm
from tests.training.test_train import MODES


def final_state(folder):
    checkpoint = torch.load(folder / 'last.pth.tar', weights_only=False)
    return {key: checkpoint[key] for key in ('epoch', 'state_dict', 'state_dict_ema', 'optimizer')}


def assert_identical(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_identical(x, y)
    else:
        assert a == b


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
                assert 'state_dict' in torch.load(folder / name, weights_only=False), name
    assert train_timm.main(flags) == 0
    assert torch.load(folder / 'last.pth.tar', weights_only=False)['epoch'] == 11
    assert not (tmp_path / 'run-1').exists()
    rows = (folder / 'summary.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['epoch', *map(str, range(12))]
