"""Classes of the data: their names and order, and how they fit the model and each other."""
import argparse
import logging
import os
from typing import Any, Dict, Iterable, List

from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils.misc import natural_key
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from ...checks import UsageError
from ..cli.rules import is_binary

FOLDERS = (ReaderImageFolder, ReaderImageInTar, ImageFolder)  # sources whose folders are the classes
_logger = logging.getLogger('train')
_MOST = 10  # names listed in a message


def source_of(dataset: Any) -> Any:
    """Return what knows the images and classes of a dataset: timm's reader, or torchvision's dataset."""
    while wrapped := [name for name in ('base_dataset', 'dataset') if hasattr(dataset, name)]:
        dataset = getattr(dataset, wrapped[0])
    return getattr(dataset, 'reader', dataset)


def class_indices(dataset: Any) -> Dict[Any, Any]:
    """Return the index of each class by its name; empty if the data has no names."""
    source = source_of(dataset)
    return getattr(source, 'class_to_idx', None) or getattr(source, 'class_name_to_idx', None) or {}


def class_names(dataset: Any) -> List[str]:
    """Return the names in the order of their indices, several of one class joined; empty if the data has no names."""
    names: Dict[int, List[str]] = {}
    for name, index in class_indices(dataset).items():
        if isinstance(index, int):
            names.setdefault(index, []).append(str(name))
    return [', '.join(names.get(index, ())) for index in range(max(names, default=-1) + 1)]


def write_classes(folder: str, names: List[str]) -> None:
    """Write classes.txt, one name a line; warn if the folder is that of a run with other classes."""
    path = os.path.join(folder, 'classes.txt')
    form: Dict[str, Any] = dict(encoding='utf-8', errors='surrogateescape')  # a folder's name may be any bytes
    if os.path.exists(path):
        with open(path, **form) as file:
            before = file.read().splitlines()
        if before != names:
            _logger.warning(f'{path} was of other classes: {some(before)}; now {some(names) or "none"}.')
    if names:
        with open(path, 'w', **form) as file:
            file.writelines(f'{name}\n' for name in names)


def check_classes(
        args: argparse.Namespace,
        num_classes: int,
        dataset_train: Dataset,
        dataset_eval: Dataset,
) -> None:
    """Refuse classes that do not fit the model, or differ between the splits; warn of outputs without a class.

    Raises:
        ValueError: If so, naming the classes that differ.
    """
    train, evaluation = class_indices(dataset_train), class_indices(dataset_eval)
    if not train:
        return
    if len(train) == 1 and not is_binary(args):
        raise UsageError(
            f'{args.train_split} has one class, {some(train)}, from which cross-entropy learns nothing; one class '
            f'needs binary cross-entropy: --bce-loss')
    names = class_names(dataset_train)
    needed = len(names) or len(train)
    if needed > num_classes:
        raise UsageError(
            f'--num-classes must be at least the {needed} classes of the data, got {num_classes}; the data has '
            f'{some(train)}')
    if needed < num_classes:
        _logger.warning(
            f'The model has {num_classes} classes, the data {needed}; --num-classes {needed} fits them.')
    if evaluation and train != evaluation:
        lacking = [
            f'only {split} has {some(sorted(set(a) - set(b), key=str))}'
            for split, a, b in ((args.train_split, train, evaluation), (args.val_split, evaluation, train))
            if set(a) - set(b)]
        raise UsageError(
            f'{args.train_split} and {args.val_split} must have the same classes, got {len(train)} and '
            f'{len(evaluation)}; {"; ".join(lacking) or "their order differs"}')
    if not args.class_map and type(source_of(dataset_train)) in FOLDERS:
        _warn_of_order(names)


def _warn_of_order(names: List[str]) -> None:
    for index, (timm, torchvision) in enumerate(zip(sorted(names, key=natural_key), sorted(names))):
        if timm != torchvision:
            _logger.warning(
                f"Class {index} is {names[index]}: it is {timm} in timm's order and {torchvision} in torchvision's, "
                f'because they sort numbers and capitals differently. classes.txt in the output folder has the order '
                f'of this model.')
            return


def some(names: Iterable[Any]) -> str:
    names = list(names)
    return ', '.join(map(str, names[:_MOST])) + (f' and {len(names) - _MOST} more' if len(names) > _MOST else '')
