"""Signals, and the death of one of two processes; each test prints the seconds that it took (shown by pytest -s)."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train_timm
from tests.support.training_runs import MODES, rows_of
from tests.support.training_states import assert_identical, final_state, free_port, read
from timm_multimix.training.runtime import FORKS_MAY_HANG

pytestmark = pytest.mark.slow

# enough batches that a signal arrives during training
FLAGS = (
    '--dataset digits --model test_resnet --num-classes 10 --input-size 3 32 32 --batch-size 16 --workers 1 '
    '--lr 0.01 --device cpu --log-interval 1 --resume auto --experiment run').split()


class Run:
    """train_timm.py in separate processes: one for each of `environments`, or two under torchrun."""

    def __init__(self, tmp_path, *more, mode=MODES['multimix'], environments=(None,), torchrun=False):
        command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone']
        command = command if torchrun else [sys.executable]
        command += [train_timm.__file__, *FLAGS, *mode, '--output', str(tmp_path)]
        if FORKS_MAY_HANG and (torchrun or len(environments) > 1):
            command += ['--workers', '0']
        command += more
        self.files = [open(tmp_path / f'log-{index}', 'w+') for index in range(len(environments))]
        self.processes = [
            subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, 'PYTHONPATH': '.', **(environment or {})})
            for file, environment in zip(self.files, environments)]

    def text(self, index=0):
        self.files[index].seek(0)
        return self.files[index].read()

    def wait_for(self, pattern, index=0, seconds=180):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text(index)):
            assert time.monotonic() < end and self.processes[index].poll() is None, self.text(index)
            time.sleep(0.05)

    def end(self, index=0, seconds=120):
        """Return the exit code and the seconds until the process ended."""
        start = time.monotonic()
        code = self.processes[index].wait(timeout=seconds)
        return code, time.monotonic() - start

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for file in self.files:
            file.close()


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(*args, **kwargs):
        runs.append(Run(tmp_path, *args, **kwargs))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def two_by_hand(port):
    """Return the environments that srun gives two processes; no launcher watches over them."""
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2')
    return [dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def children_of(run):
    done = subprocess.run(['pgrep', '-P', str(run.processes[0].pid)], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def workers_of(run):
    """Return the pids of the two processes that torchrun has started, by rank."""
    environments = {pid: '\0' + Path(f'/proc/{pid}/environ').read_text() for pid in children_of(run)}
    found = {pid: re.search(r'\0RANK=(\d)', text) for pid, text in environments.items()}
    ranks = {int(match.group(1)): pid for pid, match in found.items() if match}
    assert set(ranks) == {0, 1}
    return ranks


def test_sigterm_ends_with_code_143_and_nothing_is_lost(start, tmp_path):
    """The signal goes to the run and the workers of its loader, and to the run a second time."""
    run = start('--epochs', '2', '--workers', '2')
    run.wait_for(r'Train: 1 \[ +5/')
    for pid in [run.processes[0].pid, *children_of(run)]:
        os.kill(pid, signal.SIGTERM)
    run.processes[0].send_signal(signal.SIGTERM)
    code, seconds = run.end()
    print(f'SIGTERM to exit: {seconds:.1f} s')
    assert code == 143 and seconds < 30., run.text()
    assert 'Traceback' not in run.text()
    assert list((tmp_path / 'run').glob('recovery-1-*'))
    assert start('--epochs', '2', '--workers', '2').end()[0] == 0
    assert start('--epochs', '2', '--workers', '2', '--experiment', 'whole').end()[0] == 0
    assert_identical(final_state(tmp_path / 'run'), final_state(tmp_path / 'whole'))


@pytest.mark.parametrize('launcher, flags', [
    ('torchrun', []),
    ('by hand', []),
    ('by hand', ['--multimix-teacher-decay', '0.9', '--mixup', '1', '--multimix-strength', 'auto']),
], ids=['torchrun', 'by hand', 'teacher and strength'])
def test_sigterm_stops_two_processes_together_and_they_continue(launcher, flags, start, tmp_path):
    """Both stop at the same update, and together continue from there."""
    def launch(*more):
        if launcher == 'torchrun':
            return start('--epochs', '2', *flags, *more, torchrun=True)
        return start('--epochs', '2', *flags, *more, environments=two_by_hand(free_port()))

    run = launch()
    run.wait_for(r'Train: 0 \[ +0/')  # early: they ask each other after updates 1, 3, 7, 15, 31 of the epoch's 45
    for process in run.processes:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # the second comes some updates later, or when both are ending already
    ended = [run.end(index) for index in range(len(run.processes))]
    print(f'SIGTERM to exit of two processes, {launcher}: {max(seconds for _, seconds in ended):.1f} s')
    assert all(seconds < 30. for _, seconds in ended)
    if launcher == 'by hand':  # torchrun itself ends with code 1 after every signal
        assert [code for code, _ in ended] == [143, 143], run.text() + run.text(1)
    assert 'Stopped by SIGTERM' in run.text()
    assert list((tmp_path / 'run').glob('recovery-0-*')), run.text()
    for more in ([], ['--experiment', 'whole']):
        run = launch(*more)
        assert [run.end(index)[0] for index in range(len(run.processes))] == [0] * len(run.processes), run.text()
    assert_identical(final_state(tmp_path / 'run'), final_state(tmp_path / 'whole'))


@pytest.mark.parametrize('launcher', ['torchrun', 'by hand'])
@pytest.mark.parametrize('rank', [0, 1])
def test_when_one_of_two_is_killed_the_other_ends(launcher, rank, start, tmp_path):
    if launcher == 'torchrun':
        run = start('--epochs', '50', torchrun=True)
        run.wait_for(r'Train: 1 \[ +5/')
        os.kill(workers_of(run)[rank], signal.SIGKILL)
        code, seconds = run.end()
    else:
        run = start('--epochs', '50', environments=two_by_hand(free_port()))
        run.wait_for(r'Train: 1 \[ +5/')
        run.processes[rank].kill()
        code, seconds = run.end(1 - rank)
        assert 'Traceback' in run.text(1 - rank)
    print(f'kill -9 of process {rank} of two, {launcher}: all ended after {seconds:.1f} s')
    assert code not in (0, None) and seconds < 60.
    for path in (tmp_path / 'run').glob('*.pth.tar'):
        assert 'tmp' in path.name or 'state_dict' in read(path), path
    assert read(tmp_path / 'run' / 'last.pth.tar')['epoch'] == 0


@pytest.mark.parametrize('mode', ['dense and cutmix', 'distilled', 'mixupe', 'exact mixupe'])
def test_two_processes_may_draw_differently(mode, start, tmp_path):
    """Each decides for itself whether to mix; the metrics are still summed over both."""
    run = start('--epochs', '1', '--mixup-prob', '0.5', mode=MODES[mode], torchrun=True)
    assert run.end()[0] == 0, run.text()
    row, = rows_of(tmp_path / 'run')
    assert 0. < float(row['train_loss']) < 10. and 0. < float(row.get('train_mixed_loss', 1.)) < 10.


@pytest.mark.parametrize('failing', [0, 1])
def test_a_failure_at_the_start_of_one_process_ends_both(failing, start, tmp_path):
    """They are started by hand, so that only the processes themselves can end each other."""
    if failing == 0:
        (tmp_path / 'file').write_text('')
        more = ['--output', str(tmp_path / 'file')]
    else:
        more = []
    environments = two_by_hand(free_port())
    if failing == 1:  # scikit-learn cannot be imported there
        (tmp_path / 'broken' / 'sklearn').mkdir(parents=True)
        (tmp_path / 'broken' / 'sklearn' / '__init__.py').write_text('raise ImportError("not here")')
        environments[1]['PYTHONPATH'] = f'{tmp_path}/broken:.'
    run = start('--epochs', '1', *more, environments=environments)
    ended = [run.end(index) for index in range(2)]
    print(f'One of two fails at the start: both ended after {max(seconds for _, seconds in ended):.1f} s')
    assert [code for code, _ in ended] == [2, 2], run.text() + run.text(1)
    assert 'another process could not start' in run.text(1 - failing)
    assert ('--output' if failing == 0 else 'dataset digits needs scikit-learn') in run.text(failing)
