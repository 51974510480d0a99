"""Image files of every Pillow mode, as 8-bit images of the mode that is trained on.

The stored pixels are read: the first frame of an animation, without the rotation that EXIF may ask for and without
blending by transparency, as timm reads them.
"""
import numpy as np
from PIL import Image

_16_BIT_FORMATS = ('PNG', 'PPM', 'JPEG2000')  # in which mode I means 16 bits


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; 16-bit pixels are scaled to 8 bits, which Pillow would clip at 255.

    Raises:
        ValueError: If 32-bit pixels are not in the range of 8 bits: their type does not tell what is white.
    """
    if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in _16_BIT_FORMATS):
        pixels = np.asarray(image).astype(np.float32) * (255. / 65535.)
        image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    elif image.mode in ('I', 'F'):
        pixels = np.asarray(image)
        low, high = pixels.min(), pixels.max()
        # a range of 0 to 1 has its white at 1, most likely, and would become black
        if not (0 <= low and high <= 255) or (image.mode == 'F' and 0 < high <= 1):
            raise ValueError(
                f'its 32-bit pixels (mode {image.mode}) are from {low:g} to {high:g}, of which only 0 to 255 can be '
                f'read; save it with 8 or 16 bits')
        image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    return image.convert(mode)
