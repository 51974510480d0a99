"""Budgets that methods are compared on: a model, a schedule and a share of a folder of images."""
from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class Recipe:
    """Flags of train_timm.py that all methods share, and the number of images per class (None for all).

    `pad` adds a black border of this many pixels to training images, for crops of the original size. `label_noise` is
    the share of training images whose class is redrawn from all classes. With `eval_rest` the held-out images are all
    that are not trained on, from any split. The `unseen_classes` are in neither split but in a separate one, 'unseen':
    outliers to detect, in addition to the `outliers` that need no data.
    """

    flags: str
    train_per_class: Optional[int] = None
    eval_per_class: Optional[int] = None
    eval_split: str = 'test'
    pad: int = 0
    label_noise: float = 0.
    eval_rest: bool = False
    unseen_classes: Tuple[str, ...] = ()
    outliers: Tuple[str, ...] = ('digits', 'textures', 'photos', 'noise')


_CIFAR = '--num-classes 10 --batch-size 128 --color-jitter 0 --channels-last'
_SHIFT = '--scale 0.64 0.64 --ratio 1 1'  # 32 of 40 pixels: crops of the padded image, nothing resized
_SGD = '--opt sgd --momentum 0.9 --weight-decay 5e-4'
_ADAMW = '--opt adamw --weight-decay 0.05'
PRETRAINED = 'output/pretrained/tf_efficientnet_lite0.safetensors'
"""Weights that `benchmarks.pretrained` writes."""
_FINETUNE = (
    f'--model efficientnet_lite0_zero_head --pretrained-path {PRETRAINED} --num-classes 10 --img-size 96 '
    f'--batch-size 32 --scale 0.35 1 --channels-last {_ADAMW} --lr 5e-4')


def _schedule(epochs: int, warmup_lr: str = '1e-3', evaluations: int = 4) -> str:
    return (
        f'--epochs {epochs} --warmup-epochs {epochs // 5} --warmup-lr {warmup_lr} --sched cosine --sched-on-updates '
        f'--val-interval {epochs // evaluations}')


RECIPES = {
    'cifar5000-pad-sgd': Recipe(
        f'--model cifar_resnet14 {_CIFAR} {_SHIFT} {_schedule(40)} {_SGD} --lr 1.6', 500, 400, pad=4),
    'cifar5000-pad-adamw': Recipe(
        f'--model cifar_resnet14 {_CIFAR} {_SHIFT} {_schedule(40)} {_ADAMW} --lr 0.1', 500, 400, pad=4),
    'cifar5000-pad-vit': Recipe(
        f'--model cifar_vit {_CIFAR} {_SHIFT} {_schedule(40)} {_ADAMW} --lr 1e-3', 500, 400, pad=4),
    # as many steps on a quarter of the images: what regularisers do once the training images are fitted
    'cifar1250-pad-sgd': Recipe(
        f'--model cifar_resnet14 {_CIFAR} {_SHIFT} {_schedule(160)} {_SGD} --lr 1.6', 125, 400, pad=4),
    'cifar5000-noisy': Recipe(
        f'--model cifar_resnet14 {_CIFAR} {_SHIFT} {_schedule(40)} {_SGD} --lr 0.4', 500, 400, pad=4, label_noise=0.4),
    # both of these: wrong labels that are fitted
    'cifar1250-noisy': Recipe(
        f'--model cifar_resnet14 {_CIFAR} {_SHIFT} {_schedule(160)} {_SGD} --lr 0.4', 125, 400, pad=4, label_noise=0.4),
    # for any folder of ten classes; float32, as bfloat16 does not make depthwise convolutions faster on a CPU
    'finetune-few': Recipe(f'{_FINETUNE} {_schedule(20, "1e-5", 1)}', 30, eval_rest=True),
    'finetune': Recipe(f'{_FINETUNE} {_schedule(8, "1e-5", 1)}', eval_rest=True),
    'cifar10': Recipe(
        f'--model cifar_resnet18 {_CIFAR} {_SHIFT} {_schedule(40)} {_SGD} --lr 0.1 --pin-mem', pad=4),
    # half a minute per run, the whole suite in minutes; images by `benchmarks.suite.digits_folder`
    'digits': Recipe(
        '--model cifar_resnet14 --num-classes 8 --input-size 3 16 16 --batch-size 64 --color-jitter 0 --hflip 0 '
        '--scale 0.7 1 --ratio 0.9 1.1 --epochs 20 --warmup-epochs 2 --warmup-lr 1e-3 --sched cosine '
        f'--sched-on-updates --val-interval 20 --workers 0 {_ADAMW} --lr 3e-3',
        train_per_class=60, unseen_classes=('8', '9'), outliers=('textures', 'photos', 'noise')),
}
"""The budgets by name: six for a CPU with a part of CIFAR-10, two for fine-tuning, one for a GPU, and a tiny one."""

REGIMES = {
    'short': 'cifar5000-pad-sgd',
    'vit': 'cifar5000-pad-vit',
    'fitted': 'cifar1250-pad-sgd',
    'noisy': 'cifar5000-noisy',
    'finetune-few': 'finetune-few',
    'finetune': 'finetune',
}
"""Recipes of `benchmarks.regimes` by the regime that each stands for."""
