"""The pictures of the methods: one file per background, from photographs that need no download."""
import numpy as np
import pytest
from PIL import Image

from docs.images import method_picture
from timm_multimix import functional


@pytest.mark.slow
def test_the_pictures_are_drawn_for_light_and_dark_pages(tmp_path):
    assert method_picture.main(['--output', str(tmp_path)]) == 0
    for name in method_picture.PICTURES:
        corners = {}
        for theme in ('light', 'dark'):
            with Image.open(tmp_path / f'{name}-{theme}.png') as picture:
                pixels = np.asarray(picture.convert('RGB'))
            assert pixels.shape[1] >= 1000  # sharp at twice the width of a phone
            corners[theme] = pixels[0, 0].mean()
        assert corners['light'] > 250 and corners['dark'] < 30


def test_attention_is_on_the_objects():
    """The middle of the rocket's photograph gets more attention than the sky in its upper corners."""
    attention = functional.spatial_attention(method_picture.embeddings(method_picture.photographs()))
    rocket = attention[1].unflatten(0, (method_picture.GRID, method_picture.GRID))
    assert rocket.sum().item() == pytest.approx(1.)
    middle = method_picture.GRID // 2
    assert rocket[middle, middle] > 5. * max(rocket[0, 0], rocket[0, -1])
