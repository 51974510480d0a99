"""Peak rates of this machine: floating-point operations and bytes per second, as measured."""
import time
from typing import Callable

import torch


def peak_flops(device: torch.device, repeats: int = 7) -> float:
    """FLOP/s of a large float32 matrix product, under the precision that torch is set to."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2. * size ** 3 / _best(lambda: a @ b, device, repeats)


def peak_bandwidth(device: torch.device, repeats: int = 7) -> float:
    """Bytes/s, read and written, of a copy that no cache holds."""
    source = torch.ones(1 << (30 if device.type == 'cuda' else 26), device=device)
    target = torch.empty_like(source)
    return 2. * source.numel() * source.element_size() / _best(lambda: target.copy_(source), device, repeats)


def synchronize(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _best(function: Callable, device: torch.device, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
