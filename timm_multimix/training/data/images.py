"""Checked images and labels: one that cannot be read ends the run with an error that names its path.

timm's ImageDataset uses the next image instead, with only a warning in a worker's log. To allow this for up to N - 1
images in a row, set timm's environment variable TIMM_DATASET_MAX_RETRIES=N.
"""
import logging
import os
from typing import Any, Callable, Optional, Union

import numpy as np
from PIL import Image
from timm.data import ImageDataset
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torchvision.datasets import ImageFolder, VisionDataset

from ...checks import UsageError

_logger = logging.getLogger('train')
_16_BIT_FORMATS = ('PNG', 'PPM', 'JPEG2000')  # in which mode I means 16 bits


class BadSample(UsageError):
    """A sample that cannot be used; of the traceback that a worker sends as its text, the message is kept."""

    def __init__(self, message: str):
        super().__init__(message.rsplit(f'{type(self).__name__}: ', 1)[-1].strip())


class CheckedImages(ImageDataset):
    """A map-style dataset of timm or torchvision that raises a `BadSample` for a bad image or label.

    It takes over the transforms of `dataset`. `img_mode` is the PIL mode of torchvision's images; None for their own.
    """

    def __init__(self, dataset: Union[ImageDataset, VisionDataset], img_mode: Optional[str] = None):
        super().__init__(
            None, reader=getattr(dataset, 'reader', dataset), transform=dataset.transform,
            target_transform=dataset.target_transform, input_img_mode=getattr(dataset, 'input_img_mode', img_mode))
        dataset.transform = dataset.target_transform = None
        self._max_retries = int(os.environ.get('TIMM_DATASET_MAX_RETRIES') or 1)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):  # ends a `for` over the dataset
            raise IndexError(index)
        for left in reversed(range(self._max_retries)):
            try:
                image, target = self._read(index)
                break
            except BadSample as error:
                if not left:
                    raise
                _logger.warning(f'{error}. The next image is used instead.')
                index = (index + 1) % len(self.reader)
        try:
            return image if self.transform is None else self.transform(image), target
        except Exception as error:
            width, height = image.size
            raise BadSample(
                f'the transforms do not accept an image of mode {image.mode}, {width} x {height} '
                f'({self._path(index)}): give other augmentation flags or another --input-img-mode; '
                f'{error}') from error

    def _read(self, index: int) -> Any:
        try:
            file, target = self.reader[index]
            with file, file if isinstance(file, Image.Image) else Image.open(file) as image:
                image.load()  # so that a bad file raises its error here
                if self.input_img_mode:
                    image = to_mode(image, self.input_img_mode)
        except Exception as error:  # PIL raises many types: OSError, SyntaxError, ValueError, struct.error, ...
            reason = str(error).split(': <')[0]  # and names a file object by its address
            raise BadSample(f'{self._path(index)} cannot be read: {reason} ({type(error).__name__})') from error
        try:
            return image, target if self.target_transform is None else self.target_transform(target)
        except Exception as error:
            raise BadSample(f'{self._path(index)} has a label that does not fit: {error}') from error

    def _path(self, index: int) -> str:
        reader = self.reader
        try:
            path = reader.samples[index][0] if isinstance(reader, ImageFolder) else self.filename(index, absolute=True)
            return os.path.join(reader.root, path) if isinstance(reader, ReaderImageInTar) else os.fspath(path)
        except Exception:  # not every reader knows it
            return f'Image {index}'


class ClassIndex:
    """A target transform that accepts only class indices below `num_classes`, after the transform `first`, if any."""

    def __init__(self, num_classes: int, first: Optional[Callable] = None):
        self.num_classes = num_classes
        self.first = first

    def __call__(self, target: Any) -> int:
        if self.first is not None:
            target = self.first(target)
        try:
            index = int(target)
            if 0 <= index < self.num_classes and index == target:
                return index
        except (TypeError, ValueError):
            pass
        raise BadSample(f'--num-classes is {self.num_classes}, so labels must be from 0 to {self.num_classes - 1}, '
                        f'got {target!r}')


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; 16-bit pixels, which Pillow would clip at 255, are scaled to 8 bits.

    As in timm, the stored pixels are used: the first frame of an animation, without EXIF rotation and without blending
    by transparency. 32-bit pixels outside the range of 8 bits are refused: their type does not say which is white.
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
