"""Checked arguments from a command line and a YAML file of defaults."""
import argparse
import logging
import sys
from typing import Any, Iterable, List, Optional, Tuple

import yaml

from ...checks import UsageError
from .config import read_defaults
from .flag import Group, Parser
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
