"""What time and memory a piece of work takes, and what the machine could do at its peak."""
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, Dict
from unittest.mock import patch

import torch

MIB = 2 ** 20
_RETURN_FREED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')  # so the resident set is in use


def seconds_of(work: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Mean time of `times` calls in a row."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_rates(device: torch.device, repeats: int = 8) -> Dict[str, float]:
    """FLOP/s of a large float32 matrix product, and bytes/s, read and written, of a copy too large for any cache."""
    def best(work: Callable[[], Any]) -> float:
        return min([seconds_of(work, device) for _ in range(repeats)][1:])  # the first is a warm-up

    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    source = torch.ones(1 << (30 if device.type == 'cuda' else 26), device=device)
    target = torch.empty_like(source)
    num_bytes = 2. * source.numel() * source.element_size()
    return dict(flops=2. * size ** 3 / best(lambda: a @ b), bandwidth=num_bytes / best(lambda: target.copy_(source)))


def run_apart(function: Callable, *args: Any) -> Any:
    """Call a module-level function in a fresh process, so that memory left by others is not measured."""
    context = multiprocessing.get_context('spawn')
    with patch.dict(os.environ, _RETURN_FREED), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes during `work` minus those in use before: of the resident set, or of CUDA's allocator."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # resets the peak
    before = resident_set()
    work()
    return resident_set('VmHWM') - before


def resident_set(name: str = 'VmRSS') -> int:
    """Resident set of this process in bytes, or its peak as 'VmHWM'."""
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))
