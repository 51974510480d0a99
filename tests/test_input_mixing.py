"""How often batches are mixed and in which way, and images mixed as in timm's Mixup."""
import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data import Mixup

from timm_multimix import Settings
from timm_multimix.functional import soft_targets
from timm_multimix.input_mixing import InputMixing


def shares(mixing, draws=4000):
    torch.manual_seed(0)
    return {what: count / draws for what, count in collections.Counter(mixing.draw() for _ in range(draws)).items()}


@pytest.mark.parametrize('kwargs, expected', [
    ({}, dict(embeddings=1.)),
    (dict(prob=0.7), dict(none=0.3, embeddings=0.7)),
    (dict(mixup_alpha=1.), dict(images=0.5, embeddings=0.5)),
    (dict(cutmix_alpha=1., input_prob=0.3), dict(images=0.3, embeddings=0.7)),
    (dict(cutmix_minmax=(0.2, 0.8), input_prob=0.3, prob=0.8), dict(none=0.2, images=0.24, embeddings=0.56)),
    (dict(mixup_alpha=1., cutmix_alpha=1., input_prob=1.), dict(images=1.)),
    (dict(mixup_alpha=1., input_prob=0.), dict(embeddings=1.)),
    (dict(input_prob=1.), dict(embeddings=1.)),  # without image mixing there is nothing to share
    (dict(prob=0.), dict(none=1.)),
], ids=str)
def test_batches_are_mixed_as_often_as_asked(kwargs, expected):
    """Within four standard deviations of the binomial distribution."""
    found = shares(InputMixing(Settings(**kwargs)))
    assert set(found) == {what for what, share in expected.items() if share}
    for what, share in expected.items():
        assert abs(found[what] - share) <= 4. * math.sqrt(share * (1. - share) / 4000)


@pytest.mark.parametrize('kwargs, share', [
    *((dict(mixup_alpha=1., cutmix_alpha=1., switch_prob=prob), prob) for prob in (0., 0.25, 1.)),
    (dict(mixup_alpha=0.8, switch_prob=1.), 0.), (dict(cutmix_alpha=1., switch_prob=0.), 1.)], ids=str)
def test_switch_prob_is_the_share_of_cutmix_if_both_are_active(kwargs, share):
    mixing = InputMixing(Settings(**kwargs))
    images = torch.arange(2.).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    torch.manual_seed(0)
    # pixels after CutMix are of one image or the other, after Mixup of neither
    cut = sum(bool(((mixed == 0.) | (mixed == 1.)).all()) for mixed in (mixing.mix(images).images for _ in range(1000)))
    assert abs(cut / 1000 - share) <= 4. * math.sqrt(share * (1. - share) / 1000)


class Fixed:
    """A stand-in for numpy's generators: ours, and the global one that timm's Mixup uses."""

    def __init__(self, lam, integers=()):
        self.lam, self.drawn = lam, iter(integers)

    def beta(self, a, b, size=None):
        return self.lam

    def random(self, size=None):
        return 0. if size is None else np.zeros(size)

    rand = random

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        return low + next(self.drawn) % (high - low)

    randint = integers


@pytest.mark.parametrize('lam', [0., 0.3, 0.77, 1.])
@pytest.mark.parametrize('kwargs', [
    dict(mixup_alpha=1.), dict(cutmix_alpha=1.), dict(cutmix_alpha=1., correct_lam=False),
    dict(cutmix_minmax=(0.2, 0.7))], ids=str)
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('multi_label', [False, True])
def test_a_mixed_batch_equals_that_of_timms_mixup(multi_label, label_smoothing, kwargs, lam, monkeypatch):
    """For the same λ, box and order of the images."""
    if 'cutmix_minmax' in kwargs and lam == 1.:
        pytest.skip('timm does not mix a batch whose λ is 1, although this box does not depend on λ')
    images = torch.randn(6, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6) % 4
    if multi_label:
        target = (torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    theirs = Mixup(**{
        'mixup_alpha': 0., **kwargs, 'label_smoothing': label_smoothing, 'num_classes': 4, 'multi_label': multi_label})
    # timm draws the middle of both sides, or both lengths, before both starts; ours draws side by side
    drawn = [5, 9, 3, 2]
    fixed = Fixed(lam, drawn)
    for name in ('beta', 'rand', 'randint'):
        monkeypatch.setattr(np.random, name, getattr(fixed, name))
    expected, expected_target = theirs(images.clone(), target)

    order = [drawn[0], drawn[2], drawn[1], drawn[3]] if 'cutmix_minmax' in kwargs else drawn
    monkeypatch.setattr('timm_multimix.input_mixing.numpy_generator', lambda: Fixed(lam, order))
    mixed = InputMixing(Settings(**kwargs)).mix(images)
    torch.testing.assert_close(mixed.images, expected)
    mixed_target = mixed.mix_target(soft_targets(target, 4, label_smoothing, multi_label=multi_label))
    torch.testing.assert_close(mixed_target, expected_target)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 2 ** 32))
def test_lam_is_the_share_that_an_image_keeps(batch_size, height, width, cuts, minmax, value):
    """This holds for any size of batch and image, also odd ones; the given images are not changed."""
    cutmix = dict(cutmix_minmax=(0.3, 0.9)) if minmax else dict(cutmix_alpha=1.)
    kwargs = cutmix if cuts else dict(mixup_alpha=0.5)
    torch.manual_seed(value)
    images = torch.arange(float(batch_size)).view(-1, 1, 1, 1).expand(batch_size, 2, height, width).contiguous()
    kept = images.clone()
    mixed = InputMixing(Settings(**kwargs)).mix(images)
    assert torch.equal(images, kept) and 0. <= mixed.lam <= 1.
    values = torch.arange(float(batch_size))
    torch.testing.assert_close(
        mixed.images.mean(dim=(1, 2, 3)), values * mixed.lam + values.flip(0) * (1. - mixed.lam), rtol=1e-4, atol=1e-4)


def test_without_randomness_nothing_is_drawn():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    assert InputMixing(Settings()).draw() == 'embeddings' and torch.equal(torch.random.get_rng_state(), state)
