"""From a command line, and a YAML file of defaults, to checked arguments."""
import argparse
import logging
from typing import List, Optional, Tuple

import yaml
from timm.task import TrainingTask

from ...loss import PAPER
from ...tasks.multimix import MultiMixTask
from . import timm_flags, timm_flags_more
from .checks import check_args
from .rules import warn_of_ignored
from .multimix import needs_two_views

_logger = logging.getLogger('train')


def create_parser(prog: str = 'train_timm.py') -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="timm's training, plus MultiMix")
    parser.add_argument('-c', '--config', default='', type=str, metavar='FILE', help='YAML file of default arguments')
    timm_flags.add_dataset_flags(parser)
    timm_flags.add_model_flags(parser)
    timm_flags.add_device_flags(parser)
    timm_flags.add_optimizer_flags(parser)
    timm_flags.add_schedule_flags(parser)
    timm_flags.add_augmentation_flags(parser)
    timm_flags.add_multimix_flags(parser)
    timm_flags.add_mixupe_flags(parser)
    timm_flags.add_batch_norm_flags(parser)
    timm_flags.add_ema_flags(parser)
    timm_flags.add_misc_flags(parser)
    timm_flags_more.add_size_flags(parser)
    timm_flags_more.add_naflex_flags(parser)
    timm_flags_more.add_distillation_flags(parser)
    timm_flags_more.add_tracking_flags(parser)
    parser.set_defaults(pretrained_cfg_overlay=None)  # in a YAML file alone, as in timm
    return parser


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, str]:
    """The arguments, and the same as YAML text; a mistake ends the process with exit code 2 and a message."""
    parser = create_parser()
    read_defaults(parser, argv)
    args = parser.parse_args(argv)
    if args.task == 'multilabel' and args.eval_metric == parser.get_default('eval_metric') == 'top1':
        args.eval_metric = 'map'  # what timm ranks by there
    try:
        check_args(args)
    except ValueError as error:
        parser.error(str(error))
    warn_of_ignored(args, create_parser())
    values = {name: value for name, value in vars(args).items() if name != 'config'}
    args_text = yaml.safe_dump(values, default_flow_style=False)
    return args, args_text


def read_defaults(parser: argparse.ArgumentParser, argv: Optional[List[str]] = None) -> None:
    """Make the values of the YAML file that --config names the defaults of `parser`."""
    config_parser = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    config_parser.add_argument('-c', '--config', default='', type=str)
    path = config_parser.parse_known_args(argv)[0].config
    if path:
        parser.set_defaults(**_read_config(parser, path))


def _read_config(parser: argparse.ArgumentParser, path: str) -> dict:
    try:
        with open(path, encoding='utf-8') as file:
            config = yaml.safe_load(file) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f'--config {path}: {error}')
    if not isinstance(config, dict):
        parser.error(f'--config {path}: must hold "name: value" lines, got a {type(config).__name__}')
    overlay = config.pop('pretrained_cfg_overlay', None)
    if not isinstance(overlay, (dict, type(None))):
        parser.error(f'--config {path}: pretrained_cfg_overlay must hold "name: value" lines, got {overlay!r}')
    parser.set_defaults(pretrained_cfg_overlay=overlay)
    known = {action.dest: action for action in parser._actions if action.dest not in ('config', 'help')}
    unknown = sorted(set(config) - set(known), key=str)
    if unknown:  # as timm does: the file may be of another version
        _logger.warning(f'--config {path}: unknown names, which have no effect: {", ".join(map(str, unknown))}')
    try:
        return {name: _config_value(known[name], value) for name, value in config.items() if name in known}
    except ValueError as error:
        parser.error(f'--config {path}: {error}')


def _config_value(action: argparse.Action, value: object) -> object:
    """A YAML value as the flag would have parsed it."""
    if action.default == {} and not isinstance(value, (dict, type(None))):
        raise ValueError(f'{action.dest} must hold "name: value" lines, got {value!r}')
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
    if action.type not in (None, str):
        try:
            values = [action.type(str(item)) for item in values]
        except ValueError as error:
            raise ValueError(f'{action.dest} must be {action.type.__name__}, got {value!r}') from error
    else:  # names and paths, also where they look like a number
        if any(not isinstance(item, (str, int, float)) or isinstance(item, bool) for item in values):
            raise ValueError(f'{action.dest} must be text, got {value!r}')
        values = [str(item) for item in values]
    if isinstance(action.nargs, int) and len(values) != action.nargs:
        raise ValueError(f'{action.dest} must be {action.nargs} values, got {value!r}')
    for item in values:
        if action.choices is not None and item not in action.choices:
            raise ValueError(f'{action.dest} must be one of {", ".join(action.choices)}, got {item!r}')
    return values if many else values[0]


def multimix_kwargs(args: argparse.Namespace) -> dict:
    """Keyword arguments of `MultiMixTask` that the flags set; the library's defaults stand for the others."""
    alpha = args.multimix_alpha
    if alpha is not None:
        alpha = alpha[0] if len(alpha) == 1 else tuple(alpha)
    given = dict(
        mode=args.mixup_mode,
        multi_label=args.task == 'multilabel',
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        cutmix_minmax=args.cutmix_minmax,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        input_prob=args.multimix_input_prob,
        num_tuples=args.multimix_tuples,
        alpha=alpha,
        concentration=args.multimix_concentration,
        length=args.multimix_length,
        clean_weight=args.multimix_clean_weight,
        attention=args.multimix_attention,
        activation=args.multimix_activation,
        implementation=args.multimix_implementation,
        gather=args.multimix_gather,
        teacher_decay=args.multimix_teacher_decay,
        teacher_warmup=args.multimix_teacher_warmup,
        gamma=args.multimix_gamma,
        single_view=None if args.multimix_teacher_decay is None else not needs_two_views(args),
    )
    given = {name: value for name, value in given.items() if value is not None}
    return {**PAPER, **given} if args.multimix_paper else given


def resolved_text(args_text: str, task: TrainingTask) -> str:
    """args.yaml with the values of MultiMix that flags left to a default, as they are in force."""
    if not isinstance(task, MultiMixTask):
        return args_text
    values = yaml.safe_load(args_text)
    names = dict(num_tuples='tuples')
    settings = {f'multimix_{names.get(name, name)}': value for name, value in task.settings.items()}
    alpha = settings['multimix_alpha']
    settings.update(multimix_alpha=list(alpha) if isinstance(alpha, tuple) else [alpha], multimix_paper=None)
    # what a flag turns on has no value that says off
    settings = {name: None if value is False else value for name, value in settings.items()}
    return yaml.safe_dump({**values, **settings}, default_flow_style=False)


def scaled_learning_rate(args: argparse.Namespace, world_size: int) -> float:
    """--lr, or --lr-base scaled by the global batch size: linearly, or by its root for adaptive optimizers."""
    if args.lr is not None:
        return args.lr
    global_batch_size = args.batch_size * world_size * args.grad_accum_steps
    ratio = global_batch_size / args.lr_base_size
    adaptive = any(name in args.opt.lower() for name in ('ada', 'lamb'))
    scale = args.lr_base_scale or ('sqrt' if adaptive else 'linear')
    lr = args.lr_base * (ratio ** 0.5 if scale == 'sqrt' else ratio)
    _logger.info(
        f'Learning rate ({lr}) calculated from base learning rate ({args.lr_base}) '
        f'and effective global batch size ({global_batch_size}) with {scale} scaling.')
    return lr
