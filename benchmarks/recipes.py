"""Budgets that methods are compared on: a model, a schedule and a share of a folder of images."""
import os
from dataclasses import dataclass
from typing import Optional, Sequence


@dataclass(frozen=True)
class Recipe:
    """Flags of train_timm.py that all methods share, and how many images of each class they see (None for all)."""

    flags: str
    train_per_class: Optional[int] = None
    eval_per_class: Optional[int] = None
    eval_split: str = 'test'


_CIFAR = '--num-classes 10 --batch-size 128 --color-jitter 0 --scale 0.7 1 --ratio 0.9 1.1'
_FORTY_EPOCHS = '--epochs 40 --warmup-epochs 8 --warmup-lr 1e-3 --sched cosine --sched-on-updates --val-interval 10'
_SGD = '--opt sgd --momentum 0.9 --lr 0.2 --weight-decay 5e-4'
_ADAMW = '--opt adamw --lr 3e-3 --weight-decay 0.05'

RECIPES = {
    'cifar5000-sgd': Recipe(f'--model cifar_resnet14 {_CIFAR} {_FORTY_EPOCHS} {_SGD}', 500, 400),
    'cifar5000-adamw': Recipe(f'--model cifar_resnet14 {_CIFAR} {_FORTY_EPOCHS} {_ADAMW}', 500, 400),
    'cifar5000-vit': Recipe(
        f'--model cifar_vit {_CIFAR} {_FORTY_EPOCHS} --opt adamw --lr 1e-3 --weight-decay 0.05', 500, 400),
    'cifar10': Recipe(
        f'--model cifar_resnet18 {_CIFAR} {_FORTY_EPOCHS} {_SGD} --amp --amp-dtype bfloat16 --channels-last --pin-mem'),
}
"""The budgets by name: three for a CPU with 5,000 training images of CIFAR-10, and all of it for a GPU."""


def link_subset(recipe: Recipe, data_dir: str, folder: str) -> str:
    """The recipe's share of `data_dir` as a folder of links, the first images of each class in order of name.

    Raises:
        ValueError: If a class has fewer images than asked for.
    """
    for split, count in (('train', recipe.train_per_class), (recipe.eval_split, recipe.eval_per_class)):
        for name in _sorted_entries(os.path.join(data_dir, split)):
            source = os.path.abspath(os.path.join(data_dir, split, name))
            images = _sorted_entries(source)
            if count is not None and len(images) < count:
                raise ValueError(f'data_dir must have {count} images of each class, got {len(images)} in {source}')
            _link(source, images[:count], os.path.join(folder, split, name))
    return folder


def _link(source: str, names: Sequence[str], folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    for name in names:
        try:
            os.symlink(os.path.join(source, name), os.path.join(folder, name))
        except FileExistsError:  # of an earlier run, or of one beside this
            pass


def _sorted_entries(folder: str) -> Sequence[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(f'data_dir must have the folder {folder} ({error.strerror})') from error
