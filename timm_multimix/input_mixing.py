"""The choice of what is mixed in each batch; Mixup and CutMix of the images, with timm's meaning."""
import math
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from .checks import UsageError, check_number
from .sampling import numpy_generator
from .strength import AdaptiveStrength, create_strength, share_of


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
        mixup_alpha: Mixup is active if > 0; its λ ~ Beta(mixup_alpha, mixup_alpha).
        cutmix_alpha: CutMix is active if > 0; its λ ~ Beta(cutmix_alpha, cutmix_alpha).
        cutmix_minmax: CutMix with box sides of (min, max) shares of the image's sides instead; active if not None.
        prob: Probability that a batch is mixed at all, as in timm.
        switch_prob: Probability of CutMix instead of Mixup if both are active.
        correct_lam: Correct CutMix's λ if the border of the image clips the box.
        input_prob: Probability that a mixed batch has its images mixed, not its embeddings.
        strength: Factor of `prob`, in [0, 1], or 'auto': it follows how far the training images are fitted, see
            `AdaptiveStrength`, and only batches that are not mixed have label smoothing.
        multi_label: Targets have several labels, which 'auto' does not support.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
            self,
            mixup_alpha: float = 0.,
            cutmix_alpha: float = 0.,
            cutmix_minmax: Optional[Sequence[float]] = None,
            prob: float = 1.,
            switch_prob: float = 0.5,
            correct_lam: bool = True,
            input_prob: float = 0.5,
            strength: Union[float, str] = 1.,
            multi_label: bool = False,
    ):
        self.mixup_alpha = check_number('mixup_alpha', mixup_alpha)
        self.cutmix_alpha = check_number('cutmix_alpha', cutmix_alpha)
        if cutmix_minmax is not None:
            self.cutmix_alpha = 1.
            pair = isinstance(cutmix_minmax, (tuple, list)) and len(cutmix_minmax) == 2
            if not pair or not 0. <= cutmix_minmax[0] < cutmix_minmax[1] <= 1.:
                raise UsageError(f'cutmix_minmax must be (min, max) with 0 <= min < max <= 1, got {cutmix_minmax!r}')
        self.cutmix_minmax = cutmix_minmax
        self.prob = check_number('prob', prob, high=1.)
        self.switch_prob = check_number('switch_prob', switch_prob, high=1.)
        self.correct_lam = correct_lam
        if input_prob == 'auto':
            raise UsageError("input_prob must be a number, got 'auto', which strength='auto' replaces")
        self.input_prob = check_number('input_prob', input_prob, high=1.)
        self.strength = create_strength(strength, multi_label)

    @property
    def is_active(self) -> bool:
        """True if Mixup or CutMix of the images is active."""
        return self.mixup_alpha > 0. or self.cutmix_alpha > 0.

    @property
    def is_adaptive(self) -> bool:
        """True for strength 'auto'."""
        return isinstance(self.strength, AdaptiveStrength)

    @property
    def is_random(self) -> bool:
        """True if `draw` may return different choices."""
        return self.prob < 1. or self.is_active or self.strength != 1.

    CHOICES = ('embeddings', 'images', 'none')

    @torch.compiler.disable  # numpy's generator
    def draw(self) -> str:
        """Draw what is mixed in the next batch: 'embeddings', 'images' or 'none'."""
        if not self.is_random:
            return 'embeddings'
        mixed, kind = numpy_generator().random(2)
        if mixed >= self.prob * share_of(self.strength):
            return 'none'
        return 'images' if self.is_active and kind < self.input_prob else 'embeddings'

    @torch.compiler.disable
    def mix(self, images: torch.Tensor) -> MixedImages:
        """Mix images `[b, ch, h, w]` with those in the order b - 1, ..., 0, by one λ for all."""
        rng = numpy_generator()
        cuts = self.cutmix_alpha > 0. and (not self.mixup_alpha or rng.random() < self.switch_prob)
        alpha = self.cutmix_alpha if cuts else self.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if not cuts:
            return MixedImages(images * lam + images.flip(0) * (1. - lam), lam)
        height, width = images.shape[-2:]
        top, bottom, left, right = self._box(height, width, lam, rng)
        if self.correct_lam or self.cutmix_minmax is not None:
            lam = 1. - (bottom - top) * (right - left) / (height * width)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        return MixedImages(mixed, lam)

    def _box(self, height: int, width: int, lam: float, rng: np.random.Generator) -> Tuple[int, int, int, int]:
        """Draw top, bottom, left and right: of area 1 - λ around a random pixel, or with sides by `cutmix_minmax`."""
        sides = ()
        for size in (height, width):
            if self.cutmix_minmax is None:
                side = int(size * math.sqrt(1. - lam))
                middle = int(rng.integers(size))
                sides += max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)
            else:
                low, high = (int(size * share) for share in self.cutmix_minmax)
                side = int(rng.integers(low, max(high, low + 1)))
                start = int(rng.integers(size - side + 1))
                sides += start, start + side
        return sides

    def observe(self, logits: Optional[torch.Tensor], target: torch.Tensor) -> None:
        """Pass strength 'auto' the logits of a batch whose images were not mixed; None if they were mixed."""
        if self.is_adaptive:
            self.strength.observe(logits, target)

    def state_dict(self) -> Dict[str, Dict[str, float]]:
        """Return what resuming needs: the state of strength 'auto'; {} for a fixed one."""
        return {'strength': self.strength.get_extra_state()} if self.is_adaptive else {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if self.is_adaptive and 'strength' in state:
            self.strength.set_extra_state(state['strength'])

    def metrics(self) -> Dict[str, float]:
        """Return the current strength of 'auto' and the accuracy that it follows; {} for a fixed strength."""
        return {'strength': self.strength.value, 'fit': self.strength.accuracy} if self.is_adaptive else {}

    def __str__(self) -> str:
        strength = ', strength auto' if self.is_adaptive else f', strength {self.strength:g}'
        prob = ('' if self.prob == 1. else f', prob {self.prob:g}') + ('' if self.strength == 1. else strength)
        if not self.is_active:
            return f'no image mixing{prob}'
        kinds = [f'Mixup (mixup_alpha {self.mixup_alpha:g})'] if self.mixup_alpha else []
        if self.cutmix_minmax is not None:
            kinds.append(f'CutMix (cutmix_minmax {tuple(self.cutmix_minmax)})')
        elif self.cutmix_alpha:
            kinds.append(f'CutMix (cutmix_alpha {self.cutmix_alpha:g})')
        share = 100. * self.input_prob * self.prob * (1. if self.is_adaptive else self.strength)
        switch = f', switch_prob {self.switch_prob:g}' if len(kinds) == 2 else ''
        up_to = 'up to ' if self.is_adaptive else ''
        return f'{" or ".join(kinds)} of the images on {up_to}{share:g} % of the batches{switch}{prob}'
