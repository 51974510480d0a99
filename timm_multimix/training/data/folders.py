"""What can be wrong with folders of images, one for each class: labels would be, too."""
import argparse
import logging
import os
from typing import Dict, Iterable, List, Set

from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from ..._checks import UsageError

_logger = logging.getLogger('train')
_MOST = 10  # names in a message


def check_root(args: argparse.Namespace) -> None:
    """Refuse a folder of images that is not there."""
    root = args.data_dir or args.data
    if not args.dataset and not os.path.exists(root):
        raise UsageError(f'--data-dir {root}: no such folder')


def check_folders(split: str, dataset: Dataset, args: argparse.Namespace) -> None:
    """Refuse images outside of the folders of the classes, and classes without an order; warn of folders left out.

    Raises:
        ValueError: Naming the folders.
    """
    reader = getattr(dataset, 'reader', None)
    if not isinstance(reader, ReaderImageFolder):
        return
    root = reader.root
    folders = {os.path.relpath(os.path.dirname(path), root) for path, _ in reader.samples}
    if '.' in folders:
        loose = sorted(os.path.basename(path) for path, _ in reader.samples if os.path.dirname(path) == root)
        raise UsageError(
            f'{split}: every image must be in the folder of its class, got {_some(loose)} in {root} itself')
    _check_order(split, reader.class_to_idx)
    _warn_of_shared_names(split, folders)
    used = {folder.split(os.sep)[0] for folder in folders}
    unused = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name not in used)
    if unused and args.class_map:
        _logger.warning(f'{split}: no class of --class-map {args.class_map}, and left out: {_some(unused)}.')
    elif unused:
        _logger.warning(f'{split}: no images in {_some(unused)}; no classes are made of them.')


def check_classes(
        args: argparse.Namespace,
        num_classes: int,
        dataset_train: Dataset,
        dataset_eval: Dataset,
) -> None:
    """Refuse classes that do not fit the model, or differ between the splits; warn of outputs without a class.

    Raises:
        ValueError: Naming the classes that differ.
    """
    train, evaluation = (
        getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) for dataset in (dataset_train, dataset_eval))
    if not train:
        return
    needed = max(len(train), *(index + 1 for index in train.values() if isinstance(index, int)))
    if needed > num_classes:
        raise UsageError(f'--num-classes must be at least the {needed} classes of the data, got {num_classes}')
    if needed < num_classes:
        _logger.warning(
            f'The model has {num_classes} classes, the data {needed}; --num-classes {needed} fits them.')
    if evaluation and train != evaluation:
        names = [sorted(set(a) - set(b), key=str) for a, b in ((train, evaluation), (evaluation, train))]
        lacking = [f'only {split} has {_some(some)}' for split, some in zip((args.train_split, args.val_split), names)
                   if some]
        raise UsageError(
            f'{args.train_split} and {args.val_split} must have the same classes, got {len(train)} and '
            f'{len(evaluation)}; {"; ".join(lacking) or "their order differs"}')


def _check_order(split: str, names: Iterable[str]) -> None:
    """timm sorts numbers by value and letters without case; names that are the same to it get labels by chance."""
    seen: Dict[str, str] = {}
    for name in names:
        other = seen.setdefault(repr(natural_key(name)), name)
        if other is not name:
            raise UsageError(
                f'{split}: names of classes must differ in more than case and leading zeros, which their order '
                f'does not tell apart, got {_some(sorted([other, name]))}')


def _warn_of_shared_names(split: str, folders: Set[str]) -> None:
    by_name: Dict[str, List[str]] = {}
    for folder in sorted(folders):
        by_name.setdefault(os.path.basename(folder), []).append(folder)
    for name, same in by_name.items():
        if len(same) > 1:
            _logger.warning(f'{split}: {_some(same)} are one class, {name}: the last folder of a path is its name.')


def _some(names: List[str]) -> str:
    return ', '.join(map(str, names[:_MOST])) + (f' and {len(names) - _MOST} more' if len(names) > _MOST else '')
