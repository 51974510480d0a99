"""From a command line, and a YAML file of defaults, to checked arguments."""
import argparse
import logging
import math
from typing import List, Optional, Tuple

import yaml

from .._checks import check_alpha
from ..head import MODES
from ..loss import PAPER
from . import flags
from .methods import check_mixupe, check_teacher

_logger = logging.getLogger('train')

_INTERPOLATIONS = ('', 'random', 'nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
_ALLOWED = dict(
    amp_dtype=('float16', 'bfloat16'),
    clip_mode=('norm', 'value', 'agc'),
    dist_bn=('', 'broadcast', 'reduce'),
    eval_metric=('loss', 'top1', 'top5'),
    interpolation=_INTERPOLATIONS,
    lr_base_scale=('', 'linear', 'sqrt'),
    remode=('const', 'pixel', 'rand'),
    train_crop_mode=('rrc', 'rkrc', 'rkrr'),
    train_interpolation=_INTERPOLATIONS,
    worker_seeding=('all', 'part'),
)


def create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='train_timm.py', description="timm's training, plus MultiMix", allow_abbrev=False)
    parser.add_argument('-c', '--config', default='', type=str, metavar='FILE', help='YAML file of default arguments')
    flags.add_dataset_flags(parser)
    flags.add_model_flags(parser)
    flags.add_device_flags(parser)
    flags.add_optimizer_flags(parser)
    flags.add_schedule_flags(parser)
    flags.add_augmentation_flags(parser)
    flags.add_multimix_flags(parser)
    flags.add_mixupe_flags(parser)
    flags.add_batch_norm_flags(parser)
    flags.add_ema_flags(parser)
    flags.add_misc_flags(parser)
    return parser


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, str]:
    """The arguments, and the same as YAML text; a mistake ends the process with exit code 2 and a message."""
    parser = create_parser()
    config, _ = _config_parser().parse_known_args(argv)
    if config.config:
        parser.set_defaults(**_read_config(parser, config.config))
    args = parser.parse_args(argv)
    try:
        check_args(args)
    except ValueError as error:
        parser.error(str(error))
    args_text = yaml.safe_dump(vars(args), default_flow_style=False)
    return args, args_text


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('-c', '--config', default='', type=str)
    return parser


def _read_config(parser: argparse.ArgumentParser, path: str) -> dict:
    try:
        with open(path, encoding='utf-8') as file:
            config = yaml.safe_load(file) or {}
    except (OSError, yaml.YAMLError) as error:
        parser.error(f'--config {path}: {error}')
    if not isinstance(config, dict):
        parser.error(f'--config {path}: must hold "name: value" lines, got a {type(config).__name__}')
    known = {action.dest: action for action in parser._actions if action.dest not in ('config', 'help')}
    unknown = sorted(set(config) - set(known))
    if unknown:
        parser.error(f'--config {path}: unknown names {", ".join(map(str, unknown))}')
    try:
        return {name: _config_value(known[name], value) for name, value in config.items()}
    except ValueError as error:
        parser.error(f'--config {path}: {error}')


def _config_value(action: argparse.Action, value: object) -> object:
    """A YAML value as the flag would have parsed it."""
    if value is None or isinstance(value, dict):
        if (value is None and action.default is not None) or (value is not None and action.default != {}):
            raise ValueError(f'{action.dest} must have a value, got {value!r}')
        return value
    if isinstance(action, argparse._StoreTrueAction):
        if not isinstance(value, bool):
            raise ValueError(f'{action.dest} must be true or false, got {value!r}')
        return value or action.default
    many = action.nargs is not None and action.nargs != '?'
    if isinstance(value, list) and not many:
        raise ValueError(f'{action.dest} must be one value, got {value!r}')
    values = value if isinstance(value, list) else [value]
    if action.type in (int, float):
        try:
            values = [action.type(str(item)) for item in values]
        except ValueError as error:
            raise ValueError(f'{action.dest} must be {action.type.__name__}, got {value!r}') from error
    for item in values:
        if action.choices is not None and item not in action.choices:
            raise ValueError(f'{action.dest} must be one of {", ".join(action.choices)}, got {item!r}')
    return values if many else values[0]


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        ValueError: Naming the flag, its value and what is allowed.
    """
    for name in ('batch_size', 'grad_accum_steps', 'log_interval', 'val_interval', 'checkpoint_hist', 'epochs'):
        value = getattr(args, name)
        if value < 1:
            raise ValueError(f'{_flag(name)} must be >= 1, got {value}')
    for name in ('mixup_prob', 'mixup_switch_prob', 'smoothing'):
        value = getattr(args, name)
        if not 0. <= value <= 1.:
            raise ValueError(f'{_flag(name)} must be in [0, 1], got {value}')
    for name, allowed in _ALLOWED.items():
        value = getattr(args, name)
        if value is not None and value not in allowed:
            raise ValueError(f'{_flag(name)} must be one of {", ".join(map(repr, allowed))}, got {value!r}')
    if args.num_classes is not None and args.num_classes < 1:
        raise ValueError(f'--num-classes must be >= 1, got {args.num_classes}')
    in_chans = args.input_size[0] if args.input_size else args.in_chans or 3
    for name in ('mean', 'std'):
        value = getattr(args, name)
        if value is not None and (len(value) not in (1, in_chans) or (name == 'std' and min(value) <= 0.)):
            raise ValueError(f'{_flag(name)} must be 1 or {in_chans} numbers, std > 0, got {value}')
    for name in ('mixup', 'cutmix'):
        value = getattr(args, name)
        if not 0. <= value < math.inf:
            raise ValueError(f'{_flag(name)} must be >= 0, got {value}')
    if args.amp and args.model_dtype not in (None, 'float32'):
        raise ValueError(f'--model-dtype must be float32 with --amp, got {args.model_dtype!r}')
    if args.resume == 'auto' and not args.experiment:
        raise ValueError("--resume auto needs --experiment, the name of the run's folder")
    own_data = args.dataset == 'digits' or args.dataset.lower().startswith(('hfds/', 'hfids/', 'tfds/', 'wds/'))
    if not args.data and not args.data_dir and not own_data:
        raise ValueError("no data: give a folder, as DIR or --data-dir, or --dataset digits")
    _check_mixing(args)


def _check_mixing(args: argparse.Namespace) -> None:
    check_mixupe(args)
    given = [name for name, value in vars(args).items() if name.startswith('multimix_') and value is not None]
    if args.mixup_mode not in MODES:
        if given:
            raise ValueError(
                f'{_flag(given[0])} needs --mixup-mode multimix or dense-multimix, got {args.mixup_mode!r}')
        if mixes_input(args) and args.batch_size % 2:
            raise ValueError(
                f'--batch-size must be even with --mixup-mode {args.mixup_mode}, got {args.batch_size}; '
                f'the multimix modes take any')
        return
    if args.mixup_mode != 'dense-multimix':
        for name in ('multimix_attention', 'multimix_activation'):
            if name in given:
                raise ValueError(f'{_flag(name)} needs --mixup-mode dense-multimix, got {args.mixup_mode!r}')
    check_teacher(args)
    if args.multimix_paper:
        clash = [name for name in given if name.replace('multimix_', '') in PAPER]
        if clash:
            raise ValueError(f'{_flag(clash[0])} is set by --multimix-paper; give one of them')
    if args.mixup > 0. and args.multimix_alpha is not None:
        raise ValueError('--mixup and --multimix-alpha are the same concentration; give one of them')
    if args.multimix_alpha is not None and len(args.multimix_alpha) > 2:
        raise ValueError(f'--multimix-alpha must be one number or a range of two, got {args.multimix_alpha}')
    if args.multimix_length is not None and args.multimix_length > args.batch_size:
        raise ValueError(
            f'--multimix-length must be at most the batch size ({args.batch_size}), got {args.multimix_length}')
    check_alpha(multimix_kwargs(args).get('alpha', 1.))


def mixes_input(args: argparse.Namespace) -> bool:
    """Whether the flags ask for timm's own Mixup."""
    asked = args.mixup > 0. or args.cutmix > 0. or args.cutmix_minmax is not None
    return args.mixup_mode not in (*MODES, 'mixupe') and asked


def multimix_kwargs(args: argparse.Namespace) -> dict:
    """Keyword arguments of `MultiMixTask` that the flags set; the library's defaults stand for the others."""
    alpha = args.multimix_alpha
    if alpha is not None:
        alpha = alpha[0] if len(alpha) == 1 else tuple(alpha)
    elif args.mixup > 0.:
        alpha = args.mixup
    given = dict(
        num_tuples=args.multimix_tuples,
        alpha=alpha,
        concentration=args.multimix_concentration,
        length=args.multimix_length,
        clean_weight=args.multimix_clean_weight,
        attention=args.multimix_attention,
        activation=args.multimix_activation,
        teacher_decay=args.multimix_teacher_decay,
        teacher_warmup=args.multimix_teacher_warmup,
        gamma=args.multimix_gamma,
        single_view=args.multimix_single_view,
    )
    given = {name: value for name, value in given.items() if value is not None}
    return {**PAPER, **given} if args.multimix_paper else given


def scaled_learning_rate(args: argparse.Namespace) -> float:
    """--lr, or --lr-base scaled by the global batch size: linearly, or by its root for adaptive optimizers."""
    if args.lr is not None:
        return args.lr
    global_batch_size = args.batch_size * args.world_size * args.grad_accum_steps
    ratio = global_batch_size / args.lr_base_size
    adaptive = any(name in args.opt.lower() for name in ('ada', 'lamb'))
    scale = args.lr_base_scale or ('sqrt' if adaptive else 'linear')
    lr = args.lr_base * (ratio ** 0.5 if scale == 'sqrt' else ratio)
    _logger.info(
        f'Learning rate ({lr}) calculated from base learning rate ({args.lr_base}) '
        f'and effective global batch size ({global_batch_size}) with {scale} scaling.')
    return lr


def _flag(name: str) -> str:
    return '--' + name.replace('_', '-')
