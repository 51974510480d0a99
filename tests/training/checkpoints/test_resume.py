"""An interrupted run ends as an uninterrupted one, and a kill leaves whole checkpoints."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import train_timm
from tests.support.training_runs import MODES, rows_of
from tests.support.training_states import assert_identical, final_state, read


@pytest.mark.parametrize('mode, workers', [
    ('mixup', '0'), ('dense and cutmix', '2'),
    *(pytest.param(mode, '2', marks=pytest.mark.slow) for mode in ('plain', 'mixup', 'multimix'))])
def test_a_resumed_run_is_bit_identical(mode, workers, flags, tmp_path, epochs_run):
    """Random crops, flips, CutMix, dropout, tuples and the order of the images all continue where they were."""
    flags = [*flags, *MODES[mode], '--epochs', '3', '--workers', workers, '--model-ema',
             '--drop', '0.2', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 1
    assert train_timm.main([*flags, '--experiment', 'parts']) == 130
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))


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
