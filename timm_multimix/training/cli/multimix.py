"""The flags of MultiMix and MixupE, and the arguments of the tasks that they set."""
import argparse
import inspect
import re
from functools import partial
from typing import Any, Dict, Tuple, Union

from timm.optim import get_optimizer_info
from timm.task import TrainingTask

from ...checks import UsageError
from ...functional import ACTIVATIONS, ATTENTION_KINDS, CONCENTRATIONS, IMPLEMENTATIONS
from ...settings import DENSE_TUPLES, DENSE_TUPLES_RANGE, MODES, PAPER, Settings
from ...tasks.mixupe import MixupETask
from ...tasks.multimix import MultiMixTask
from .flag import FROM_0, Flag, Given, Group

OUR_MODES = (*MODES, 'mixupe')
_MULTIMIX = Given('mixup_mode', values=MODES)
_DENSE = Given('mixup_mode', values=('dense-multimix',))
_TEACHER = Given('multimix_teacher_decay', why='which turns self-distillation on')
_MIXUPE = Given('mixup_mode', values=('mixupe',))


def strength(text: str) -> Union[float, str]:
    try:
        return text if text == 'auto' else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1 or 'auto', got {text!r}") from error


def _flag(name: str, needs: Given, *more_needs: Given, **declaration: Any) -> Flag:
    """A flag with default None, for the library's own default, so it can be refused if the mode does not use it."""
    keyword = _keyword(name.lstrip('-').replace('-', '_'))
    parameter = inspect.signature(MixupETask if needs is _MIXUPE else Settings).parameters.get(keyword)
    return Flag(name, needs=(needs, *more_needs), shown_default=parameter and parameter.default, **declaration)


def _keyword(dest: str) -> str:
    """The argument of the task that a flag sets."""
    keyword = dest.split('_', 1)[1]
    return 'num_tuples' if keyword == 'tuples' else keyword


_switch = partial(_flag, action='store_true')
_MODE = Flag(
    '--mixup-mode', type=str, default='batch', choices=('batch', 'pair', 'elem', *OUR_MODES),
    help="batch, pair, elem: timm's Mixup of the images, active with --mixup or --cutmix; multimix, dense-multimix: "
         'mix embeddings, and with --mixup or --cutmix the images of half of the batches; mixupe: Mixup with the term '
         'of MixupE')

_tuples = Settings().tuples
_MULTIMIX_FLAGS = (
    _flag('--multimix-tuples', _MULTIMIX, type=int, metavar='N',
          help=f'tuples per step ({_tuples()}), or per position of dense-multimix ({DENSE_TUPLES} / positions, from '
               f'{DENSE_TUPLES_RANGE[0]} to {DENSE_TUPLES_RANGE[1]}: {_tuples(49)} at 49 positions, {_tuples(196)} at '
               '196)'),
    _flag('--multimix-alpha', _MULTIMIX, type=float, nargs='+', metavar='A',
          help='Dirichlet concentration, or the ends of a range'),
    _flag('--multimix-concentration', _MULTIMIX, choices=CONCENTRATIONS,
          help='total: alpha is the sum over a tuple, whatever its length; example: alpha of each example'),
    _flag('--multimix-length', _MULTIMIX, type=int, metavar='M', help='examples per tuple (default: the whole batch)'),
    _flag('--multimix-clean-weight', _MULTIMIX, type=float, metavar='W', help='weight of the plain cross-entropy'),
    _flag('--multimix-input-prob', _MULTIMIX,
          Given('mixup', 'cutmix', 'cutmix_minmax', why='which mix the images'),
          type=float, metavar='P',
          help='with --mixup or --cutmix, the share of mixed batches that mix images instead of embeddings'),
    _flag('--multimix-strength', _MULTIMIX, type=strength, metavar='S',
          help='share of the batches that are mixed, in addition to --mixup-prob; auto: follows the training accuracy, '
               'from none below 0.7 to all above 0.95; then only batches that are not mixed have --smoothing'),
    _flag('--multimix-attention', _DENSE, choices=ATTENTION_KINDS, help='attention of dense-multimix'),
    _flag('--multimix-activation', _DENSE, choices=ACTIVATIONS, help='activation of that attention'),
    _flag('--multimix-implementation', _MULTIMIX, choices=('auto', *IMPLEMENTATIONS), help='how the loss is computed'),
    _switch('--multimix-gather', _MULTIMIX, help='mix over the batches of all processes'),
    _flag('--multimix-teacher-decay', _MULTIMIX, Given('task', values=('classification',)),
          type=float, metavar='D',
          help='self-distillation from a moving average of the model with this decay'),
    _switch('--multimix-teacher-warmup', _MULTIMIX, _TEACHER, help='warm up that decay'),
    _flag('--multimix-gamma', _MULTIMIX, _TEACHER, type=float, metavar='G',
          help='weight of the labels; the teacher has the rest'),
    _switch('--multimix-single-view', _MULTIMIX, _TEACHER,
            help='the teacher sees the same augmented images as the model, not a second view of them'),
    _switch('--multimix-paper', _MULTIMIX,
            help='the literal setting of the paper, without label smoothing; for long schedules',
            excludes=(Given(*(f'multimix_{name}' for name in PAPER if name != 'num_tuples'), why='it sets that'),)),
)

_MIXUPE_FLAGS = (
    _flag('--mixupe-eta', _MIXUPE, type=float, metavar='E', allowed=FROM_0, help='weight of its term; 0 is Mixup'),
    _flag('--mixupe-threshold', _MIXUPE, type=float, metavar='T',
          help='ignore the term for images for which it is T or more (default: none)'),
    _switch('--mixupe-residual-grad', _MIXUPE,
            excludes=(Given('mixupe_exact', why='in which the residual is a constant'),),
            help='differentiate the residual y - p too, as the command in the README of the authors\' release does'),
    _switch('--mixupe-exact', _MIXUPE,
            help='directional derivative by double backward; a first pass over the data gives the mean image',
            excludes=(
                Given('torchcompile', why='it has no second derivatives'),
                Given('grad_checkpointing', why='its second pass through attention has no second derivative'),
                Given('train_img_sizes', why='the mean image has one size'),
                Given('sync_bn', why='it has no second derivative'))),
)

OUR_GROUPS: Tuple[Group, ...] = (
    ('MultiMix parameters', (_MODE, *_MULTIMIX_FLAGS)),
    ('MixupE parameters', _MIXUPE_FLAGS),
)


def is_second_order(opt: str) -> bool:
    """Return whether the optimizer differentiates the gradients; False for a name that timm does not know."""
    try:
        return get_optimizer_info(opt.lower().split('_')[-1]).second_order
    except ValueError:
        return False


def mixes_images(args: argparse.Namespace) -> bool:
    """Return whether Mixup or CutMix mixes images, whatever the mode."""
    return args.mixup > 0. or args.cutmix > 0. or args.cutmix_minmax is not None


def mixes_input(args: argparse.Namespace) -> bool:
    """Return whether the flags ask for timm's own Mixup."""
    return args.mixup_mode not in OUR_MODES and mixes_images(args)


def needs_two_views(args: argparse.Namespace) -> bool:
    """Return whether the loader gives two views of every training image, the second for the teacher."""
    return args.multimix_teacher_decay is not None and not args.multimix_single_view and args.multimix_gamma != 1.


def default_smoothing(args: argparse.Namespace) -> float:
    """Return the label smoothing without --smoothing: timm's, but 0 for batches that MultiMix mixes."""
    leaves_batches_unmixed = args.multimix_strength == 'auto' and not args.multimix_paper
    return 0. if args.mixup_mode in MODES and not leaves_batches_unmixed else 0.1


def mixup_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    """Keyword arguments that timm's Mixup, NaFlexMixup and `MultiMixTask` share."""
    return dict(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
        multi_label=args.task == 'multilabel')


def multimix_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    """Keyword arguments of `MultiMixTask` that the flags set; the others keep the library's defaults."""
    given = _given(args, _MULTIMIX_FLAGS)
    given.pop('paper', None)
    if 'alpha' in given:
        alpha = given['alpha']
        given['alpha'] = alpha[0] if len(alpha) == 1 else tuple(alpha)
    if 'teacher_decay' in given:
        given['single_view'] = not needs_two_views(args)
    if args.cutmix_minmax is not None:
        given['cutmix_minmax'] = args.cutmix_minmax
    if is_second_order(args.opt):
        given.setdefault('implementation', 'reference')
    given.update(mixup_kwargs(args), mode=args.mixup_mode)
    return {**PAPER, **given} if args.multimix_paper else given


def check_settings(args: argparse.Namespace) -> None:
    """Let the library check the ranges of our flags; its message then names the flag, not the argument."""
    try:
        Settings(**multimix_kwargs(args))
    except UsageError as error:
        name, problem = re.match(r'(\w+)\S* (.*)', str(error)).groups()
        named = next((flag.name for flag in _MULTIMIX_FLAGS if _keyword(flag.dest) == name), name)
        raise UsageError(f'{named} {problem}') from error


def mixupe_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    given = _given(args, _MIXUPE_FLAGS)
    if args.mixup > 0.:
        given['mixup_alpha'] = args.mixup
    return given


def _given(args: argparse.Namespace, flags: Tuple[Flag, ...]) -> Dict[str, Any]:
    values = {_keyword(each.dest): getattr(args, each.dest) for each in flags}
    return {name: value for name, value in values.items() if value is not None}


def resolved(task: TrainingTask) -> Dict[str, Any]:
    """Return the actual values of MultiMix and MixupE flags that were left to their defaults, by argument name."""
    if isinstance(task, MixupETask):
        return dict(mixup=task.input_mixing.settings.mixup_alpha, mixupe_eta=task.eta)
    if not isinstance(task, MultiMixTask):
        return {}
    # a switch has no value that says off
    settings = {name: None if value is False else value for name, value in task.settings.in_force().items()}
    alpha = settings['alpha']
    settings.update(alpha=list(alpha) if isinstance(alpha, tuple) else [alpha], paper=None)
    return {each.dest: settings[_keyword(each.dest)] for each in _MULTIMIX_FLAGS if _keyword(each.dest) in settings}
