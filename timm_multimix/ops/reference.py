"""The loss as the paper writes it, on materialised mixed logits and with autograd: slow and plain.

The fast implementations are compared with it. Only this one is differentiable in all inputs, the weights among them.
"""
from dataclasses import dataclass
from typing import Iterable, Optional

import torch
import torch.nn.functional as F

from .saturate import saturate


@dataclass(frozen=True)
class LossParams:
    """Targets and settings of one loss, passed unchanged from `functional` to an implementation.

    Args:
        target: `[b]` class indices or `[b, c]` soft targets.
        label_smoothing: Share of every target that is spread over all classes.
        teacher_logits: `[r, b, c]`, in the dtype of the student's logits; None for no teacher.
        gamma: Weight γ of the targets beside a teacher.
    """
    target: torch.Tensor
    label_smoothing: float = 0.
    teacher_logits: Optional[torch.Tensor] = None
    gamma: float = 1.


def reference_cross_entropy(
        logits: torch.Tensor,
        weight_blocks: Iterable[torch.Tensor],
        params: LossParams,
) -> torch.Tensor:
    """Soft cross-entropy of mixed logits against mixed targets, mean over tuples and positions.

    With a teacher it is γ·H(ΛY, p) + (1 - γ)·H(p', p), where p' is the softmax of the teacher's mixed logits, without
    gradient (arXiv 2206.14868, section 3.3).

    Args:
        logits: `[r, b, c]`, float32 or float64.
        weight_blocks: Tensors `[r, n', b]`, at least one, whose n' add up to n.
        params: Targets, label smoothing and teacher.
    """
    num_classes, target = logits.shape[-1], params.target
    if target.ndim == 1:
        target = F.one_hot(target.long(), num_classes)
    target = target.to(logits.dtype) * (1. - params.label_smoothing) + params.label_smoothing / num_classes
    weights = torch.cat([block.to(logits.dtype) for block in weight_blocks], dim=1)
    mixed_logits = weights @ logits  # [r, n, c]
    mixed_target = weights @ target
    if params.teacher_logits is not None:
        teacher = (weights.detach() @ params.teacher_logits.detach()).softmax(dim=-1)
        mixed_target = params.gamma * mixed_target + (1. - params.gamma) * teacher
    return -(mixed_target * saturate(mixed_logits.log_softmax(dim=-1))).sum(dim=-1).mean()
