"""Images of nothing that the model knows, which need no download: noise, textures, photos, digits."""
from typing import Dict, List

import numpy as np
import torch
from PIL import Image

from timm_multimix.training.data.digits import Digits

from ..trained import pixel_transform

OUTLIERS = ('noise', 'textures', 'photos', 'digits')


def make_outliers(name: str, count: int, data_config: Dict[str, object], seed: int = 0) -> torch.Tensor:
    """`[count, 3, h, w]` in [0, 1], sized as the model's images are.

    Args:
        name: 'noise': every value uniform, of its own. 'textures': square crops, at random places and from the model's
            image size to the whole, of the bricks, grass and gravel that scikit-image ships. 'photos': the same of the
            two that scikit-learn ships. 'digits': scikit-learn's, at most 1,797.
        count: Number of images.
        data_config: input_size, interpolation and crop_pct of the model.
        seed: Of the draws.
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
