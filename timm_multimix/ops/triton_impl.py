"""The pass over the tuples by Triton kernels that never write mixed logits: see `triton_kernels`."""
from functools import partial
from types import ModuleType
from typing import Optional

import torch

from ..checks import UsageError
from .one_pass import one_pass_cross_entropy
from .saturate import SUM_SCALE


def check_triton(logits: torch.Tensor) -> ModuleType:
    """Return the kernels.

    Raises:
        ValueError: If Triton cannot be imported, or the logits are not float32 on a CUDA device.
    """
    try:
        from . import triton_kernels
    except ImportError as error:
        raise UsageError(f"implementation='triton' needs triton, which cannot be imported ({error})") from error
    if logits.dtype != torch.float32 or not (logits.is_cuda or triton_kernels.INTERPRETED):
        raise UsageError(
            "implementation='triton' needs logits of float32 (or lower) on a CUDA device, "
            f'got {logits.dtype} on {logits.device}')
    return triton_kernels


def add_logsumexp_tiled(
        logits: torch.Tensor, weights: torch.Tensor, mass: Optional[torch.Tensor], grad: Optional[torch.Tensor],
) -> torch.Tensor:
    """See `one_pass.AddLogsumexp`. Uses TF32 if `torch.set_float32_matmul_precision` allows it."""
    triton_kernels = check_triton(logits)
    precision = 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'
    logsumexp = triton_kernels.mixed_logsumexp(logits, weights, precision)
    scale = torch.ones_like(logsumexp) if mass is None else weights @ mass
    if grad is not None:
        triton_kernels.add_softmax(logits, weights, logsumexp, scale, grad, precision)
    return (logsumexp.mul_(SUM_SCALE) * scale).sum()


tiled_cross_entropy = partial(one_pass_cross_entropy, add_logsumexp_tiled)
