"""The choice of what is mixed in each batch; Mixup and CutMix of the images, with timm's meaning."""
import math
from typing import Any, Dict, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

from .sampling import numpy_generator
from .settings import Settings
from .strength import AdaptiveStrength, FixedStrength, create_strength, draw


class MixedImages(NamedTuple):
    """A batch in which image i is mixed with image b - 1 - i, and the share λ of image i."""
    images: torch.Tensor
    lam: float

    def mix_target(self, target: torch.Tensor) -> torch.Tensor:
        """Mix soft targets `[b, c]` like the images."""
        return target * self.lam + target.flip(0) * (1. - self.lam)


class InputMixing:
    """Chooses what is mixed in a batch, and mixes its images by timm's Mixup or CutMix (timm.data.Mixup, mode 'batch').

    A batch is mixed with probability `prob` · `strength`: its images with probability `input_prob` if Mixup or CutMix
    is active, else its embeddings. Unlike timm's Mixup, it accepts odd batch sizes, does not change its input and is
    seeded by `torch.manual_seed`.

    Args:
        settings: mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, correct_lam, input_prob and strength.
        strength: That of a loss, to share its average; None for one by the settings.
    """

    def __init__(self, settings: Settings, strength: Union[FixedStrength, AdaptiveStrength, None] = None):
        self.settings = settings
        self.strength = create_strength(settings.strength) if strength is None else strength

    @property
    def is_random(self) -> bool:
        """True if `draw` may return different choices."""
        return self.settings.prob < 1. or self.settings.mixes_images or self.settings.strength != 1.

    def draw(self, model: Optional[nn.Module] = None, gather: bool = False) -> str:
        """Draw what is mixed in the next batch: 'embeddings', 'images' or 'none'; see `strength.draw`."""
        if not self.is_random:
            return 'embeddings'
        settings = self.settings
        image_share = settings.input_prob if settings.mixes_images else 0.
        return draw(settings.prob * self.strength.value, image_share, model, gather)

    @torch.compiler.disable
    def mix(self, images: torch.Tensor) -> MixedImages:
        """Mix images `[b, ch, h, w]` with those in the order b - 1, ..., 0, by one λ for all."""
        rng, settings = numpy_generator(), self.settings
        cuts = settings.cutmix_alpha > 0. and (not settings.mixup_alpha or rng.random() < settings.switch_prob)
        alpha = settings.cutmix_alpha if cuts else settings.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if not cuts:
            return MixedImages(images * lam + images.flip(0) * (1. - lam), lam)
        height, width = images.shape[-2:]
        top, bottom, left, right = self._box(height, width, lam, rng)
        if settings.correct_lam or settings.cutmix_minmax is not None:
            lam = 1. - (bottom - top) * (right - left) / (height * width)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        return MixedImages(mixed, lam)

    def _box(self, height: int, width: int, lam: float, rng: np.random.Generator) -> Tuple[int, int, int, int]:
        """Draw top, bottom, left and right: of area 1 - λ around a random pixel, or with sides by `cutmix_minmax`."""
        sides = ()
        for size in (height, width):
            if self.settings.cutmix_minmax is None:
                side = int(size * math.sqrt(1. - lam))
                middle = int(rng.integers(size))
                sides += max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)
            else:
                low, high = (int(size * share) for share in self.settings.cutmix_minmax)
                side = int(rng.integers(low, max(high, low + 1)))
                start = int(rng.integers(size - side + 1))
                sides += start, start + side
        return sides

    def observe(self, logits: torch.Tensor, target: torch.Tensor, is_mixed: bool) -> bool:
        """Let strength 'auto' count a batch, see `AdaptiveStrength.observe`; True if nothing is left to count."""
        return not self.settings.is_adaptive or self.strength.observe(logits, target, is_mixed=is_mixed)

    def state_dict(self) -> Dict[str, torch.Tensor]:
        """Return what resuming needs: the state of strength 'auto'; {} for a fixed one."""
        return {'strength': self.strength.get_extra_state()} if self.settings.is_adaptive else {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if self.settings.is_adaptive and 'strength' in state:
            self.strength.set_extra_state(state['strength'])

    def metrics(self) -> Dict[str, float]:
        """Return the current strength of 'auto' and the accuracy that it follows; {} for a fixed strength."""
        return {'strength': self.strength.value, 'fit': self.strength.accuracy} if self.settings.is_adaptive else {}
