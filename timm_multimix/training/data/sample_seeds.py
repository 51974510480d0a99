"""Augmentation that depends on the seed, the epoch and the image alone, not on which worker draws it."""
import argparse
import random
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class SeededSamples(Dataset):
    """A dataset of map style whose generators are seeded for every sample.

    With workers = 0, where samples are drawn in the process that trains, its generators are left as they were.

    Args:
        dataset: With its transforms.
        seed: The run's.
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


def seed_samples(loader: Any, args: argparse.Namespace) -> None:
    """Seed every training sample, where the same image comes but once in an epoch and workers learn of its number.

    With --worker-seeding part samples are drawn as timm draws them, whatever the worker.
    """
    loader = getattr(loader, 'loader', loader)  # in timm's prefetcher
    repeats = args.aug_repeats or args.use_multi_epochs_loader
    if isinstance(loader.dataset, IterableDataset) or repeats or args.worker_seeding == 'part':
        return
    # past the loader's own __setattr__: what it forbids would matter to its sampler, which needs the length alone
    vars(loader)['dataset'] = SeededSamples(loader.dataset, args.seed)


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    in_worker = get_worker_info() is not None
    states = None if in_worker else (random.getstate(), np.random.get_state(), torch.default_generator.get_state())
    random.seed(' '.join(map(str, numbers)))  # by a hash of the text, so that neighbours have nothing in common
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # not torch.manual_seed, which means the GPU's too
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.default_generator.set_state(states[2])
