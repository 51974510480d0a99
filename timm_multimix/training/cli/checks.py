"""What is refused before anything is built."""
import argparse

from timm.task import ClassificationEvaluator, MultiLabelClassificationEvaluator

from ..._checks import check_alpha
from ...head import MODES
from ...loss import PAPER
from .rules import check_combinations, flag_name, mixes_images, mixes_input
from .multimix import check_mixupe, check_teacher
from .ranges import check_ranges

_INTERPOLATIONS = ('', 'random', 'nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
_ALLOWED = dict(
    amp_dtype=('float16', 'bfloat16'),
    clip_mode=('norm', 'value', 'agc'),
    dist_bn=('', 'broadcast', 'reduce'),
    fuser=('', 'te', 'old', 'legacy', 'nvfuser', 'nvf'),
    input_img_mode=('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'I', 'F'),
    interpolation=tuple(name for name in _INTERPOLATIONS if name != 'random'),
    lr_base_scale=('', 'linear', 'sqrt'),
    remode=('const', 'pixel', 'rand'),
    train_crop_mode=('rrc', 'rkrc', 'rkrr'),
    train_interpolation=_INTERPOLATIONS,
    worker_seeding=('all', 'part'),
)


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        ValueError: Naming the flag, its value and what is allowed.
    """
    check_ranges(args)
    for name in ('scale', 'ratio'):
        value = getattr(args, name)
        if len(value) != 2 or not 0. < value[0] <= value[1]:
            raise ValueError(f'{flag_name(name)} must be two numbers, 0 < low <= high, got {value}')
    if not args.val_split:
        raise ValueError("--val-split must name a split to validate on, got ''")
    if not 0 <= args.seed < 2 ** 32 - 1024:  # each process adds its rank
        raise ValueError(f'--seed must be from 0 to 2 ** 32 - 1025, got {args.seed}')
    if args.in_chans is not None and args.input_size and args.in_chans != args.input_size[0]:
        raise ValueError(f'--in-chans must be that of --input-size ({args.input_size[0]}), got {args.in_chans}')
    minmax = args.cutmix_minmax
    if minmax is not None and (len(minmax) != 2 or not 0. <= minmax[0] < minmax[1] <= 1.):
        raise ValueError(f'--cutmix-minmax must be two numbers, 0 <= min < max <= 1, got {minmax}')
    for name, allowed in _ALLOWED.items():
        value = getattr(args, name)
        if value is not None and value not in allowed:
            raise ValueError(f'{flag_name(name)} must be one of {", ".join(map(repr, allowed))}, got {value!r}')
    in_chans = args.input_size[0] if args.input_size else args.in_chans or 3
    for name in ('mean', 'std'):
        value = getattr(args, name)
        if value is not None and (len(value) not in (1, in_chans) or (name == 'std' and min(value) <= 0.)):
            raise ValueError(f'{flag_name(name)} must be 1 or {in_chans} numbers, std > 0, got {value}')
    if args.amp and args.model_dtype not in (None, 'float32'):
        raise ValueError(f'--model-dtype must be float32 with --amp, got {args.model_dtype!r}')
    if args.resume == 'auto' and not args.experiment:
        raise ValueError("--resume auto needs --experiment, the name of the run's folder")
    own_data = args.dataset == 'digits' or args.dataset.lower().startswith(('hfds/', 'hfids/', 'tfds/', 'wds/'))
    if not args.data and not args.data_dir and not own_data:
        raise ValueError("no data: give a folder, as DIR or --data-dir, or --dataset digits")
    last_epoch = args.epochs + args.cooldown_epochs + (args.warmup_epochs if args.warmup_prefix else 0)
    if args.stop_epoch is not None and args.stop_epoch > last_epoch:
        raise ValueError(f'--stop-epoch must be at most the {last_epoch} epochs of the schedule, got {args.stop_epoch}')
    if not all(1 <= epoch <= last_epoch for epoch in args.save_epochs or ()):
        raise ValueError(
            f'--save-epochs must be from 1 to the {last_epoch} epochs of the schedule, got {args.save_epochs}')
    evaluator = MultiLabelClassificationEvaluator if args.task == 'multilabel' else ClassificationEvaluator
    if args.eval_metric not in evaluator.metric_names:
        raise ValueError(
            f'--eval-metric must be one of {", ".join(map(repr, evaluator.metric_names))} with --task {args.task}, '
            f'got {args.eval_metric!r}')
    check_mixing(args)
    check_combinations(args)


def check_mixing(args: argparse.Namespace) -> None:
    """Refuse flags of mixing that do not fit the mode or each other.

    Raises:
        ValueError: Naming the flag, its value and what is allowed.
    """
    check_mixupe(args)
    given = [name for name, value in vars(args).items() if name.startswith('multimix_') and value is not None]
    if args.mixup_mode not in MODES:
        if given:
            raise ValueError(
                f'{flag_name(given[0])} needs --mixup-mode multimix or dense-multimix, got {args.mixup_mode!r}')
        if mixes_input(args) and args.batch_size % 2 and not args.naflex_loader:
            raise ValueError(
                f'--batch-size must be even with --mixup-mode {args.mixup_mode}, got {args.batch_size}; '
                f'the multimix modes take any')
        return
    if args.mixup_mode != 'dense-multimix':
        for name in ('multimix_attention', 'multimix_activation'):
            if name in given:
                raise ValueError(f'{flag_name(name)} needs --mixup-mode dense-multimix, got {args.mixup_mode!r}')
    check_teacher(args)
    if args.multimix_paper:
        clash = [name for name in given if name.replace('multimix_', '') in PAPER]
        if clash:
            raise ValueError(f'{flag_name(clash[0])} is set by --multimix-paper; give one of them')
    if args.multimix_input_prob is not None and not mixes_images(args):
        raise ValueError('--multimix-input-prob needs --mixup, --cutmix or --cutmix-minmax, which mix the images')
    if args.multimix_input_prob == 'auto' and args.task == 'multilabel':
        raise ValueError('--multimix-input-prob auto needs --task classification: it follows top-1 accuracy')
    if args.multimix_alpha is not None and len(args.multimix_alpha) > 2:
        raise ValueError(f'--multimix-alpha must be one number or a range of two, got {args.multimix_alpha}')
    if args.multimix_length is not None and args.multimix_length > args.batch_size:
        raise ValueError(
            f'--multimix-length must be at most the batch size ({args.batch_size}), got {args.multimix_length}')
    alpha = args.multimix_alpha
    if alpha is not None:
        check_alpha(alpha[0] if len(alpha) == 1 else tuple(alpha))
