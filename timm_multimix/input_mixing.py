"""What happens to a whole batch, and CutMix of its images."""
from typing import Optional, Sequence, Tuple

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam

from ._checks import check_flag, check_number, check_pair_of_shares


class BatchSwitch:
    """What happens to a whole batch: MultiMix, CutMix or nothing, by the probabilities of timm's Mixup.

    Drawn from numpy's global generator, as timm's Mixup does.

    Args:
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix instead of MultiMix, where CutMix is active.
        cutmix_alpha: CutMix is active if > 0; its λ ~ Beta(cutmix_alpha, cutmix_alpha).
        cutmix_minmax: CutMix with a box of these (min, max) shares of the image instead, active if not None.
        correct_lam: Correct λ where the image's border clips the box.

    Raises:
        ValueError: If an argument is out of range.
    """

    CHOICES = ('multimix', 'cutmix', 'none')

    def __init__(
            self,
            prob: float = 1.,
            switch_prob: float = 0.5,
            cutmix_alpha: float = 0.,
            cutmix_minmax: Optional[Sequence[float]] = None,
            correct_lam: bool = True,
    ):
        self.prob = check_number('prob', prob, high=1.)
        self.switch_prob = check_number('switch_prob', switch_prob, high=1.)
        self.cutmix_alpha = check_number('cutmix_alpha', cutmix_alpha)
        check_pair_of_shares('cutmix_minmax', cutmix_minmax)
        if cutmix_minmax is not None:
            self.cutmix_alpha = 1.
        self.cutmix_minmax = cutmix_minmax
        self.correct_lam = check_flag('correct_lam', correct_lam)

    @property
    def is_random(self) -> bool:
        """Whether batches differ in what happens to them."""
        return self.prob < 1. or (self.cutmix_alpha > 0. and self.switch_prob > 0.)

    @torch.compiler.disable  # numpy's generator
    def draw(self) -> str:
        """'multimix', 'cutmix' or 'none' for the next batch."""
        if np.random.rand() >= self.prob:
            return 'none'
        if self.cutmix_alpha > 0. and np.random.rand() < self.switch_prob:
            return 'cutmix'
        return 'multimix'

    @torch.compiler.disable
    def cutmix(self, x: torch.Tensor) -> Tuple[torch.Tensor, float]:
        """A copy of images `[b, ch, h, w]` with one box taken from the batch in reverse order, and their λ."""
        lam = np.random.beta(self.cutmix_alpha, self.cutmix_alpha)
        (top, bottom, left, right), lam = cutmix_bbox_and_lam(
            x.shape, lam, ratio_minmax=self.cutmix_minmax, correct_lam=self.correct_lam)
        x_cut = x.clone()
        x_cut[..., top:bottom, left:right] = x.flip(0)[..., top:bottom, left:right]
        return x_cut, float(lam)
