"""The loss as the paper writes it, on materialised mixed logits and with autograd: slow and plain.

The fast implementations are compared with it. Only this one is differentiable in all inputs, the weights among them.
"""
from dataclasses import dataclass
from typing import Iterable, Optional

import torch

from .saturate import saturate


@dataclass(frozen=True)
class LossParams:
    """Targets and settings of one loss, passed unchanged from `functional` to an implementation.

    Args:
        target: `[b]` class indices or `[b, c]` soft targets.
        label_smoothing: Share of every target that is spread over all classes.
        teacher_logits: `[r, b, c]`, in the dtype of the student's logits; None for no teacher.
        gamma: Weight γ of the targets if there is a teacher.
    """
    target: torch.Tensor
    label_smoothing: float = 0.
    teacher_logits: Optional[torch.Tensor] = None
    gamma: float = 1.

    def soft_target(self, logits: torch.Tensor) -> torch.Tensor:
        """Return smoothed targets `[b, c]` in the dtype of the logits."""
        target = self.target if self.target.ndim == 1 else self.target.to(logits.dtype)
        return smooth_labels(target, logits.shape[-1], self.label_smoothing, dtype=logits.dtype)


def smooth_labels(
        target: torch.Tensor, num_classes: int, smoothing: float, *, multi_label: bool = False, dtype: torch.dtype,
) -> torch.Tensor:
    """Return soft targets with label smoothing, see `functional.soft_targets`; nothing is checked."""
    off_value = 0.5 * smoothing if multi_label else smoothing / num_classes
    if target.ndim == 2:
        if not smoothing:
            return target
        return target.to(torch.promote_types(target.dtype, torch.float32)) * (1. - smoothing) + off_value
    soft = torch.full((len(target), num_classes), off_value, dtype=dtype, device=target.device)
    return soft.scatter_(1, target.long().unsqueeze(1), 1. - smoothing + off_value)


def reference_cross_entropy(
        logits: torch.Tensor, weight_blocks: Iterable[torch.Tensor], params: LossParams) -> torch.Tensor:
    """Soft cross-entropy of mixed logits against mixed targets, mean over tuples and positions.

    With a teacher it is γ·H(ΛY, p) + (1 - γ)·H(p', p), where p' is the softmax of the teacher's mixed logits, without
    gradient (arXiv 2206.14868, section 3.3).

    Args:
        logits: `[r, b, c]`, float32 or float64.
        weight_blocks: Tensors `[r, n', b]`, at least one, whose n' add up to n.
        params: Targets, label smoothing and teacher.
    """
    weights = torch.cat([block.to(logits.dtype) for block in weight_blocks], dim=1)
    mixed_logits = weights @ logits  # [r, n, c]
    mixed_target = weights @ params.soft_target(logits)
    if params.teacher_logits is not None:
        teacher = (weights.detach() @ params.teacher_logits.detach()).softmax(dim=-1)
        mixed_target = params.gamma * mixed_target + (1. - params.gamma) * teacher
    return -(mixed_target * saturate(mixed_logits.log_softmax(dim=-1))).sum(dim=-1).mean()
