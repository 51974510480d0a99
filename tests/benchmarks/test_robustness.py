"""Attacks against the Adversarial Robustness Toolbox, and what each corruption does to the pixels."""
import io

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from benchmarks.measures.robustness import STRENGTHS, corrupt, pgd
from benchmarks.measures.subject import PixelModel

EPS = 8. / 255.


@pytest.fixture(scope='module')
def attacked():
    """A model with its normalisation, images and labels."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU(), nn.Flatten(),
        nn.Linear(392, 5))
    model = PixelModel(layers, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)).eval().requires_grad_(False)
    return model, torch.rand(12, 3, 16, 16), torch.randint(5, (12,))


@pytest.fixture
def classifier(attacked):
    pytest.importorskip('art', reason='needs adversarial-robustness-toolbox')
    from art.estimators.classification import PyTorchClassifier
    model, images, _ = attacked
    return PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=5, clip_values=(0., 1.),
        device_type='cpu')


@pytest.mark.parametrize('steps', [1, 10])
def test_fgsm_and_pgd_equal_those_of_a_maintained_library(steps, attacked, classifier):
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    model, images, target = attacked
    size = EPS if steps == 1 else EPS / 4.
    attack = FastGradientMethod(classifier, norm=np.inf, eps=EPS) if steps == 1 else ProjectedGradientDescentPyTorch(
        classifier, norm=np.inf, eps=EPS, eps_step=size, max_iter=steps, num_random_init=0, verbose=False)
    theirs = attack.generate(images.numpy(), target.numpy())
    ours = pgd(model, images, target, EPS, steps, size, random_start=False)
    assert (ours - images).abs().max() > 0.99 * EPS
    # where a gradient is almost 0, its sign depends on rounding
    assert (np.abs(ours.numpy() - theirs) < 1e-5).mean() > 0.999


@pytest.mark.parametrize('random_start', [False, True])
def test_pgd_stays_in_the_ball_and_raises_the_loss(attacked, random_start):
    model, images, target = attacked
    extreme = torch.cat([images, torch.zeros_like(images[:1]), torch.ones_like(images[:1])])
    target = torch.cat([target, target[:2]])
    before = extreme.clone()
    result = pgd(model, extreme, target, EPS, 5, EPS / 4., random_start)
    assert torch.equal(extreme, before) and not result.requires_grad
    assert (result - extreme).abs().max() <= EPS + 1e-6 and result.min() >= 0. and result.max() <= 1.
    losses = [F.cross_entropy(model(pixels), target, reduction='none') for pixels in (extreme, result)]
    assert (losses[1] > losses[0]).all()


def test_the_random_start_is_uniform_in_the_ball_and_seeded(attacked):
    model, images, target = attacked
    starts = [
        pgd(model, images * 0.5 + 0.25, target, EPS, 0, EPS, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    shift = (starts[0] - images * 0.5 - 0.25) / EPS
    assert shift.abs().max() <= 1. + 1e-4
    assert abs(shift.mean()) < 0.03 and abs(shift.std() - 3 ** -0.5) < 0.01  # of a uniform distribution on [-1, 1]


IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)


@pytest.mark.parametrize('name', STRENGTHS)
def test_stronger_is_further_away(name):
    distances = []
    for strength in STRENGTHS[name]:
        result = corrupt(IMAGES, name, strength)
        assert result.shape == IMAGES.shape and 0. <= result.min() and result.max() <= 1.
        assert (result * 255. - (result * 255.).round()).abs().max() < 1e-4  # 8-bit values
        assert torch.equal(result, corrupt(IMAGES, name, strength))
        distances.append(float((result - IMAGES).abs().mean()))
    assert 0. < distances[0] < distances[1] < distances[2]


def test_noise_has_the_strength_asked_for_and_leaves_the_seed_alone():
    grey = torch.full((2, 3, 64, 64), 0.5)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    noise = corrupt(grey, 'noise', 0.08) - grey
    assert torch.equal(torch.rand(3), expected)
    assert abs(noise.std() - 0.08) < 0.002
    assert not torch.equal(noise, corrupt(grey, 'noise', 0.08, seed=1) - grey)


def test_contrast_scales_the_standard_deviation():
    torch.testing.assert_close(
        corrupt(IMAGES, 'contrast', 0.2).std(), IMAGES.std() * 0.2, rtol=0.05, atol=0.)


def test_blur_keeps_a_constant_image():
    grey = torch.full((1, 3, 32, 32), 102. / 255.)
    torch.testing.assert_close(corrupt(grey, 'blur', 1.5), grey)


@pytest.mark.parametrize('sigma', STRENGTHS['blur'])
def test_blur_has_the_width_asked_for(sigma):
    """Measured as the variance of a blurred point along one axis; the kernel ends at three standard deviations."""
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1.
    line = corrupt(point, 'blur', sigma)[0, 0].sum(dim=0)
    offsets = torch.arange(33.) - 16.
    assert float((line * offsets.square()).sum() / line.sum()) == pytest.approx(sigma ** 2, rel=0.15)


@pytest.mark.parametrize('quality', STRENGTHS['jpeg'])
def test_jpeg_has_the_quality_asked_for(quality):
    for image, result in zip(IMAGES, corrupt(IMAGES, 'jpeg', quality)):
        buffer = io.BytesIO()
        to_pil_image(image).save(buffer, format='jpeg', quality=int(quality))
        expected = pil_to_tensor(Image.open(buffer)).float()
        assert (result * 255. - expected).abs().mean() < 2.  # decoders differ a little
