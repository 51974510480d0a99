"""Checked arguments from a command line and a YAML file of defaults."""
import argparse
import logging
import sys
from typing import Any, Dict, Iterable, List, Optional, Tuple

import yaml

from ...checks import UsageError
from .flag import Flag, Group, Parser
from .flags import FLAGS, GROUPS
from .multimix import default_smoothing
from .rules import check_args, check_data, warn_of_ignored

_logger = logging.getLogger('train')
_EXAMPLES = """timm's training script with MultiMix and MixupE.

  python train_timm.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix
  python train_timm.py --dataset digits --model test_resnet --img-size 32 --mixup-mode multimix --device cpu
  torchrun --nproc_per_node=8 train_timm.py --data-dir DIR --model vit_small_patch16_224 --amp --mixup-mode multimix
"""


def create_parser(
        prog: str = 'train_timm.py', groups: Iterable[Group] = GROUPS, *, usage: str = 'train_timm.py [DIR] [flags]',
        description: str = _EXAMPLES, allow_abbrev: bool = True,
) -> Parser:
    """Create a parser for groups of flags, by default for all flags."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog, usage, description, formatter_class=form, add_help=False, allow_abbrev=allow_abbrev)
    for title, flags in groups:
        group = parser.add_argument_group(title)
        for flag in flags:
            flag.add_to(group)
    group.add_argument('-h', '--help', action='help', help='show this and exit')
    parser.set_defaults(pretrained_cfg_overlay=None)
    return parser


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, str]:
    """Return the arguments, and the same as YAML text; a mistake ends the process with exit code 2 and one line."""
    parser = create_parser()
    try:
        read_defaults(parser, argv)
        args = parser.parse_args(argv)
        check(args)
        check_data(args)
    except UsageError as error:
        print(f'{parser.prog}: error: {error}', file=sys.stderr)
        sys.exit(2)
    warn_of_ignored(args)
    return args, args_text(args)


def read_defaults(parser: Parser, argv: Optional[List[str]] = None) -> None:
    """Make the values in the YAML file of --config the defaults of `parser`, which has all flags."""
    config_parser = Parser(add_help=False)
    FLAGS['config'].add_to(config_parser)
    path = config_parser.parse_known_args(argv)[0].config
    if not path:
        return
    try:
        values = _read(path)
        overlay = values.pop('pretrained_cfg_overlay', None)  # only in a file, as in timm
        if not isinstance(overlay, (dict, type(None))):
            raise UsageError(f'pretrained_cfg_overlay must hold "name: value" lines, got {overlay!r}')
        known = {name: value for name, value in values.items() if name in FLAGS and name != 'config'}
        if unknown := sorted(map(str, values.keys() - known.keys())):  # only a warning: it may be of another version
            _logger.warning(f'--config {path}: unknown names, which have no effect: {", ".join(unknown)}')
        typed = [_as_typed(FLAGS[name], value) for name, value in known.items()]
        typed.sort(key=lambda texts: texts[:1] == ['--'])  # positional arguments last
        parsed = parser.parse_args([text for texts in typed for text in texts])
    except UsageError as error:
        raise UsageError(f'--config {path}: {error}') from error
    parser.set_defaults(pretrained_cfg_overlay=overlay, **{name: getattr(parsed, name) for name in known})


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work, by flag, value and what is allowed, and set the defaults that depend on other flags."""
    if args.task == 'multilabel' and args.eval_metric == FLAGS['eval_metric'].default:
        args.eval_metric = 'map'  # as timm ranks checkpoints
    check_args(args)
    if args.smoothing is None:
        args.smoothing = default_smoothing(args)
    elif args.smoothing and not default_smoothing(args):
        _logger.warning(
            f'--smoothing {args.smoothing:g} with --mixup-mode {args.mixup_mode}: both limit the confidence of the '
            f'model, and together they gained no more than one of them; without the flag label smoothing is 0.')


def args_text(args: argparse.Namespace, **resolved: Any) -> str:
    """Return the text of args.yaml; `resolved` are the library's values of flags that were left to their defaults."""
    values = {name: value for name, value in {**vars(args), **resolved}.items() if name != 'config'}
    return yaml.safe_dump(values, default_flow_style=False)


def _read(path: str) -> Dict[Any, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            values = yaml.safe_load(file) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(' '.join(str(error).split())) from error
    if not isinstance(values, dict):
        raise UsageError(f'must hold "name: value" lines, got a {type(values).__name__}')
    return values


def _as_typed(flag: Flag, value: Any) -> List[str]:
    """The part of a command line that gives a flag this value."""
    if type(value) is type(flag.default) and value == flag.default:
        return []
    takes_many = flag.nargs not in (None, '?')
    kind, fits = (
        ('true or false', isinstance(value, bool)) if flag.is_switch else
        ('"name: value" lines', isinstance(value, dict)) if flag.takes_names else
        ('text or numbers' if takes_many else 'one text or number', all(
            isinstance(item, (str, int, float)) and not isinstance(item, bool)
            for item in (value if takes_many and isinstance(value, list) else [value]))))
    if not fits:
        raise UsageError(f'{flag.dest} must be {kind}, got {value!r}')
    if flag.is_switch:
        return [flag.name] * value
    if flag.takes_names:
        return [flag.name, *(f'{name}={item!r}' for name, item in value.items())]
    if takes_many:
        return [flag.name, *map(str, value if isinstance(value, list) else [value])]
    return ['--', str(value)] if flag.is_positional else [f'{flag.name}={value}']
