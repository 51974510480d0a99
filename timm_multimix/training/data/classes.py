"""Classes of the data: their names and order, and how they fit the model and each other."""
import argparse
import logging
import os
from typing import Any, Dict, Iterable, List, Optional

from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from ..._timm_compat import FOLDERS, class_indices, source_of
from ...checks import UsageError
from ..cli.rules import is_binary

_logger = logging.getLogger('train')
_MOST = 10  # names listed in a message
_FORM: Dict[str, Any] = dict(encoding='utf-8', errors='surrogateescape')  # a folder's name may be any bytes


def class_names(dataset: Any) -> List[str]:
    """Return the names in the order of their indices, several of one class joined; empty if the data has no names."""
    names: Dict[int, List[str]] = {}
    for name, index in class_indices(dataset).items():
        if isinstance(index, int):
            names.setdefault(index, []).append(str(name))
    return [', '.join(names.get(index, ())) for index in range(max(names, default=-1) + 1)]


def read_classes(folder: str) -> Optional[List[str]]:
    """Return the names in the classes.txt of a run's folder; None without it."""
    path = os.path.join(folder, 'classes.txt')
    if not os.path.exists(path):
        return None
    with open(path, **_FORM) as file:
        return file.read().splitlines()


def write_classes(folder: str, names: List[str]) -> None:
    """Write classes.txt, one name a line; warn if the folder is that of a run with other classes."""
    path, before = os.path.join(folder, 'classes.txt'), read_classes(folder)
    if before is not None and before != names:
        _logger.warning(f'{path} was of other classes: {some(before)}; now {some(names) or "none"}.')
    if names:
        with open(path, 'w', **_FORM) as file:
            file.writelines(f'{name}\n' for name in names)


def check_classes(args: argparse.Namespace, num_classes: int, dataset_train: Dataset, dataset_eval: Dataset) -> None:
    """Refuse classes that do not fit the model, or differ between the splits; warn of outputs without a class."""
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
        _logger.warning(f'The model has {num_classes} classes, the data {needed}; --num-classes {needed} fits them.')
    if evaluation and train != evaluation:
        lacking = [
            f'only {split} has {some(sorted(set(a) - set(b), key=str))}'
            for split, a, b in ((args.train_split, train, evaluation), (args.val_split, evaluation, train))
            if set(a) - set(b)]
        raise UsageError(
            f'{args.train_split} and {args.val_split} must have the same classes, got {len(train)} and '
            f'{len(evaluation)}; {"; ".join(lacking) or "their order differs"}')
    if not args.class_map and type(source_of(dataset_train)) in FOLDERS:
        for index, (timm, torchvision) in enumerate(zip(sorted(names, key=natural_key), sorted(names))):
            if timm != torchvision:
                _logger.warning(
                    f"Class {index} is {names[index]}: it is {timm} in timm's order and {torchvision} in "
                    f"torchvision's, because they sort numbers and capitals differently. classes.txt in the output "
                    f'folder has the order of this model.')
                break


def some(names: Iterable[Any]) -> str:
    names = list(names)
    return ', '.join(map(str, names[:_MOST])) + (f' and {len(names) - _MOST} more' if len(names) > _MOST else '')
