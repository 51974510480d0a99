"""The equations of MixupE: Mixup of the images with a stronger first-order term.

Source: Zou et al., "MixupE: Understanding and Improving Mixup from Directional Derivative Perspective", UAI 2023,
arXiv 2212.13381. Symbols: logits f_i, targets y_i, p_i = softmax(f_i), Jacobian J_i of f at x_i, mean image μ.

Averaged over pairs, Mixup moves x_i by the share a = 1 - λ towards another image r, λ ~ Beta(α + 1, α), and keeps y_i.
The derivative of cross-entropy by f_i is p_i - y_i, so to first order

    L_mix ≈ L - E[a]·mean_i q_i,     q_i = (y_i - p_i)ᵀ J_i (μ - x_i),     E[a] = α / (2α + 1).

MixupE adds the second term once more, times η. The fast version uses q_i = (y_i - p_i)ᵀ f_i instead, in which y_i - p_i
is a constant: its gradient is that of cross-entropy on the clean images. The authors' release also differentiates
y_i - p_i in its version 3, the one that its README runs, but not in its other versions. Both signs are those of the
release. The fast q_i does not estimate the exact one: J_i (μ - x_i) is -f_i if f is homogeneous and μ = 0.
"""
from typing import Callable, Iterable, Optional, Tuple

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..checks import UsageError
from ..distributed import num_processes
from ..functional import at_least_float32


def mixupe_loss(
        mixed_loss: torch.Tensor, terms: torch.Tensor, alpha: float, eta: float, threshold: Optional[float] = None,
) -> torch.Tensor:
    """Return L_mix - η·α / (2α + 1)·mean_i q_i, scaled to the size of L_mix by a factor without gradient.

    The terms are q, `[b]`; those not below the threshold count as 0.
    """
    if threshold is not None:
        terms = torch.where(terms < threshold, terms, 0.)
    loss = mixed_loss - eta * alpha / (2. * alpha + 1.) * terms.mean()
    scale = torch.where(loss == 0., 1., (mixed_loss / loss).abs())
    return loss * scale.detach()


def fast_terms(logits: torch.Tensor, target: torch.Tensor, residual_grad: bool = False) -> torch.Tensor:
    """Return q_i = (y_i - p_i)ᵀ f_i, `[b]`, for logits and targets `[b, c]`.

    The first factor has a gradient only with `residual_grad`.
    """
    residual = target - logits.softmax(dim=-1)
    return ((residual if residual_grad else residual.detach()) * logits).sum(dim=-1)


def exact_terms(
        model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor,
        target: Callable[[torch.Tensor], torch.Tensor], mean_image: torch.Tensor,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return logits and q_i = (y_i - p_i)ᵀ J_i (μ - x_i), `[b]`, by a backward pass that is itself differentiable.

    If examples depend on each other, as under batch norm in train mode, only the mean of q_i is exact: it is then the
    derivative for all images moving together.

    Args:
        model: From images to logits `[b, c]`.
        images: x, `[b, ch, h, w]`.
        target: From logits to targets `[b, c]`.
        mean_image: μ, `[ch, h, w]`.
    """
    images = images.detach().requires_grad_()
    # in full precision, because small gradients do not survive float16; fused attention has no second derivative
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        logits = model(images)
        projected = fast_terms(at_least_float32(logits), target(logits)).sum()
        gradient, = torch.autograd.grad(projected, images, create_graph=differentiable)
    if not differentiable:
        logits = logits.detach()
    direction = mean_image.to(images) - images.detach()
    return logits, (at_least_float32(gradient) * direction).flatten(1).sum(dim=1)


@torch.no_grad()
def average_image(loader: Iterable, device: torch.device) -> torch.Tensor:
    """Return the mean `[ch, h, w]` of all images of a loader of (images, target), over all processes."""
    mean, count = 0., 0
    for images, _ in loader:
        images = at_least_float32(images.to(device))
        count += images.shape[0]
        mean = mean + (images.mean(dim=0) - mean) * (images.shape[0] / count)
    if count == 0:
        raise UsageError('loader must yield at least one batch, got none')
    if num_processes() > 1:
        counts = mean.new_tensor(count)
        mean = mean * counts
        dist.all_reduce(mean)
        dist.all_reduce(counts)
        mean = mean / counts
    return mean
