"""Budgets that methods are compared on: a model, a schedule and a share of a folder of images."""
import re
from dataclasses import dataclass, field, replace
from typing import Dict, Optional, Tuple

from timm_multimix import UsageError


@dataclass(frozen=True)
class Recipe:
    """Flags of train_timm.py that all methods share, and the number of images per class (None for all).

    `pad` adds a black border of this many pixels to training images, for crops of the original size. `label_noise` is
    the share of training images whose class is redrawn from all classes. With `eval_rest` the held-out images are all
    that are not trained on, from any split. The `unseen_classes` are in neither split but in a separate one, 'unseen':
    outliers to detect, in addition to the `outliers` that need no data.

    A published setting names its `source`, the `methods` as its authors set them, and `published` top-1 (%) of test
    images. The batch size is that of all processes together.
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
    source: str = ''
    methods: Tuple[str, ...] = ()
    published: Dict[str, float] = field(default_factory=dict)


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


def _published(model: str, classes: int, epochs: int, batch_size: int, optimizer: str) -> str:
    """A published setting in float32. timm's multistep decays one step early: one update, with --sched-on-updates."""
    return (
        f'--model {model} --num-classes {classes} --epochs {epochs} --batch-size {batch_size} {optimizer} '
        f'--sched-on-updates --val-interval {max(epochs // 40, 1)} --pin-mem --channels-last')


# the authors' earlier release, whose settings MultiMix follows; 'momentum' is SGD without Nesterov
_ALIGNMIXUP = 'github.com/shashankvkt/AlignMixup_CVPR22; it reports the best epoch'
_AWESOME = 'figures: Awesome-Mixup'
_ALIGNED_SGD = '--opt momentum --momentum 0.9 --weight-decay 1e-4 --lr 0.1 --warmup-epochs 0 --sched multistep'
_ALIGNED_PIXELS = '--color-jitter 0 --mean 0.4914 0.4822 0.4465 --std 0.2023 0.1994 0.2010'
_ALIGNED_METHODS = (
    'plain', 'mixup@mixup=2', 'manifold@mixup=2', 'multimix-paper+mixup@mixup=2', 'dense-multimix-paper+mixup@mixup=2',
    'dense-multimix', 'mixup+dense-multimix@mixup=2')
_CROP_64 = f'--scale {64 * 64 / 72 ** 2:.6f} {64 * 64 / 72 ** 2:.6f} --ratio 1 1'  # 64 of 72 pixels, as _SHIFT
_CROP_36 = f'--scale {32 * 32 / 36 ** 2:.6f} {32 * 32 / 36 ** 2:.6f} --ratio 1 1'  # 32 of 36 pixels


def _aligned_cifar(model: str, classes: int, published: Dict[str, float], more: str = '') -> Recipe:
    optimizer = f'{_ALIGNED_SGD} --decay-milestones 500 1000 1500'
    return Recipe(
        f'{_published(model, classes, 2000, 128, optimizer)} {_ALIGNED_PIXELS} {_SHIFT}', pad=4,
        source=_ALIGNMIXUP + more, methods=_ALIGNED_METHODS, published=published)


# images of 64 pixels, scaled to 48 after the crop: a padding of 6 of these
_TINY20 = (
    '--model cifar_resnet14 --num-classes 20 --input-size 3 48 48 --batch-size 128 --color-jitter 0 '
    f'--channels-last {_SHIFT} --train-interpolation bicubic')

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
    # half a minute per run, the whole suite in minutes; scikit-learn's images, without a download
    'digits': Recipe(
        '--model cifar_resnet14 --num-classes 8 --input-size 3 16 16 --batch-size 64 --color-jitter 0 --hflip 0 '
        '--scale 0.7 1 --ratio 0.9 1.1 --epochs 20 --warmup-epochs 2 --warmup-lr 1e-3 --sched cosine '
        f'--sched-on-updates --val-interval 20 --workers 0 {_ADAMW} --lr 3e-3',
        train_per_class=60, unseen_classes=('8', '9'), outliers=('textures', 'photos', 'noise')),
    # 20 classes of Tiny-ImageNet, photographs with background: 150 training images a class, then 50
    'tiny20': Recipe(f'{_TINY20} {_schedule(40)} {_SGD} --lr 0.4', 150, 100, pad=8),
    'tiny20-fitted': Recipe(f'{_TINY20} {_schedule(120)} {_SGD} --lr 0.8', 50, 100, pad=8),

    # published settings, for GPUs
    'cifar10-preactresnet18': _aligned_cifar('cifar_preactresnet18', 10, {'AlignMixup (2,000 epochs)': 97.05}),
    'cifar10-wrn16-8': _aligned_cifar('cifar_wrn16_8', 10, {'AlignMixup (2,000 epochs)': 96.91}),
    'cifar100-preactresnet18': _aligned_cifar(
        'cifar_preactresnet18', 100, {
            'Mixup (200 epochs)': 78.90, 'CutMix (1,200 epochs)': 76.80, 'Manifold Mixup (1,200 epochs)': 79.66,
            'PuzzleMix (1,200 epochs)': 80.38, 'Co-Mixup (300 epochs)': 80.13, 'AlignMixup (2,000 epochs)': 81.71,
            'MultiMix (2,000 epochs)': 81.82}, f'; {_AWESOME}'),
    'cifar100-wrn16-8': _aligned_cifar('cifar_wrn16_8', 100, {'AlignMixup (2,000 epochs)': 81.23}),
    'tiny-imagenet-preactresnet18': Recipe(
        _published('cifar_preactresnet18', 200, 1200, 256, f'{_ALIGNED_SGD} --decay-milestones 600 900')
        + f' --input-size 3 64 64 {_ALIGNED_PIXELS} {_CROP_64}', eval_split='val', pad=4, source=_ALIGNMIXUP,
        methods=_ALIGNED_METHODS, published={'AlignMixup (1,200 epochs)': 66.87}),
    'imagenet-resnet50': Recipe(
        _published(
            'resnet50', 1000, 300, 1024, '--opt sgd --momentum 0.9 --weight-decay 1e-4 --lr 0.1 --warmup-epochs 0 '
            '--sched step --decay-epochs 75')
        + ' --img-size 224 --color-jitter 0.4 --interpolation bilinear --train-interpolation bilinear '
        '--crop-pct 0.875', eval_split='val', source=f'{_ALIGNMIXUP}; without its PCA noise of colours; {_AWESOME}',
        methods=_ALIGNED_METHODS, published={
            'Mixup (100 epochs)': 77.12, 'CutMix (100 epochs)': 77.17, 'PuzzleMix (100 epochs)': 77.54,
            'AlignMixup (100 epochs)': 78.00, 'MultiMix (300 epochs)': 78.81}),
    'cifar100-mixupe': Recipe(
        _published(
            'cifar_preactresnet50', 100, 800, 100, '--opt sgd --momentum 0.9 --weight-decay 1e-4 --lr 0.1 '
            '--warmup-epochs 10 --warmup-lr 0.01 --sched multistep --decay-milestones 300 600')
        + f' --color-jitter 0 {_CROP_36}', pad=2,
        source='github.com/oneHuster/MixupE, its example for CIFAR-100; the warm-up is by updates, not by epochs',
        methods=('plain', 'mixup@mixup=2', 'mixupe@mixup=2,eta=0.001,threshold=1', 'dense-multimix')),
    'imagenet-vit-small': Recipe(
        _published(
            'vit_small_patch16_224', 1000, 300, 1024, '--opt adamw --weight-decay 0.05 --lr 1e-3 --warmup-epochs 5 '
            '--warmup-lr 1e-6 --min-lr 1e-5 --sched cosine')
        + ' --img-size 224 --drop-path 0.1 --aa rand-m9-mstd0.5-inc1 --reprob 0.25 --interpolation bicubic '
        '--train-interpolation bicubic --crop-pct 0.875 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --amp '
        '--amp-dtype bfloat16', eval_split='val',
        source='DeiT (arXiv 2012.12877), without repeated augmentation; in bfloat16',
        methods=(
            'label-smoothing', 'mixup-cutmix@mixup=0.8,smoothing=0.1', 'dense-multimix@smoothing=0.1',
            'mixup-cutmix+dense-multimix@mixup=0.8,smoothing=0.1'),
        published={'DeiT-S: Mixup 0.8, CutMix, smoothing 0.1 (300 epochs)': 79.8}),
}
"""The budgets by name: for a CPU with a part of CIFAR-10 or Tiny-ImageNet, for fine-tuning, and for GPUs."""

REGIMES = {
    'short': 'cifar5000-pad-sgd',
    'vit': 'cifar5000-pad-vit',
    'fitted': 'cifar1250-pad-sgd',
    'noisy': 'cifar5000-noisy',
    'fitted, noisy': 'cifar1250-noisy',
    'finetune-few': 'finetune-few',
    'finetune': 'finetune',
    'background': 'tiny20',
    'background, fitted': 'tiny20-fitted',
}
"""Recipes by the regime that each stands for in the tables."""

_EPOCHS = re.compile(r'(--(?:epochs|warmup-epochs|val-interval|decay-epochs|decay-milestones))((?: [\d.]+)+)')


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with another number of epochs; warm-up, decays and validation keep their share of the run.

    Raises:
        UsageError: If there is no epoch.
    """
    if epochs < 1:
        raise UsageError(f'--epochs must be >= 1, got {epochs}')
    ratio = epochs / int(re.search(r'--epochs (\d+)', recipe.flags)[1])

    def scaled(match: re.Match) -> str:
        name, values = match[1], [float(value) * ratio for value in match[2].split()]
        if name != '--decay-epochs':  # which may be a fraction
            values = [max(round(value), name != '--warmup-epochs') for value in values]
        return ' '.join([name, *(f'{value:g}' for value in values)])

    return replace(recipe, flags=_EPOCHS.sub(scaled, recipe.flags))


def per_process(recipe: Recipe, processes: int) -> Recipe:
    """Return the recipe with its batch size divided among processes.

    Raises:
        UsageError: If it is no multiple of their number.
    """
    found = re.search(r'--batch-size (\d+)', recipe.flags)
    share, rest = divmod(int(found[1]), processes)
    if rest:
        raise UsageError(f'--nproc must divide the batch size of the recipe ({found[1]}), got {processes} processes')
    return replace(recipe, flags=recipe.flags.replace(found[0], f'--batch-size {share}'))
