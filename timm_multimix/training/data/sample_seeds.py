"""Augmentation that depends only on the seed, the epoch and the image, not on the worker that draws it."""
import random
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..._timm_compat import set_dataset
from ..runtime import get_rng_state, set_rng_state


class SeededSamples(Dataset):
    """A map-style dataset that seeds the random generators for every sample.

    Without workers, samples are drawn in the training process, and the states of its generators are restored.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        with _seeded(self.seed, self.epoch, *np.atleast_1d(index)):
            return self.dataset[index]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(epoch)


def seed_samples(loader: Any, seed: int) -> None:
    """Seed every sample of a loader, except of a stream."""
    loader = getattr(loader, 'loader', loader)  # inside timm's prefetcher
    if not isinstance(loader.dataset, IterableDataset):
        set_dataset(loader, SeededSamples(loader.dataset, seed))


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    state = None if get_worker_info() else get_rng_state()
    random.seed(' '.join(map(str, numbers)))  # hashes the text, so that neighbours have nothing in common
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # not torch.manual_seed, which also seeds the GPU
    try:
        yield
    finally:
        if state is not None:
            set_rng_state(state)
