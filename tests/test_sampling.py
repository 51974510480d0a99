"""`functional.sample_dirichlet` and `functional.draw_alpha`."""
import numpy as np
import pytest
import torch

from timm_multimix.functional import draw_alpha, sample_dirichlet


@pytest.mark.parametrize('concentration', ['example', 'total'])
@pytest.mark.parametrize('alpha', [0.2, 1., 5.])
@pytest.mark.parametrize('length', [2, 5])
def test_mean_and_variance_are_those_of_dirichlet(alpha, length, concentration):
    torch.manual_seed(0)
    lam = sample_dirichlet(
        40_000, 2 * length, alpha, concentration=concentration, length=length, dtype=torch.float64)
    lam = lam.gather(1, (lam > 0.).double().topk(length, dim=-1).indices)  # the members of each tuple
    total = alpha * length if concentration == 'example' else alpha
    variance = (1. / length) * (1. - 1. / length) / (total + 1.)
    torch.testing.assert_close(lam.mean(dim=0), torch.full((length,), 1. / length).double(), rtol=0.03, atol=0.)
    torch.testing.assert_close(lam.var(dim=0), torch.full((length,), variance).double(), rtol=0.05, atol=0.)


@pytest.mark.parametrize('num_examples, total, dtype', [
    (4, 2., torch.float32), (160, 0.3, torch.float32), (160, 2., torch.float64)])
def test_weights_of_tuples_are_distributed_as_numpys(num_examples, total, dtype):
    """Of few examples, and of many that share a small total, which are drawn by stick-breaking."""
    torch.manual_seed(0)
    lam = sample_dirichlet(20_000, num_examples, total, concentration='total', dtype=dtype).double()
    assert bool((lam == 0.).any()) == (num_examples == 160), 'exact zeros show that sticks were broken'
    assert (lam.sum(dim=-1) - 1.).abs().max() < (1e-6 if dtype == torch.float32 else 1e-14)
    expected = torch.from_numpy(
        np.random.default_rng(0).dirichlet(np.full(num_examples, total / num_examples), 20_000))
    for power in (2, 3):
        moments = (lam ** power).sum(dim=-1), (expected ** power).sum(dim=-1)
        torch.testing.assert_close(moments[0].mean(), moments[1].mean(), rtol=0.02, atol=0.)
        torch.testing.assert_close(moments[0].std(), moments[1].std(), rtol=0.04, atol=0.)
    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    largest, wanted = (values.topk(3, dim=-1).values.quantile(levels, dim=0) for values in (lam, expected))
    torch.testing.assert_close(largest, wanted, rtol=0.03, atol=0.01)
    uniform = torch.full((num_examples,), 1. / num_examples).double()
    torch.testing.assert_close(lam.mean(dim=0), uniform, rtol=0.35, atol=0.)


def test_all_examples_and_pairs_are_drawn_alike():
    torch.manual_seed(0)
    lam = sample_dirichlet(30_000, 6, 1., length=2)
    torch.testing.assert_close(lam.mean(dim=0), torch.full((6,), 1. / 6.), rtol=0.04, atol=0.)
    torch.testing.assert_close((lam > 0.).float().mean(dim=0), torch.full((6,), 1. / 3.), rtol=0.04, atol=0.)
    pairs = ((lam > 0.).float().t() @ (lam > 0.).float() / 30_000)[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(pairs, torch.full((30,), 1. / 15.), rtol=0.1, atol=0.)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('concentration', ['example', 'total'])
@pytest.mark.parametrize('alpha', [1e-4, 1e-8, 1e-30])
def test_tiny_alpha_is_one_hot_and_large_alpha_uniform(alpha, concentration, dtype):
    torch.manual_seed(0)
    lam = sample_dirichlet(2000, 8, alpha, concentration=concentration, dtype=dtype)
    assert lam.dtype == dtype and torch.isfinite(lam).all()
    one_hot = lam.double().max(dim=-1).values > 0.999
    assert one_hot.double().mean() > (0.99 if alpha == 1e-4 else 0.999)
    torch.testing.assert_close(lam.double().mean(dim=0), torch.full((8,), 0.125).double(), rtol=0.25, atol=0.)
    assert (sample_dirichlet(100, 5, 1. / alpha) - 0.2).abs().max() < 0.02


@pytest.mark.parametrize('num_examples', [1, 3])
def test_gamma_variates_of_zero_give_no_nan(num_examples, monkeypatch):
    class Zeros:
        """Zeros, which a float32 sampler returns about once in 1e7 draws."""

        def standard_gamma(self, shape, size, dtype):
            return np.zeros(size, dtype)

        def standard_exponential(self, size, dtype):
            return np.zeros(size, dtype)

    monkeypatch.setattr(np.random, 'default_rng', lambda seed: Zeros())
    lam = sample_dirichlet(4, num_examples, 1e-8)
    torch.testing.assert_close(lam.sum(dim=-1), torch.ones(4))


def test_draws_follow_the_seed_or_the_generator():
    def draw(generator=None):
        return sample_dirichlet(20, 5, (0.5, 2.), length=3, generator=generator)

    torch.manual_seed(3)
    numpys = np.random.get_state()[1].copy()
    first, second = draw(), draw()
    assert (np.random.get_state()[1] == numpys).all()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)
    assert not torch.equal(first, second)

    torch.manual_seed(4)
    before = torch.get_rng_state()
    first = draw(torch.Generator().manual_seed(5))
    assert torch.equal(draw(torch.Generator().manual_seed(5)), first)
    assert not torch.equal(draw(torch.Generator().manual_seed(6)), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_alpha_is_drawn_uniformly_from_its_range():
    torch.manual_seed(0)
    draws = torch.stack([draw_alpha((0.5, 2.)) for _ in range(2000)])
    assert draws.min() >= 0.5 and draws.max() <= 2.
    assert abs(draws.mean() - 1.25) < 0.05 and abs(draws.var() - 1.5 ** 2 / 12.) < 0.02
