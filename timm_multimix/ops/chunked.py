"""The exact loss in one pass over chunks of tuples, its gradient with it; peak memory does not grow with n or r.

With S the logits `[b, c]` of one position, Λ its weights `[n, b]` and Y the targets `[b, c]`, the loss is

    sum_k logsumexp((ΛS)_k)  -  sum_k (ΛY)_k · (ΛS)_k

and, the second term being bilinear in Λ, it needs the Gram matrix G = ΛᵀΛ `[b, b]` alone: sum_ij G_ij (Y_i · S_j).
The first term and its gradient Λᵀ softmax(ΛS) come from one visit to each chunk of mixed logits, which is then
overwritten by the next. So the gradient is ready when the loss is, and nothing of size n x c is kept for backward.
"""
from typing import Iterable, Optional, Tuple

import torch

# Mixed logits held at a time. The CPU is fastest when a chunk stays in its cache, a GPU when it fills every core.
_CHUNK_ELEMENTS = {'cpu': 1 << 18}
_CHUNK_ELEMENTS_ACCELERATOR = 1 << 25
_MIN_CHUNK_ROWS = 64  # below this many rows a matrix product is bound by memory


def chunked_cross_entropy(
        logits: torch.Tensor,
        target: torch.Tensor,
        weight_blocks: Iterable[torch.Tensor],
        label_smoothing: float = 0.,
) -> torch.Tensor:
    """Soft cross-entropy of mixed logits against mixed targets, mean over tuples and positions.

    Arguments as in `reference_cross_entropy`; only `logits` receives a gradient, and only a first one.
    """
    need_grad = torch.is_grad_enabled() and logits.requires_grad
    anchor = logits[:0].clone()  # empty, but in the graph of the logits: see _FirstOrderOnly
    return _ChunkedCrossEntropy.apply(logits, anchor, target, weight_blocks, label_smoothing, need_grad)


class _ChunkedCrossEntropy(torch.autograd.Function):

    @staticmethod
    def forward(ctx, logits, anchor, target, weight_blocks, label_smoothing, need_grad):
        loss, grad = _loss_and_grad(logits, target, weight_blocks, label_smoothing, need_grad)
        ctx.save_for_backward(grad, anchor)
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        return _FirstOrderOnly.apply(grad_output, *ctx.saved_tensors), None, None, None, None, None


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

    chunk = _chunk_shape(logits)
    for weights in weight_blocks:
        weights = weights.to(logits.dtype)
        num_tuples += weights.shape[1]
        gram.baddbmm_(weights.transpose(1, 2), weights)
        total_weight += weights.sum(dim=1)
        logsumexp += _add_logsumexp(logits, weights, target_mass, grad, chunk)

    if num_tuples == 0:
        raise ValueError('weights must hold at least one tuple (n >= 1), got none')
    target_term = _add_target_term(logits, target, gram, total_weight, label_smoothing, grad)
    count = num_positions * num_tuples
    if grad is not None:
        grad /= count
    return (logsumexp - target_term) / count, grad


def _add_logsumexp(logits, weights, target_mass, grad, chunk):
    """Sum of mass_k * logsumexp((ΛS)_k) over all rows of `weights`; adds its derivative to `grad`."""
    total = logits.new_zeros(())
    chunk_positions, chunk_tuples = chunk
    for j in range(0, weights.shape[0], chunk_positions):
        for k in range(0, weights.shape[1], chunk_tuples):
            lam = weights[j:j + chunk_positions, k:k + chunk_tuples]
            mixed = lam @ logits[j:j + chunk_positions]  # [r', n', c]
            peak = mixed.amax(dim=-1, keepdim=True)
            exp = mixed.sub_(peak).exp_()
            exp_sum = exp.sum(dim=-1, keepdim=True)
            row = exp_sum.log() + peak  # [r', n', 1]
            if target_mass is not None:
                mass = (lam @ target_mass).unsqueeze(-1)
                row, lam = row * mass, lam * mass
            total += row.sum()
            if grad is not None:
                # the softmax's division moves to the smaller factor
                grad[j:j + chunk_positions].baddbmm_((lam / exp_sum).transpose(1, 2), exp)
    return total


def _add_target_term(logits, target, gram, total_weight, label_smoothing, grad):
    """Sum of (ΛY)_k · (ΛS)_k over all tuples, through the Gram matrix; subtracts its derivative from `grad`."""
    if target.ndim == 2:
        pull = gram @ target  # [r, b, c]
        if grad is not None:
            grad -= pull
        return (pull * logits).sum()
    target = target.long()
    on_value, off_value = 1. - label_smoothing, label_smoothing / logits.shape[-1]
    gram = gram * on_value
    if grad is not None:
        grad.index_add_(2, target, gram, alpha=-1.)
        if label_smoothing:
            grad -= off_value * total_weight.unsqueeze(-1)
    term = (gram * logits.index_select(2, target)).sum()
    if label_smoothing:
        term = term + off_value * (total_weight * logits.sum(dim=-1)).sum()
    return term


def _chunk_shape(logits: torch.Tensor) -> Tuple[int, int]:
    """How many positions and how many tuples to mix at a time."""
    num_classes = logits.shape[-1]
    budget = _CHUNK_ELEMENTS.get(logits.device.type, _CHUNK_ELEMENTS_ACCELERATOR)
    rows = max(budget // num_classes, _MIN_CHUNK_ROWS)
    if logits.device.type == 'cpu':
        return 1, rows
    return max(rows // 1024, 1), min(rows, 1024)
