"""Top-1 under attacks in l-inf balls, by FGSM (Goodfellow et al. 2015) and PGD (Madry et al. 2018), and corruptions.

Attacks are on pixels in [0, 1], the normalisation is part of the attacked model. PGD starts at a random point, without
restarts. Corruptions are torchvision's (after Hendrycks and Dietterich 2019), each at three strengths.
"""
import argparse
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ..records import check_least
from .subject import Subject

SETTINGS = ('eps', 'step', 'steps', 'images')
STRENGTHS: Dict[str, Tuple[float, ...]] = {
    'noise': (0.04, 0.08, 0.12),
    'blur': (0.5, 1.0, 1.5),
    'contrast': (0.6, 0.4, 0.2),
    'jpeg': (50, 25, 10),
}
"""Mild to strong, by corruption: standard deviation of the noise, for pixels in [0, 1]; standard deviation of the blur,
in pixels; factor of the contrast; quality of JPEG."""


def add_arguments(parser: Any) -> None:
    parser.add_argument('--eps', type=float, nargs='+', default=[1, 2, 4, 8], help='radii, in 255ths (1 2 4 8)')
    parser.add_argument('--step', type=float, help='step of PGD, in 255ths (a quarter of the radius)')
    parser.add_argument('--steps', type=int, default=10, help='steps of PGD (%(default)s)')


def measure(subject: Subject, args: argparse.Namespace) -> Dict[str, Any]:
    """Top-1 in percent of the same images, clean, under each attack, and under each corruption at each strength."""
    check_least(args, steps=1, eps=0, step=0)
    changes: Dict[Tuple[str, ...], Callable] = {('top1',): lambda pixels, labels, index: pixels}
    for eps in args.eps:
        step = (eps / 4. if args.step is None else args.step) / 255.
        generator = torch.Generator().manual_seed(0)
        changes['attacks', 'fgsm', f'{eps:g}'] = (
            lambda pixels, labels, index, radius=eps / 255.: pgd(
                subject.model, pixels, labels, radius, 1, radius, random_start=False))
        changes['attacks', 'pgd', f'{eps:g}'] = (
            lambda pixels, labels, index, radius=eps / 255., step=step, generator=generator: pgd(
                subject.model, pixels, labels, radius, args.steps, step, generator=generator))
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            changes['corruptions', name, f'{strength:g}'] = (
                lambda pixels, labels, index, name=name, strength=strength: corrupt(pixels, name, strength, index))
    images, hits = 0, dict.fromkeys(changes, 0)
    for index, (pixels, labels) in enumerate(subject.batches(subject.images(), args.images or None)):
        images += len(labels)
        for key, change in changes.items():
            hits[key] += int((subject.logits(change(pixels, labels, index)).argmax(dim=-1) == labels).sum())
    result: Dict[str, Any] = dict(images=images)
    for key, count in hits.items():
        *parents, name = key
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = 100. * count / images
    return result


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

    One step of size eps without a random start is FGSM. `model` maps pixels in [0, 1] to logits; it is in eval mode, so
    that images do not depend on each other. The start is uniform in the ball, by `generator` (on the CPU).

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


def corrupt(pixels: torch.Tensor, name: str, strength: float, seed: int = 0) -> torch.Tensor:
    """Corrupt images `[n, 3, h, w]` in [0, 1], and round them to 8 bits as in a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchvision's noise takes no generator
        return _TRANSFORMS[name](pixels.cpu(), strength).clamp(0., 1.).mul(255.).round().div(255.).to(pixels)


def _jpeg(pixels: torch.Tensor, strength: float) -> torch.Tensor:
    transform = v2.JPEG(int(strength))
    return torch.stack([transform(image) for image in pixels.mul(255.).round().to(torch.uint8)]).float() / 255.


_TRANSFORMS: Dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = dict(
    noise=lambda pixels, strength: v2.GaussianNoise(sigma=strength)(pixels),
    blur=lambda pixels, strength: v2.GaussianBlur(2 * round(3. * strength) + 1, sigma=strength)(pixels),
    contrast=v2.functional.adjust_contrast,
    jpeg=_jpeg,
)
