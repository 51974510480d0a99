"""Memory of a process, and measurements in separate processes."""
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable
from unittest.mock import patch

import torch

MIB = 2 ** 20
RETURN_FREED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')
"""For `run_apart`: freed memory returns to the system at once, so the resident set is what is in use."""


def run_apart(function: Callable, *args: Any, **environ: str) -> Any:
    """Call a module-level function in a fresh process, so that memory left by others is not measured."""
    context = multiprocessing.get_context('spawn')
    with patch.dict(os.environ, environ), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def peak_mib(work: Callable[[], Any], device: torch.device) -> float:
    """Peak memory during `work` minus what was in use before: of the resident set, or of CUDA's allocator."""
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
    """Resident set of this process in bytes."""
    return _status('VmRSS')


def _status(name: str) -> int:
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))
