"""The share of batches whose images are mixed, found during the run: `input_prob='auto'`."""
from typing import Dict, Optional

import torch
import torch.distributed as dist

from ._checks import UsageError, check_integer
from .tasks.gather import num_processes

_TARGET = 0.93
_DECAY = 0.95  # decay of the average, per batch
_HIGHEST = 0.6
_RISE = 0.1  # part of the run in which the share can rise from 0 to the highest


class FoundShare:
    """A share of batches that rises while the training images are fitted, and falls while they are not.

    It starts at 0. After every batch whose images were not mixed, a moving average of the accuracy of the clean logits
    (decay 0.95) is compared with 0.93: if it is higher, the share rises by one step, else it falls by one, between 0
    and 0.6. The step is 0.6 / (0.1·num_batches), so that runs of any length behave alike. Several processes count
    together and have one share.

    Args:
        num_batches: Number of training batches >= 1 of the whole run, per process; may be set before the first batch.
    """

    def __init__(self, num_batches: Optional[int] = None):
        self.num_batches = None if num_batches is None else check_integer('num_batches', num_batches)
        self.share = 0.
        self.accuracy = 0.
        self._counts: Optional[torch.Tensor] = None  # counts of the last batch, read when the next one is drawn

    @torch.no_grad()
    def observe(self, logits: Optional[torch.Tensor], target: torch.Tensor) -> None:
        """Count the batch.

        Args:
            logits: `[b, c]` of unmixed images; None for mixed images, for which all processes must call this too.
            target: `[b]` class indices or `[b, c]` soft targets, of which the largest entry counts.
        """
        self.settle()
        counts = torch.zeros(2, device=target.device)
        if logits is not None:
            labels = target if target.ndim == 1 else target.argmax(dim=1)
            counts[0] = (logits.argmax(dim=1) == labels).sum()
            counts[1] = len(labels)
        if num_processes() > 1:
            dist.all_reduce(counts)
        self._counts = counts

    def settle(self) -> None:
        """Let the last batch count; done one batch later so as not to wait for an accelerator."""
        if self._counts is None:
            return
        if self.num_batches is None:
            raise UsageError("input_prob='auto' needs num_batches, the training batches of the whole run, got None")
        (hits, count), self._counts = self._counts.tolist(), None
        if count:
            self.accuracy = _DECAY * self.accuracy + (1. - _DECAY) * hits / count
            step = _HIGHEST / (_RISE * self.num_batches)
            self.share += step if self.accuracy > _TARGET else -step
            self.share = min(max(self.share, 0.), _HIGHEST)

    def state_dict(self) -> Dict[str, float]:
        self.settle()
        return dict(share=self.share, accuracy=self.accuracy)

    def load_state_dict(self, state: Dict[str, float]) -> None:
        self.share, self.accuracy = state['share'], state['accuracy']
        self._counts = None
