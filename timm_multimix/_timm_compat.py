"""Everything that is private in timm and torch, and used here all the same: why, and what happens if it moves.

tests/test_timm_compat.py fails for each part that a new version of timm or torch has moved.
"""
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.scheduler.plateau_lr import PlateauLRScheduler
from timm.utils import CheckpointSaver, ModelEmaV3
from torch.nn.parallel import DistributedDataParallel
from torchvision.datasets import ImageFolder

FOLDERS = (ReaderImageFolder, ReaderImageInTar, ImageFolder)  # sources whose folders are the classes
# state of torch's scheduler inside timm's; timm saves none of it, and calls the class deprecated for that
PLATEAU_STATE = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch')


def standard_gamma(alpha: torch.Tensor, generator: Optional[torch.Generator]) -> torch.Tensor:
    """Draw from Gamma(alpha, 1) on an accelerator; torch.distributions takes no generator. There is no fallback."""
    return torch._standard_gamma(alpha, generator=generator)


def in_ddp_forward() -> bool:
    """Return whether DistributedDataParallel's forward is running; True if torch no longer says so."""
    active = getattr(DistributedDataParallel, '_get_active_ddp_module', None)
    return active is None or active() is not None


def rounding_generator(ema: ModelEmaV3) -> Optional[torch.Generator]:
    """The generator that rounds averages of bfloat16, for exact resuming; None (inexact resuming) if there is none."""
    return getattr(ema, '_sr_generator', None)


def set_dataset(loader: Any, dataset: Any) -> None:
    """Replace a loader's dataset by one of the same length.

    The loader's __setattr__ forbids it because of its sampler, but that needs only the length. timm's create_loader
    sets the transform of the dataset that it is given, so it cannot be given the new one. There is no fallback.
    """
    vars(loader)['dataset'] = dataset


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest `bits` of each pixel, 0 to 8."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point([0] * 256 * len(image.getbands()))


def allow_posterize_to_black() -> None:
    """Let timm's RandAugment ask for 0 bits: Pillow 13 raises an error, older versions give black."""
    for name in ('Posterize', 'PosterizeIncreasing', 'PosterizeOriginal'):
        auto_augment.NAME_TO_OP[name] = posterize


def plateau_state(scheduler: PlateauLRScheduler) -> Dict[str, Any]:
    """What plateau counts, and its rates without noise."""
    counts = {name: getattr(scheduler.lr_scheduler, name) for name in PLATEAU_STATE}
    return dict(counts, without_noise=scheduler.restore_lr)


def set_plateau_state(
        scheduler: PlateauLRScheduler, counts: Dict[str, Any], without_noise: Optional[List[float]]) -> None:
    for name, value in counts.items():
        setattr(scheduler.lr_scheduler, name, value)
    scheduler.restore_lr = without_noise


def source_of(dataset: Any) -> Any:
    """Return what knows the images and classes of a dataset: timm's reader, or torchvision's dataset."""
    while wrapped := [name for name in ('base_dataset', 'dataset') if hasattr(dataset, name)]:
        dataset = getattr(dataset, wrapped[0])
    return getattr(dataset, 'reader', dataset)


def class_indices(dataset: Any) -> Dict[Any, Any]:
    """Return the index of each class by its name; empty if the data has no names."""
    source = source_of(dataset)
    return getattr(source, 'class_to_idx', None) or getattr(source, 'class_name_to_idx', None) or {}


def labels_of(dataset: Any) -> Optional[List[Any]]:
    """Return the label of every image without reading it; empty if the data does not say, such as a stream."""
    source = source_of(dataset)
    labels = getattr(source, 'targets', None)
    return [label for _, label in getattr(source, 'samples', ())] if labels is None else labels


def image_paths(reader: Any) -> List[str]:
    """The paths of the images of a folder or tar file, relative to it."""
    if isinstance(reader, ReaderImageInTar):
        return [os.path.normpath(image.path) for image, *_ in reader.samples]
    start = len(reader.root.rstrip(os.sep)) + 1
    return [path[start:] for path, _ in reader.samples]


def keep_images(reader: Any, kept: List[int], keep_classes: bool) -> None:
    """Keep these images of a folder or tar file; the classes are numbered anew unless `keep_classes`."""
    in_tar = isinstance(reader, ReaderImageInTar)
    labels = [reader.targets[index] if in_tar else reader.samples[index][1] for index in kept]
    names = class_indices(reader)
    if not keep_classes:
        used, labels = np.unique(labels, return_inverse=True)
        names = {name: index for index, name in enumerate(name for name, label in names.items() if label in used)}
    if in_tar:
        reader.samples, reader.targets, reader.class_name_to_idx = reader.samples[kept], labels, names
    else:
        reader.samples = [(reader.samples[index][0], int(label)) for index, label in zip(kept, labels)]
        reader.class_to_idx = names


class AtomicFiles(CheckpointSaver):
    """timm's CheckpointSaver, but a name always points to a complete file.

    timm removes the old file before it moves the new one to its place, so a kill between the two leaves neither. Here
    the new file is first flushed to the disk and then takes the name in one step. Without these methods of timm, a
    kill could leave a damaged file, which --resume auto skips.
    """

    def _save(self, save_path, epoch, metric=None):
        try:
            with open(save_path, 'wb') as file:  # Python's file says why a write failed, torch's does not
                super()._save(file, epoch, metric)
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:
            Path(save_path).unlink(missing_ok=True)
            cause: Optional[BaseException] = error  # torch raises its own while handling the system's
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror, save_path) from error

    def _replace(self, src, dst):
        os.replace(src, dst)

    def _duplicate(self, src, dst):
        copy = Path(f'{dst}.tmp')
        copy.unlink(missing_ok=True)  # from a run that was killed right here
        try:
            try:
                os.link(src, copy)
            except OSError:  # a file system without hard links
                shutil.copy2(src, copy)
            os.replace(copy, dst)
        finally:
            copy.unlink(missing_ok=True)
