"""The exact loss and its gradient in one pass over the tuples, shared by the fast implementations.

With S the logits `[b, c]` of one position, Λ its weights `[n, b]` and Y the targets `[b, c]`, the loss is

    sum_k logsumexp((ΛS)_k)  -  sum_k (ΛY)_k · (ΛS)_k

The second term is bilinear in Λ, so it needs only the Gram matrix G = ΛᵀΛ `[b, b]`: it is sum_ij G_ij (Y_i · S_j). If
there are fewer classes than examples, it is computed from ΛᵀΛY `[b, c]` instead.
Each implementation computes the first term and its gradient Λᵀ softmax(ΛS). Loss and gradient are ready at the same
time, and nothing of size n x c is kept for backward.

A teacher with logits S' adds the targets P' = softmax(ΛS'). Their term sum_k P'_k · (ΛS)_k = sum(ΛᵀP' ⊙ S) needs only
ΛᵀP' `[b, c]`, which is also its derivative and comes from the same pass on the teacher's logits.
"""
from typing import Callable, Iterable, Optional

import torch

from .reference import LossParams
from .saturate import SUM_SCALE, saturate

AddLogsumexp = Callable[..., torch.Tensor]
"""The pass over the tuples, `(logits, weights, mass, grad)`.

Returns SUM_SCALE times the sum over all rows k of mass_k logsumexp((ΛS)_k), and adds the sum's derivative to `grad`.

Args:
    logits: S, `[r, b, c]`.
    weights: Λ, `[r, n', b]`, in the dtype of the logits.
    mass: `[b]`; mass_k is (Λ mass)_k. None for 1.
    grad: `[r, b, c]`; None if it is not needed.
"""


def one_pass_cross_entropy(
        add_logsumexp: AddLogsumexp, logits: torch.Tensor, weight_blocks: Iterable[torch.Tensor], params: LossParams,
) -> torch.Tensor:
    """Soft cross-entropy of mixed logits against mixed targets, mean over tuples and positions.

    Arguments are as in `reference_cross_entropy`. Only `logits` receives a gradient, without second derivatives.
    """
    need_grad = torch.is_grad_enabled() and logits.requires_grad
    anchor = logits[:0].clone()  # empty, but in the graph of the logits: see _FirstOrderOnly
    return _OnePassCrossEntropy.apply(logits, anchor, weight_blocks, params, need_grad, add_logsumexp)


class _OnePassCrossEntropy(torch.autograd.Function):

    @staticmethod
    def forward(ctx, logits, anchor, weight_blocks, params, need_grad, add_logsumexp):
        num_positions, batch_size, num_classes = logits.shape
        target, teacher_logits, gamma = params.target, params.teacher_logits, params.gamma
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format) if need_grad else None
        logsumexp = logits.new_zeros(())
        num_tuples = 0
        target_mass = None
        if target.ndim == 2:
            target = params.soft_target(logits)
            target_mass = target.sum(dim=1)  # [b], the factor of logsumexp: 1 for a distribution, not for multi-hot
            if teacher_logits is not None:
                target_mass = gamma * target_mass + (1. - gamma)
        teacher_pull = None if teacher_logits is None else torch.zeros_like(logits)  # [r, b, c], Λᵀ P'

        if num_classes < batch_size:
            targets = _FewClasses(logits, params.soft_target(logits) if target.ndim == 1 else target)
        else:
            targets = _GramMatrix(logits, target, params.label_smoothing)
        for weights in weight_blocks:
            weights = weights.to(logits.dtype)
            num_tuples += weights.shape[1]
            targets.add(weights)
            logsumexp += add_logsumexp(logits, weights, target_mass, grad)
            if teacher_logits is not None:
                add_logsumexp(teacher_logits, weights, None, teacher_pull)

        target_term = targets.term(grad, 1. if teacher_logits is None else gamma)
        if teacher_logits is not None:
            teacher_pull *= 1. - gamma
            if grad is not None:
                grad -= teacher_pull
            target_term = target_term + (teacher_pull.mul_(SUM_SCALE) * logits).sum()
        count = num_positions * num_tuples
        if grad is not None:
            grad /= count
        ctx.save_for_backward(grad, anchor)
        return saturate((logsumexp - target_term) / count / SUM_SCALE)

    @staticmethod
    def backward(ctx, grad_output):
        return _FirstOrderOnly.apply(grad_output, *ctx.saved_tensors), *(None,) * 5


class _FirstOrderOnly(torch.autograd.Function):
    """`grad_output * grad`, which must not be differentiated: autograd takes `grad` for a constant.

    `anchor` makes the result depend on the logits in the graph, so that a second derivative calls `backward` here.
    """

    @staticmethod
    def forward(ctx, grad_output, grad, anchor):
        return grad_output * grad

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "the fast MultiMix loss has no second derivatives; pass implementation='reference' to get them")


class _FewClasses:
    """The term of the targets, by ΛᵀΛY `[r, b, c]`, which is also its derivative."""

    def __init__(self, logits: torch.Tensor, soft_target: torch.Tensor):
        self.logits, self.target = logits, soft_target
        self.pull = torch.zeros_like(logits, memory_format=torch.contiguous_format)

    def add(self, weights: torch.Tensor) -> None:
        self.pull.baddbmm_(weights.transpose(1, 2), weights @ self.target)

    def term(self, grad: Optional[torch.Tensor], share: float) -> torch.Tensor:
        """Return SUM_SCALE times `share` times the sum of (ΛY)_k · (ΛS)_k; subtract its derivative from `grad`."""
        return _pulled(self.logits, self.pull, grad, share)


class _GramMatrix:
    """The term of the targets, by G = ΛᵀΛ `[r, b, b]`; hard labels need only b logits of an example, not all c."""

    def __init__(self, logits: torch.Tensor, target: torch.Tensor, label_smoothing: float):
        num_positions, batch_size, _ = logits.shape
        self.logits, self.target, self.label_smoothing = logits, target, label_smoothing
        self.gram = logits.new_zeros(num_positions, batch_size, batch_size)
        self.total_weight = logits.new_zeros(num_positions, batch_size)  # sum of λ_ki over the tuples k

    def add(self, weights: torch.Tensor) -> None:
        self.gram.baddbmm_(weights.transpose(1, 2), weights)
        self.total_weight += weights.sum(dim=1)

    def term(self, grad: Optional[torch.Tensor], share: float) -> torch.Tensor:
        logits, target = self.logits, self.target
        if target.ndim == 2:
            return _pulled(logits, self.gram @ target, grad, share)
        target = target.long()
        gram = self.gram.mul_(share * (1. - self.label_smoothing))
        if grad is not None:
            grad.index_add_(2, target, gram, alpha=-1.)
        off_weight = self.total_weight * (share * self.label_smoothing / logits.shape[-1])
        if grad is not None and self.label_smoothing:
            grad -= off_weight.unsqueeze(-1)
        term = (gram.mul_(SUM_SCALE) * logits.index_select(2, target)).sum()
        if self.label_smoothing:
            term = term + (off_weight * (logits @ logits.new_full((logits.shape[-1],), SUM_SCALE))).sum()
        return term


def _pulled(logits: torch.Tensor, pull: torch.Tensor, grad: Optional[torch.Tensor], share: float) -> torch.Tensor:
    if grad is not None:
        grad.sub_(pull, alpha=share)
    return (pull.mul_(SUM_SCALE * share) * logits).sum()
