"""The choice of what is mixed in each batch; Mixup and CutMix of the images, with timm's meaning."""
import math
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ._checks import UsageError, check_number
from .input_share import FoundShare
from .sampling import numpy_generator


class MixedImages(NamedTuple):
    """A batch in which image i is mixed with image b - 1 - i, and the share λ of image i."""
    images: torch.Tensor
    lam: float

    def mix_target(self, target: torch.Tensor) -> torch.Tensor:
        """Mix soft targets `[b, c]` like the images."""
        return target * self.lam + target.flip(0) * (1. - self.lam)


class InputMixing:
    """Chooses what is mixed in a batch, and mixes its images by timm's Mixup or CutMix (timm.data.Mixup, mode 'batch').

    With probability 1 - `prob` nothing is mixed. Otherwise the images are mixed with probability `input_prob` if Mixup
    or CutMix is active, else the embeddings. Unlike timm's Mixup, it accepts odd batch sizes, does not change its input
    and is seeded by `torch.manual_seed`.

    Args:
        mixup_alpha: Mixup is active if > 0; its λ ~ Beta(mixup_alpha, mixup_alpha).
        cutmix_alpha: CutMix is active if > 0; its λ ~ Beta(cutmix_alpha, cutmix_alpha).
        cutmix_minmax: CutMix with box sides of (min, max) shares of the image's sides instead; active if not None.
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix instead of Mixup if both are active.
        correct_lam: Correct CutMix's λ if the border of the image clips the box.
        input_prob: Probability that a mixed batch has its images mixed, not its embeddings, or 'auto': see
            `FoundShare`.
        num_batches: Number of training batches of the whole run, for 'auto'.
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
            input_prob: Union[float, str] = 0.5,
            num_batches: Optional[int] = None,
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
        self.found_share: Optional[FoundShare] = None
        self._input_prob = 0.
        if isinstance(input_prob, str):
            if input_prob != 'auto':
                raise UsageError(f"input_prob must be a number from 0 to 1 or 'auto', got {input_prob!r}")
            if not self.is_active:
                raise UsageError("input_prob='auto' needs mixup_alpha > 0, cutmix_alpha > 0 or cutmix_minmax")
            if multi_label:
                raise UsageError("input_prob must be a number with multi_label=True, got 'auto' (needs top-1 accuracy)")
            self.found_share = FoundShare(num_batches)
        elif num_batches is not None:
            raise UsageError(f"num_batches needs input_prob='auto', got {num_batches!r} with {input_prob!r}")
        else:
            self._input_prob = check_number('input_prob', input_prob, high=1.)

    @property
    def is_active(self) -> bool:
        """True if Mixup or CutMix of the images is active."""
        return self.mixup_alpha > 0. or self.cutmix_alpha > 0.

    @property
    def is_random(self) -> bool:
        """True if `draw` may return different choices."""
        return self.prob < 1. or self.is_active

    @property
    def input_prob(self) -> float:
        """The current share of mixed batches whose images are mixed."""
        fixed = self._input_prob if self.is_active else 0.
        return fixed if self.found_share is None else self.found_share.share

    CHOICES = ('embeddings', 'images', 'none')

    @torch.compiler.disable  # numpy's generator
    def draw(self) -> str:
        """Draw what is mixed in the next batch: 'embeddings', 'images' or 'none'."""
        if not self.is_random:
            return 'embeddings'
        if self.found_share is not None:
            self.found_share.settle()
        mixed, of_images = numpy_generator().random(2)
        if mixed >= self.prob:
            return 'none'
        return 'images' if of_images < self.input_prob else 'embeddings'

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

    @torch.compiler.disable
    def observe(self, logits: Optional[torch.Tensor], target: torch.Tensor) -> None:
        """Pass 'auto' the logits of a batch whose images were not mixed; None if they were mixed."""
        if self.found_share is not None:
            self.found_share.observe(logits, target)

    def state_dict(self) -> Dict[str, Dict[str, float]]:
        """Return what resuming needs: the share found by 'auto'; {} for a fixed share."""
        return {} if self.found_share is None else {'input_share': self.found_share.state_dict()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if self.found_share is not None and 'input_share' in state:
            self.found_share.load_state_dict(state['input_share'])

    def metrics(self) -> Dict[str, float]:
        """Return the current share of 'auto' and the accuracy that it follows; {} for a fixed share."""
        if self.found_share is None:
            return {}
        self.found_share.settle()
        return {'input_prob': self.found_share.share, 'fit': self.found_share.accuracy}

    def __str__(self) -> str:
        prob = '' if self.prob == 1. else f', prob {self.prob:g}'
        if not self.is_active:
            return f'no image mixing{prob}'
        kinds = [f'Mixup (mixup_alpha {self.mixup_alpha:g})'] if self.mixup_alpha else []
        if self.cutmix_minmax is not None:
            kinds.append(f'CutMix (cutmix_minmax {tuple(self.cutmix_minmax)})')
        elif self.cutmix_alpha:
            kinds.append(f'CutMix (cutmix_alpha {self.cutmix_alpha:g})')
        share = 'a share of the batches that the run finds' if self.found_share is not None else \
            f'{100. * self._input_prob * self.prob:g} % of the batches'
        switch = f', switch_prob {self.switch_prob:g}' if len(kinds) == 2 else ''
        return f'{" or ".join(kinds)} of the images on {share}{switch}{prob}'
