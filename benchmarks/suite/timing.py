"""Timing of work, medians with quartiles, and the peak rates of this machine."""
import statistics
import time
from typing import Any, Callable, Dict, List

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the work launched on a GPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Mean time of `times` calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / times


def quartiles(name: str, values: List[float]) -> Dict[str, Any]:
    """Return the median as `name`, and the quartiles as `name`_quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {name: middle, f'{name}_quartiles': [low, high]}


def peak_flops(device: torch.device, repeats: int = 7) -> float:
    """FLOP/s of a large float32 matrix product, under the precision that torch is set to."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2. * size ** 3 / _best(lambda: a @ b, device, repeats)


def peak_bandwidth(device: torch.device, repeats: int = 7) -> float:
    """Bytes/s, read and written, of a copy too large for any cache."""
    source = torch.ones(1 << (30 if device.type == 'cuda' else 26), device=device)
    target = torch.empty_like(source)
    return 2. * source.numel() * source.element_size() / _best(lambda: target.copy_(source), device, repeats)


def _best(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    return min([seconds_of(work, device) for _ in range(repeats + 1)][1:])  # the first is a warm-up
