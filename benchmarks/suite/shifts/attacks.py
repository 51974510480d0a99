"""Attacks in the l-inf ball: FGSM (Goodfellow et al. 2015) and PGD (Madry et al. 2018)."""
from typing import Callable, Optional

import torch
import torch.nn.functional as F


def pgd(
        model: Callable,
        pixels: torch.Tensor,
        target: torch.Tensor,
        eps: float,
        steps: int,
        step_size: float,
        random_start: bool = True,
        generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Signed gradient ascent on the cross-entropy, projected onto the ball around `pixels` and onto [0, 1].

    One step of size eps without a random start is FGSM.

    Args:
        model: Maps pixels in [0, 1] to logits; in eval mode, so that images do not depend on each other.
        pixels: `[b, 3, h, w]` in [0, 1].
        target: `[b]` true classes.
        eps: Radius, in units of the pixels.
        steps: Number of steps.
        step_size: Change of every pixel in one step.
        random_start: Start at a uniform point of the ball, not at its centre.
        generator: Source of the random start, on the CPU.

    Returns:
        `[b, 3, h, w]` in [0, 1], at most eps from `pixels`: the last point, not the best one.
    """
    low, high = (pixels - eps).clamp(min=0.), (pixels + eps).clamp(max=1.)
    attacked = pixels.detach()
    if random_start:
        noise = torch.rand(pixels.shape, generator=generator).to(pixels)
        attacked = (pixels + eps * (2. * noise - 1.)).clamp(0., 1.)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        loss = F.cross_entropy(model(attacked), target, reduction='sum')
        gradient, = torch.autograd.grad(loss, attacked)
        attacked = torch.clamp(attacked.detach() + step_size * gradient.sign(), low, high)
    return attacked
