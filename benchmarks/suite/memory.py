"""Memory of a process, and measurements in processes of their own."""
import os
import subprocess
import sys
from typing import Any, Callable, Sequence

import torch

MIB = 2 ** 20


def run_apart(module: str, argv: Sequence[str], **environ: str) -> str:
    """Run a benchmark in a fresh process, so that none is measured with what another left; returns the last line."""
    command = [sys.executable, '-m', module, *argv]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ, **environ))
    return done.stdout.splitlines()[-1]


RETURN_FREED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')
"""For `run_apart`: what is freed goes back to the system at once, so the resident set is what is in use."""


def peak_mib(work: Callable[[], Any], device: torch.device) -> float:
    """Peak memory during `work` over what was in use before: of the resident set, or of CUDA's allocator."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # resets the peak
    before = _status('VmRSS')
    work()
    return (_status('VmHWM') - before) / MIB


def resident_set() -> int:
    """Bytes of memory that the process has."""
    return _status('VmRSS')


def _status(name: str) -> int:
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))
