"""The same seed gives the same weights, again and with any number of workers."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import train_timm
from tests.support.training_runs import MODES, loaders_of
from tests.support.training_states import assert_identical, final_state
from timm_multimix.training.data.sample_seeds import SeededSamples, seed_samples

# these use every generator: crops and flips, jitter, AutoAugment, random erasing, dropout
AUGMENTED = ['--aa', 'rand-m9-mstd0.5-inc1', '--reprob', '0.5', '--drop', '0.2', '--model-ema']
LOADERS = {
    'no prefetcher': ['--no-prefetcher'],
    'sizes': ['--train-img-sizes', '32', '48'],
    'splits': ['--aug-splits', '2', '--jsd-loss'],
    'gaussian blur': ['--gaussian-blur-prob', '0.5', '--grayscale-prob', '0.5', '--color-jitter-prob', '0.5'],
}


def weights(flags, folder, name, *more):
    assert train_timm.main([*flags, *AUGMENTED, '--experiment', name, *more]) == 0
    return final_state(folder / name)


def test_the_same_seed_gives_the_same_weights(flags, tmp_path):
    """Without workers and with two; another seed gives different weights."""
    flags = [*flags, *MODES['distilled']]
    first = weights(flags, tmp_path, 'first')
    assert_identical(weights(flags, tmp_path, 'two workers', '--workers', '2'), first)
    with pytest.raises(AssertionError):
        assert_identical(weights(flags, tmp_path, 'other seed', '--seed', '43', '--epochs', '1'), first)


@pytest.mark.slow
@pytest.mark.parametrize('workers', ['0', '1', '2', '3'])
@pytest.mark.parametrize('mode', [*MODES, *LOADERS])
def test_any_number_of_workers_gives_the_same_weights(mode, workers, flags, tmp_path):
    flags = [*flags, *{**MODES, **LOADERS}[mode]]
    first, again = (weights(flags, tmp_path, name, '--workers', n) for name, n in (('first', '0'), ('again', workers)))
    assert_identical(again, first)


class Draws(Dataset):
    """A dataset of draws from each generator."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return random.random(), np.random.rand(), torch.rand(()).item()


def test_samples_differ_and_epochs_differ():
    dataset = SeededSamples(Draws(), 0)
    first = [dataset[i] for i in range(5)]
    assert [dataset[i] for i in reversed(range(5))] == first[::-1], 'the order does not matter'
    dataset.set_epoch(1)
    draws = first + [dataset[i] for i in range(5)] + [SeededSamples(Draws(), 1)[i] for i in range(5)]
    for values in zip(*draws):
        assert len(set(values)) == 15


def test_the_generators_of_training_are_left_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = Draws()[0]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    SeededSamples(Draws(), 0)[3]
    assert Draws()[0] == expected


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize('more', [
    [], ['--aug-repeats', '3'], ['--use-multi-epochs-loader'], ['--worker-seeding', 'part']], ids=' '.join)
def test_samples_are_seeded_only_if_seeds_cannot_repeat(more, flags, monkeypatch):
    """They would repeat if an image comes twice in an epoch, or workers are not told the epoch; a stream has none."""
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 1)
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda *_: 0)
    (loader, _), *_ = loaders_of([*flags, *more], distributed='--aug-repeats' in more)
    assert isinstance(loader.dataset, SeededSamples) == (not more)
    stream = DataLoader(Stream())
    seed_samples(stream, 0)
    assert isinstance(stream.dataset, Stream)
