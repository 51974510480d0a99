"""Conversion of images of every Pillow mode to 8-bit images of the training mode.

As in timm, the stored pixels are used: the first frame of an animation, without EXIF rotation and without blending by
transparency.
"""
import numpy as np
from PIL import Image

_16_BIT_FORMATS = ('PNG', 'PPM', 'JPEG2000')  # in which mode I means 16 bits


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; 16-bit pixels, which Pillow would clip at 255, are scaled to 8 bits.

    Raises:
        ValueError: If 32-bit pixels are outside the range of 8 bits, as their type does not say which value is white.
    """
    if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in _16_BIT_FORMATS):
        pixels = np.asarray(image).astype(np.float32) * (255. / 65535.)
        image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    elif image.mode in ('I', 'F'):
        pixels = np.asarray(image)
        low, high = pixels.min(), pixels.max()
        # in a range of 0 to 1, white is most likely 1 and would become black
        if not (0 <= low and high <= 255) or (image.mode == 'F' and 0 < high <= 1):
            raise ValueError(
                f'its 32-bit pixels (mode {image.mode}) are from {low:g} to {high:g}, of which only 0 to 255 can be '
                f'read; save it with 8 or 16 bits')
        image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    return image.convert(mode)
