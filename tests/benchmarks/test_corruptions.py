"""Corruptions of `benchmarks.measures.robustness`: the effect of each on the pixels."""
import io

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from benchmarks.measures.robustness import STRENGTHS, corrupt

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
