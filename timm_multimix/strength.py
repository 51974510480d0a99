"""How often batches are mixed: a fixed share, or one that follows how far the model fits its training images."""
from typing import Any, Dict, NamedTuple, Optional, Union

import torch
import torch.distributed as dist
import torch.nn as nn

from .checks import not_compiled
from .distributed import num_processes
from .sampling import numpy_generator

DECAY = 0.95
"""Decay of the average accuracy, per batch."""
NOT_FITTED, FITTED = 0.7, 0.95
"""Average accuracy up to which no batch is mixed, and from which all are."""
_RENEWED_EVERY = 10  # batches: reading the average makes the host wait for an accelerator


class AdaptiveStrength(nn.Module):
    """Share of the batches that are mixed, from 0 while the training images are not fitted to 1 once they are.

    It follows a, the moving average (decay 0.95, from 0) of the accuracy of the ordinary logits on the batches whose
    images were not mixed: the strength is (a - 0.7) / (0.95 - 0.7), clipped to [0, 1], and is renewed every 10 batches.
    It needs neither held-out images nor the length of the run. Several processes count together.

    It has no parameters or buffers; its state is in `state_dict()` as extra state.
    """

    def __init__(self):
        super().__init__()
        self.value = 0.
        self._accuracy = torch.zeros(())  # on the device of the targets
        self._num_batches = 0

    @torch.compiler.disable
    @torch.no_grad()
    def observe(self, logits: Optional[torch.Tensor], target: torch.Tensor) -> None:
        """Count a batch; with several processes all must call it.

        Args:
            logits: `[b, c]` of unmixed images; None if the images were mixed.
            target: `[b]` class indices or `[b, c]` soft targets, of which the largest entry counts.
        """
        counts = torch.zeros(2, device=target.device)
        if logits is not None:
            labels = target if target.ndim == 1 else target.argmax(dim=1)
            counts[0] = (logits.argmax(dim=1) == labels).sum()
            counts[1] = len(labels)
        if num_processes() > 1:
            dist.all_reduce(counts)
        average = self._accuracy.to(counts.device)
        hits, count = counts
        self._accuracy = torch.where(count > 0., DECAY * average + (1. - DECAY) * hits / count.clamp(min=1.), average)
        self._num_batches += 1
        if self._num_batches % _RENEWED_EVERY == 0:
            self.value = min(max((self.accuracy - NOT_FITTED) / (FITTED - NOT_FITTED), 0.), 1.)

    @property
    def accuracy(self) -> float:
        return float(self._accuracy)

    def get_extra_state(self) -> Dict[str, Any]:
        return dict(value=self.value, accuracy=self.accuracy, num_batches=self._num_batches)

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        self.value, self._num_batches = state['value'], state['num_batches']
        self._accuracy = torch.tensor(state['accuracy'])

    def extra_repr(self) -> str:
        return f'value={self.value:.3f}'


class FixedStrength(NamedTuple):
    """A share of the batches that stays the same."""
    value: float


def create_strength(strength: Union[float, str]) -> Union[FixedStrength, AdaptiveStrength]:
    return AdaptiveStrength() if strength == 'auto' else FixedStrength(strength)


@not_compiled('numpy draws what is mixed')
def draw(share: float, image_share: float = 0.) -> str:
    """Draw what is mixed in the next batch: 'embeddings', 'images' or 'none'.

    Args:
        share: Probability that the batch is mixed.
        image_share: Probability that in a mixed batch it is the images.
    """
    mixed, kind = numpy_generator().random(2)
    if mixed >= share:
        return 'none'
    return 'images' if kind < image_share else 'embeddings'
