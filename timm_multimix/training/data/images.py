"""Images and labels that are what they should be: one that cannot be read ends the run with its path.

timm's ImageDataset takes the next image in its place, with no more than a warning in a worker's log. That remains to be
had: TIMM_DATASET_MAX_RETRIES=N in the environment, timm's own variable, lets up to N - 1 in a row be passed over.
"""
import logging
import os
from typing import Any, Callable, Optional

from PIL import Image, ImageOps
from timm.data import ImageDataset, auto_augment

from ..._checks import UsageError
from .modes import to_mode

_logger = logging.getLogger('train')


class BadSample(UsageError):
    """What is wrong with a sample.

    A loader's worker sends an exception as the text of its whole traceback; what is kept of it is the message.
    """

    def __init__(self, message: str):
        super().__init__(message.rsplit(f'{type(self).__name__}: ', 1)[-1].strip())


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """With `bits` of each pixel kept, 0 to 8."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point([0] * 256 * len(image.getbands()))


def allow_posterize_to_black() -> None:
    """timm's RandAugment asks for 0 bits now and then, which Pillow 13 refuses and older ones take for black."""
    for name in ('Posterize', 'PosterizeIncreasing', 'PosterizeOriginal'):
        auto_augment.NAME_TO_OP[name] = posterize


class CheckedImages(ImageDataset):
    """timm's dataset of map style, with the same reader and transforms.

    Args:
        dataset: Whose place it takes.

    Raises:
        BadSample: By `dataset[index]`, if the image cannot be read, or its label cannot be one.
    """

    def __init__(self, dataset: ImageDataset):
        super().__init__(
            getattr(dataset.reader, 'root', None),
            reader=dataset.reader,
            input_img_mode=dataset.input_img_mode,
            transform=dataset.transform,
            target_transform=dataset.target_transform,
        )
        self._max_retries = int(os.environ.get('TIMM_DATASET_MAX_RETRIES') or 1)

    def __getitem__(self, index: int) -> Any:
        for left in reversed(range(self._max_retries)):
            try:
                image, target = self._read(index)
                break
            except BadSample as error:
                if not left:
                    raise
                _logger.warning(f'{error}. The next image takes its place.')
                index = (index + 1) % len(self.reader)
        try:
            return image if self.transform is None else self.transform(image), target
        except Exception as error:
            width, height = image.size
            raise BadSample(
                f'the transforms do not take an image of mode {image.mode}, {width} x {height} '
                f'(as {self._path(index)}): give other flags of augmentation, or another --input-img-mode; '
                f'{error}') from error

    def _read(self, index: int) -> Any:
        try:
            file, target = self.reader[index]
            with file, Image.open(file) as image:
                image.load()  # whatever is wrong with it, here
                if self.input_img_mode:
                    image = to_mode(image, self.input_img_mode)
        except Exception as error:  # PIL has many of them: OSError, SyntaxError, ValueError, struct.error, ...
            reason = str(error).split(': <')[0]  # and tells a file by its address
            raise BadSample(f'{self._path(index)} cannot be read: {reason} ({type(error).__name__})') from error
        try:
            return image, target if self.target_transform is None else self.target_transform(target)
        except Exception as error:
            raise BadSample(f'{self._path(index)} has a label that does not fit: {error}') from error

    def _path(self, index: int) -> str:
        try:
            path = self.filename(index, absolute=True)
        except Exception:  # not every reader knows
            path = None
        return str(path) if path else f'Image {index}'


class ClassIndex:
    """A target transform that lets class indices of 0..c-1 pass.

    Args:
        num_classes: Number of classes c.
        first: What transforms them before, if anything.
    """

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
