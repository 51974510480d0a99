"""The exact loss in one pass over chunks of tuples, its gradient with it; peak memory does not grow with n or r.

With S the logits `[b, c]` of one position, Λ its weights `[n, b]` and Y the targets `[b, c]`, the loss is

    sum_k logsumexp((ΛS)_k)  -  sum_k (ΛY)_k · (ΛS)_k

and, the second term being bilinear in Λ, it needs the Gram matrix G = ΛᵀΛ `[b, b]` alone: sum_ij G_ij (Y_i · S_j).
The first term and its gradient Λᵀ softmax(ΛS) come from one visit to each chunk of mixed logits, which is then
overwritten by the next. So the gradient is ready when the loss is, and nothing of size n x c is kept for backward.

A teacher with logits S' adds the targets P' = softmax(ΛS'). Their term sum_k P'_k · (ΛS)_k = sum(ΛᵀP' ⊙ S) needs only
ΛᵀP' `[b, c]`, which is also its derivative and is summed up chunk by chunk on the same visit.
"""
from typing import Iterable, Optional, Tuple

import torch

from .saturate import SUM_SCALE, saturate

# Mixed logits held at a time. The CPU is fastest when a chunk stays in its cache, a GPU when it fills every core.
_CHUNK_ELEMENTS = {'cpu': 1 << 18}
_CHUNK_ELEMENTS_ACCELERATOR = 1 << 25
_MIN_CHUNK_ROWS = 64  # below this many rows a matrix product is bound by memory


def chunked_cross_entropy(
        logits: torch.Tensor,
        target: torch.Tensor,
        weight_blocks: Iterable[torch.Tensor],
        label_smoothing: float = 0.,
        teacher_logits: Optional[torch.Tensor] = None,
        gamma: float = 1.,
) -> torch.Tensor:
    """Soft cross-entropy of mixed logits against mixed targets, mean over tuples and positions.

    Arguments as in `reference_cross_entropy`; only `logits` receives a gradient, and only a first one.
    """
    need_grad = torch.is_grad_enabled() and logits.requires_grad
    anchor = logits[:0].clone()  # empty, but in the graph of the logits: see _FirstOrderOnly
    return _ChunkedCrossEntropy.apply(
        logits, anchor, target, weight_blocks, label_smoothing, teacher_logits, gamma, need_grad)


class _ChunkedCrossEntropy(torch.autograd.Function):

    @staticmethod
    def forward(ctx, logits, anchor, target, weight_blocks, label_smoothing, teacher_logits, gamma, need_grad):
        loss, grad = _loss_and_grad(logits, target, weight_blocks, label_smoothing, teacher_logits, gamma, need_grad)
        ctx.save_for_backward(grad, anchor)
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        return _FirstOrderOnly.apply(grad_output, *ctx.saved_tensors), *(None,) * 7


class _FirstOrderOnly(torch.autograd.Function):
    """`grad_output * grad`, which refuses to be differentiated: `grad` is a constant here, in truth it is not.

    `anchor` makes the result depend on the logits in the eyes of autograd, so that a second derivative comes by here.
    """

    @staticmethod
    def forward(ctx, grad_output, grad, anchor):
        return grad_output * grad

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "the fast MultiMix loss has no second derivatives; pass implementation='reference' to get them")


def _loss_and_grad(
        logits: torch.Tensor,
        target: torch.Tensor,
        weight_blocks: Iterable[torch.Tensor],
        label_smoothing: float,
        teacher_logits: Optional[torch.Tensor],
        gamma: float,
        need_grad: bool,
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    num_positions, batch_size, num_classes = logits.shape
    grad = torch.zeros_like(logits, memory_format=torch.contiguous_format) if need_grad else None
    gram = logits.new_zeros(num_positions, batch_size, batch_size)
    total_weight = logits.new_zeros(num_positions, batch_size)  # sum of λ_ki over the tuples k
    logsumexp = logits.new_zeros(())
    num_tuples = 0
    target_mass = None
    if target.ndim == 2:
        target = target.to(logits.dtype) * (1. - label_smoothing) + label_smoothing / num_classes
        target_mass = target.sum(dim=1)  # [b], the factor of logsumexp: 1 for a distribution, not for a multi-hot row
        if teacher_logits is not None:
            target_mass = gamma * target_mass + (1. - gamma)
    teacher_pull = None if teacher_logits is None else torch.zeros_like(logits)  # [r, b, c], Λᵀ P'

    chunk = _chunk_shape(logits)
    for weights in weight_blocks:
        weights = weights.to(logits.dtype)
        num_tuples += weights.shape[1]
        gram.baddbmm_(weights.transpose(1, 2), weights)
        total_weight += weights.sum(dim=1)
        logsumexp += _add_logsumexp(logits, weights, target_mass, grad, teacher_logits, teacher_pull, chunk)

    if num_tuples == 0:
        raise ValueError('weights must hold at least one tuple (n >= 1), got none')
    if teacher_logits is not None:
        gram, total_weight = gamma * gram, gamma * total_weight
    target_term = _add_target_term(logits, target, gram, total_weight, label_smoothing, grad)
    if teacher_logits is not None:
        teacher_pull *= 1. - gamma
        if grad is not None:
            grad -= teacher_pull
        target_term = target_term + (teacher_pull.mul_(SUM_SCALE) * logits).sum()
    count = num_positions * num_tuples
    if grad is not None:
        grad /= count
    return saturate((logsumexp - target_term) / count / SUM_SCALE), grad


def _add_logsumexp(logits, weights, target_mass, grad, teacher_logits, teacher_pull, chunk):
    """Sum of mass_k * logsumexp((ΛS)_k) over all rows of `weights`, scaled; adds its derivative to `grad`.

    Adds Λᵀ softmax(ΛS') to `teacher_pull` where there is a teacher.
    """
    total = logits.new_zeros(())
    chunk_positions, chunk_tuples = chunk
    for j in range(0, weights.shape[0], chunk_positions):
        for k in range(0, weights.shape[1], chunk_tuples):
            here = slice(j, j + chunk_positions)
            lam = weights[here, k:k + chunk_tuples]
            if teacher_logits is not None:
                _add_softmax(lam, *_exp_of_mixed(lam, teacher_logits[here])[:2], teacher_pull[here])
            exp, exp_sum, peak = _exp_of_mixed(lam, logits[here])
            row = exp_sum.log().add_(peak).mul_(SUM_SCALE)  # [r', n', 1]
            if target_mass is not None:
                mass = (lam @ target_mass).unsqueeze(-1)
                row, lam = row * mass, lam * mass
            total += row.sum()
            if grad is not None:
                _add_softmax(lam, exp, exp_sum, grad[here])
            del exp  # before the next chunk is made
    return total


def _exp_of_mixed(lam, logits):
    """exp(ΛS - peak) `[r', n', c]` of a chunk, its sum over the classes and the peak, `[r', n', 1]` each."""
    mixed = lam @ logits
    peak = mixed.amax(dim=-1, keepdim=True)
    exp = mixed.sub_(peak).exp_()
    return exp, exp.sum(dim=-1, keepdim=True), peak


def _add_softmax(lam, exp, exp_sum, total):
    """Adds Λᵀ softmax to `total`; the softmax's division moves to the smaller factor."""
    total.baddbmm_((lam / exp_sum).transpose(1, 2), exp)


def _add_target_term(logits, target, gram, total_weight, label_smoothing, grad):
    """Sum of (ΛY)_k · (ΛS)_k over all tuples, scaled, through the Gram matrix; subtracts its derivative from `grad`."""
    if target.ndim == 2:
        pull = gram @ target  # [r, b, c]
        if grad is not None:
            grad -= pull
        return (pull.mul_(SUM_SCALE) * logits).sum()
    target = target.long()
    on_value, off_value = 1. - label_smoothing, label_smoothing / logits.shape[-1]
    gram = gram * on_value
    if grad is not None:
        grad.index_add_(2, target, gram, alpha=-1.)
        if label_smoothing:
            grad -= off_value * total_weight.unsqueeze(-1)
    term = (gram.mul_(SUM_SCALE) * logits.index_select(2, target)).sum()
    if label_smoothing:
        term = term + off_value * (total_weight * (logits * SUM_SCALE).sum(dim=-1)).sum()
    return term


def _chunk_shape(logits: torch.Tensor) -> Tuple[int, int]:
    """How many positions and how many tuples to mix at a time."""
    num_classes = logits.shape[-1]
    budget = _CHUNK_ELEMENTS.get(logits.device.type, _CHUNK_ELEMENTS_ACCELERATOR)
    rows = max(budget // num_classes, _MIN_CHUNK_ROWS)
    if logits.device.type == 'cpu':
        return 1, rows
    return max(rows // 1024, 1), min(rows, 1024)
