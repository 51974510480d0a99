"""How often batches are mixed: a fixed share, or one that follows how far the model fits its training images."""
from typing import NamedTuple, Optional, Union

import torch
import torch.distributed as dist
import torch.nn as nn

from .checks import UsageError, not_compiled
from .distributed import agree, num_processes, synchronizes
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
    It needs neither held-out images nor the length of the run. Several processes count together, so all must take the
    same number of steps.

    It has no parameters or buffers; its state is in `state_dict()` as extra state, a tensor.
    """

    def __init__(self):
        super().__init__()
        # on the device of the logits; not a buffer, which a cast of the model would round
        self._accuracy = torch.zeros((), dtype=torch.float32, device='cpu')
        self._renewed = 0.  # the accuracy when the strength was renewed
        self._num_batches = 0  # since then

    @property
    def value(self) -> float:
        return min(max((self._renewed - NOT_FITTED) / (FITTED - NOT_FITTED), 0.), 1.)

    @not_compiled("strength 'auto' counts batches")
    @torch.no_grad()
    def observe(self, logits: torch.Tensor, target: torch.Tensor, *, is_mixed: bool = False) -> bool:
        """Count a training batch; with several processes all must call it.

        Args:
            logits: Ordinary logits `[b, c]`. Without a gradient nothing is trained, and nothing is counted.
            target: `[b]` class indices or `[b, c]` soft targets, of which the largest entry counts.
            is_mixed: The images were mixed, so that their accuracy says nothing.

        Returns:
            Whether it was counted.

        Raises:
            ValueError: If soft targets do not sum to 1, as for several labels (not checked on every accelerator batch).
        """
        if not logits.requires_grad:
            return False
        counts = torch.zeros(2, dtype=torch.float32, device=logits.device)
        if not is_mixed:
            target = target.to(logits.device)
            if target.ndim == 2 and (target.device.type == 'cpu' or not self._num_batches):
                _check_one_class(target)
            labels = target if target.ndim == 1 else target.argmax(dim=1)
            counts[0] = (logits.argmax(dim=1) == labels).sum()
            counts[1] = len(labels)
        if num_processes() > 1:
            dist.all_reduce(counts)
        average = self._accuracy.to(counts.device)
        hits, count = counts
        self._accuracy = torch.where(count > 0., DECAY * average + (1. - DECAY) * hits / count.clamp(min=1.), average)
        self._num_batches = (self._num_batches + 1) % _RENEWED_EVERY
        if not self._num_batches:
            self._renewed = self.accuracy
        return True

    @property
    def accuracy(self) -> float:
        return float(self._accuracy)

    def get_extra_state(self) -> torch.Tensor:
        """Return the state as integers, which averages of weights do not average."""
        numbers = (self._accuracy.new_full((), number) for number in (self._renewed, self._num_batches))
        return torch.stack([self._accuracy, *numbers]).view(torch.int32)

    def set_extra_state(self, state: torch.Tensor) -> None:
        accuracy, renewed, num_batches = state.cpu().view(torch.float32)
        self._accuracy, self._renewed, self._num_batches = accuracy.clone(), float(renewed), int(num_batches)

    def extra_repr(self) -> str:
        return f'value={self.value:.3f}'


class FixedStrength(NamedTuple):
    """A share of the batches that stays the same."""
    value: float


def _check_one_class(target: torch.Tensor) -> None:
    sums = target.float().sum(dim=1)
    if bool(((sums - 1.).abs() > 0.01).any()):
        raise UsageError(
            "strength 'auto' follows top-1 accuracy, so the rows of the target must sum to 1, got sums from "
            f'{sums.min():g} to {sums.max():g}')


def create_strength(strength: Union[float, str]) -> Union[FixedStrength, AdaptiveStrength]:
    return AdaptiveStrength() if strength == 'auto' else FixedStrength(strength)


@not_compiled('numpy draws what is mixed')
def draw(share: float, image_share: float = 0., model: Optional[nn.Module] = None, gather: bool = False) -> str:
    """Draw what is mixed in the next batch: 'embeddings', 'images' or 'none'.

    Args:
        share: Probability that the batch is mixed.
        image_share: Probability that in a mixed batch it is the images.
        model: All processes mix the same if they wait for each other in its forward; None if they do not.
        gather: They wait in the loss.
    """
    mixed, kind = numpy_generator().random(2)
    index = 0 if mixed >= share else 1 + int(kind >= image_share)
    if model is not None and num_processes() > 1 and (gather or synchronizes(model)):
        index = agree(index, next(model.parameters()).device)
    return ('none', 'images', 'embeddings')[index]
