"""Common corruptions (after Hendrycks and Dietterich 2019) by torchvision's transforms, at three strengths."""
from typing import Callable, Dict, Tuple

import torch
from torchvision.transforms import v2

STRENGTHS: Dict[str, Tuple[float, float, float]] = {
    'noise': (0.04, 0.08, 0.12),
    'blur': (0.5, 1.0, 1.5),
    'contrast': (0.6, 0.4, 0.2),
    'jpeg': (50, 25, 10),
}
"""Mild to strong, by corruption: standard deviation of the noise, for pixels in [0, 1]; standard deviation of the blur,
in pixels; factor of the contrast; quality of JPEG."""


def corrupt(pixels: torch.Tensor, name: str, strength: float, seed: int = 0) -> torch.Tensor:
    """Corrupt images `[n, 3, h, w]` in [0, 1], and round them to 8 bits as in a file."""
    if name not in STRENGTHS:
        raise ValueError(f'name must be one of {", ".join(STRENGTHS)}, got {name!r}')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchvision's noise takes no generator
        return _TRANSFORMS[name](pixels, strength).clamp(0., 1.).mul(255.).round().div(255.)


def _jpeg(pixels: torch.Tensor, strength: float) -> torch.Tensor:
    transform = v2.JPEG(int(strength))
    return torch.stack([transform(image) for image in pixels.mul(255.).round().to(torch.uint8)]).float() / 255.


_TRANSFORMS: Dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = dict(
    noise=lambda pixels, strength: v2.GaussianNoise(sigma=strength)(pixels),
    blur=lambda pixels, strength: v2.GaussianBlur(2 * round(3. * strength) + 1, sigma=strength)(pixels),
    contrast=v2.functional.adjust_contrast,
    jpeg=_jpeg,
)
