"""Outliers that need no download: noise, textures, photos and digits."""
from typing import Dict, List

import numpy as np
import torch
from PIL import Image

from timm_multimix.training.data.digits import Digits

from ..trained import pixel_transform

OUTLIERS = ('noise', 'textures', 'photos', 'digits')


def make_outliers(name: str, count: int, data_config: Dict[str, object], seed: int = 0) -> torch.Tensor:
    """Create `[count, 3, h, w]` in [0, 1], in the image size of the model.

    Args:
        name: 'noise': independent uniform values. 'textures': square crops of the bricks, grass and gravel in
            scikit-image, at random places, from the model's image size to the whole. 'photos': such crops of the two
            photos in scikit-learn. 'digits': those of scikit-learn, at most 1,797.
        count: Number of images.
        data_config: input_size, interpolation and crop_pct of the model.
        seed: Seed of the draws.
    """
    _, height, width = data_config['input_size']
    rng = np.random.default_rng(seed)
    if name == 'noise':
        images = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]
    elif name == 'textures':
        from skimage import data
        images = _crops([data.brick(), data.grass(), data.gravel()], count, height, width, rng)
    elif name == 'photos':
        from sklearn.datasets import load_sample_images
        images = _crops(load_sample_images().images, count, height, width, rng)
    elif name == 'digits':
        digits = [image for split in ('train', 'test') for image, _ in Digits(split)]
        images = [
            digits[index].resize((width, height), Image.BICUBIC) for index in rng.permutation(len(digits))[:count]]
    else:
        raise ValueError(f'name must be one of {", ".join(OUTLIERS)}, got {name!r}')
    transform = pixel_transform(data_config)
    return torch.stack([transform(image) for image in images]).float() / 255.


def _crops(sources: List[np.ndarray], count: int, height: int, width: int, rng: np.random.Generator):
    images = [Image.fromarray(source).convert('RGB') for source in sources]
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        whole = min(image.size)
        side = int(rng.integers(min(max(height, width), whole), whole + 1))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        crops.append(image.crop((left, top, left + side, top + side)).resize((width, height), Image.BICUBIC))
    return crops
