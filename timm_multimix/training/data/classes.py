"""Classes of the data: how they fit the model and each other."""
import argparse
import logging
from typing import List

from torch.utils.data import Dataset

from ..._checks import UsageError
from ..cli.rules import is_binary

_logger = logging.getLogger('train')
_MOST = 10  # names listed in a message


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
    train, evaluation = (
        getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) for dataset in (dataset_train, dataset_eval))
    if not train:
        return
    if len(train) == 1 and not is_binary(args):
        raise UsageError(
            f'{args.train_split} has one class, {some(list(train))}, from which cross-entropy learns nothing; one '
            f'class needs binary cross-entropy: --bce-loss')
    needed = max(len(train), *(index + 1 for index in train.values() if isinstance(index, int)))
    if needed > num_classes:
        raise UsageError(
            f'--num-classes must be at least the {needed} classes of the data, got {num_classes}; the data has '
            f'{some(list(train))}')
    if needed < num_classes:
        _logger.warning(
            f'The model has {num_classes} classes, the data {needed}; --num-classes {needed} fits them.')
    if evaluation and train != evaluation:
        names = [sorted(set(a) - set(b), key=str) for a, b in ((train, evaluation), (evaluation, train))]
        lacking = [f'only {split} has {some(lacked)}'
                   for split, lacked in zip((args.train_split, args.val_split), names) if lacked]
        raise UsageError(
            f'{args.train_split} and {args.val_split} must have the same classes, got {len(train)} and '
            f'{len(evaluation)}; {"; ".join(lacking) or "their order differs"}')


def some(names: List[str]) -> str:
    return ', '.join(map(str, names[:_MOST])) + (f' and {len(names) - _MOST} more' if len(names) > _MOST else '')
