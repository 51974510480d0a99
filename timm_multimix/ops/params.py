"""The part of the loss that is the same for every implementation."""
from dataclasses import dataclass
from typing import Optional

import torch


@dataclass(frozen=True)
class LossParams:
    """Targets and settings of one loss, passed on as they are from `functional` to an implementation.

    Args:
        target: `[b]` class indices or `[b, c]` soft targets.
        label_smoothing: Share of every target that is spread over all classes.
        teacher_logits: `[r, b, c]`, in the dtype of the student's logits; None for no teacher.
        gamma: Weight γ of the targets, where there is a teacher.
    """
    target: torch.Tensor
    label_smoothing: float = 0.
    teacher_logits: Optional[torch.Tensor] = None
    gamma: float = 1.
