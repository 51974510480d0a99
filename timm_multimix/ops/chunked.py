"""The pass over the tuples in chunks, on any device: only one chunk of mixed logits exists at a time.

Therefore peak memory grows with neither n nor r.
"""
from functools import cache, partial
from typing import Optional, Tuple

import torch

from .one_pass import one_pass_cross_entropy
from .saturate import SUM_SCALE

# Mixed logits held at a time. The CPU is fastest when a chunk stays in its cache, a GPU when it fills every core.
_CHUNK_ELEMENTS = {'cpu': 1 << 18}
_CHUNK_ELEMENTS_ACCELERATOR = 1 << 25
_MIN_CHUNK_ROWS = 64  # below this many rows a matrix product is bound by memory


def add_logsumexp(
        logits: torch.Tensor, weights: torch.Tensor, mass: Optional[torch.Tensor], grad: Optional[torch.Tensor],
        fused: bool = False,
) -> torch.Tensor:
    """See `one_pass.AddLogsumexp`; with `fused`, torch.compile fuses the operations between the matrix products."""
    exp_of_mixed = _compiled_exp_of_mixed() if fused else _exp_of_mixed
    total = logits.new_zeros(())
    chunk_positions, chunk_tuples = _chunk_shape(logits, weights.shape[1])
    for j in range(0, weights.shape[0], chunk_positions):
        for k in range(0, weights.shape[1], chunk_tuples):
            here = slice(j, j + chunk_positions)
            lam = weights[here, k:k + chunk_tuples]
            exp, exp_sum, peak = exp_of_mixed(lam, logits[here])
            factor = lam @ mass.unsqueeze(-1) if mass is not None else None  # [r', n', 1]
            row = exp_sum.log().add_(peak).mul_(SUM_SCALE)
            total += (row if factor is None else row * factor).sum()
            if grad is not None:
                scale = exp_sum.reciprocal() if factor is None else factor / exp_sum
                if exp.shape[-1] < lam.shape[-1]:  # apply the softmax's division and the mass to the smaller factor
                    exp = exp.mul_(scale)
                else:
                    lam = lam * scale
                grad[here].baddbmm_(lam.transpose(1, 2), exp)
            del exp  # before the next chunk is made
    return total


def _exp_of_mixed(lam: torch.Tensor, logits: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return exp(ΛS - peak) `[r', n', c]` of a chunk, its sum over the classes and the peak, `[r', n', 1]` each."""
    mixed = lam @ logits
    peak = mixed.amax(dim=-1, keepdim=True)
    exp = mixed.sub_(peak).exp_()
    return exp, exp.sum(dim=-1, keepdim=True), peak


@cache
def _compiled_exp_of_mixed():
    return torch.compile(_exp_of_mixed, dynamic=True)  # one graph for all shapes of a chunk


chunked_cross_entropy = partial(one_pass_cross_entropy, add_logsumexp)
compiled_cross_entropy = partial(one_pass_cross_entropy, partial(add_logsumexp, fused=True))


def _chunk_shape(logits: torch.Tensor, num_tuples: int) -> Tuple[int, int]:
    """Return how many positions and how many tuples to mix at a time."""
    num_classes = logits.shape[-1]
    budget = _CHUNK_ELEMENTS.get(logits.device.type, _CHUNK_ELEMENTS_ACCELERATOR)
    rows = max(budget // num_classes, _MIN_CHUNK_ROWS)
    if logits.device.type == 'cpu':
        return max(rows // num_tuples, 1), rows
    return max(rows // 1024, 1), min(rows, 1024)
