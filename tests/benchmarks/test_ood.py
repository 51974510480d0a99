"""`benchmarks.ood` and `benchmarks.suite.shifts.outliers`: metrics checked by counting, and the sets of outliers."""
import numpy as np
import pytest
import torch

from benchmarks.ood import SCORES, calibration_error, detection_metrics, logit_margin
from benchmarks.suite.shifts.outliers import OUTLIERS, make_outliers

CONFIG = dict(input_size=(3, 16, 16), interpolation='bicubic', crop_pct=1.)


def test_detection_metrics_by_counting():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1., 1., 200), rng.normal(0., 1., 100)
    metrics = detection_metrics(inside, outside)
    assert metrics['auroc'] == pytest.approx(np.mean(inside[:, None] > outside[None]))
    threshold = np.sort(inside)[::-1][189]  # 190 of 200 pass
    assert metrics['fpr95'] == pytest.approx(np.mean(outside >= threshold))
    order = np.argsort(-np.concatenate([inside, outside]))
    hits = order < 200
    precision = np.cumsum(hits) / np.arange(1, 301)
    assert metrics['aupr'] == pytest.approx(precision[hits].mean())


def test_detection_metrics_at_the_extremes():
    high, low = np.linspace(1., 2., 50), np.linspace(-1., 0., 50)
    assert detection_metrics(high, low) == dict(auroc=1., aupr=pytest.approx(1.), fpr95=0.)
    worst = detection_metrics(low, high)
    assert worst['auroc'] == 0. and worst['fpr95'] == 1.


def test_scores():
    logits = torch.tensor([[0., 0.], [3., 0.], [3., 3.]])
    torch.testing.assert_close(SCORES['msp'](logits), torch.tensor([0.5, 1. / (1. + np.exp(-3.)), 0.5]).float())
    assert SCORES['energy'](logits).tolist() == pytest.approx([np.log(2.), np.log(1. + np.exp(3.)), 3. + np.log(2.)])


def test_logit_margin():
    logits = torch.tensor([[3., 1., 2.], [0., 5., -1.]])
    assert logit_margin(logits, torch.tensor([0, 1])) == pytest.approx((1.5 + 5.5) / 2.)
    assert logit_margin(logits, torch.tensor([1, 0])) == pytest.approx((-1.5 - 2.) / 2.)
    assert logit_margin(logits + 7., torch.tensor([0, 1])) == pytest.approx(3.5)


def test_calibration_error():
    confident = torch.tensor([[20., 0.], [20., 0.]])
    assert calibration_error(confident, torch.tensor([0, 0])) == pytest.approx(0., abs=1e-6)
    assert calibration_error(confident, torch.tensor([1, 1])) == pytest.approx(1., abs=1e-6)
    assert calibration_error(confident, torch.tensor([0, 1])) == pytest.approx(0.5, abs=1e-6)
    assert calibration_error(confident * float('nan'), torch.tensor([0, 1])) is None  # diverged, not calibrated


@pytest.mark.parametrize('name', OUTLIERS)
def test_outliers_are_distinct_images_and_seeded(name):
    if name == 'textures':
        pytest.importorskip('skimage', reason='needs scikit-image')
    images = make_outliers(name, 6, CONFIG)
    assert images.shape == (6, 3, 16, 16) and images.dtype == torch.float32
    assert 0. <= images.min() and images.max() <= 1. and images.std() > 0.05
    assert torch.equal(images, make_outliers(name, 6, CONFIG))
    assert not torch.equal(images, make_outliers(name, 6, CONFIG, seed=1))
    assert len({image.sum().item() for image in images}) == 6


def test_unknown_outliers_are_refused():
    with pytest.raises(ValueError, match="name must be one of noise, textures, photos, digits, got 'cars'"):
        make_outliers('cars', 1, CONFIG)
