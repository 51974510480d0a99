"""Checks of the arguments before anything is built: declarations of single flags, and rules for several together."""
import argparse
import logging
from itertools import chain
from typing import Iterator, List, Optional

from timm.loss import MULTI_LABEL_LOSS_TYPES
from timm.task import ClassificationEvaluator, MultiLabelClassificationEvaluator

from ...checks import UsageError, check_several_classes
from ...settings import MODES
from .flag import Given, flag_name, numbers
from .flags import FLAGS
from .multimix import OUR_MODES, check_settings, is_second_order, mixes_images, mixes_input, needs_two_views

_logger = logging.getLogger('train')
_OWN_DATA = ('hfds/', 'hfids/', 'tfds/', 'wds/')  # prefixes of datasets that need no folder
_MIXING = ('mixup_mode', 'mixup_prob', 'mixup_switch_prob', 'mixup_off_epoch')


def loss_type(args: argparse.Namespace) -> str:
    """One of timm's loss types: --loss, or what --bce-loss, --jsd-loss and --task imply."""
    if args.loss:
        return args.loss
    if args.jsd_loss:
        return 'jsd'
    return 'bce' if args.bce_loss or args.task == 'multilabel' else 'ce'


def is_binary(args: argparse.Namespace) -> bool:
    """Return whether every class has a separate probability, so that they need not sum to 1."""
    return args.task == 'multilabel' or loss_type(args) == 'bce'


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built."""
    if args.num_classes is not None and not is_binary(args):
        check_several_classes('--num-classes', args.num_classes, '--bce-loss')
    for problem in chain(_values(args), _conditions(args), _combinations(args)):
        raise UsageError(problem)
    if args.mixup_mode in MODES:
        check_settings(args)


def check_data(args: argparse.Namespace) -> None:
    """Refuse a run without data, or with two sources of it."""
    if args.data and args.data_dir and args.data != args.data_dir:
        raise UsageError(f'two folders of data: {args.data} and --data-dir {args.data_dir}; give one of them')
    own_data = args.dataset == 'digits' or args.dataset.lower().startswith(_OWN_DATA)
    if not args.data and not args.data_dir and not own_data:
        raise UsageError('no data: give a folder, as DIR or --data-dir, or --dataset digits')
    if args.resume == 'auto' and not args.experiment:
        raise UsageError("--resume auto needs --experiment, the name of the run's folder")


def warn_of_ignored(args: argparse.Namespace) -> None:
    """Warn of flags of mixing that have no effect: timm ignores them without a word."""
    given = [name for name in _MIXING if FLAGS[name].is_given(getattr(args, name))]
    if args.mixup_mode not in OUR_MODES and not mixes_images(args):
        for name in given:
            _logger.warning(f'{flag_name(name)} has no effect without --mixup, --cutmix or --cutmix-minmax.')
    elif 'mixup_switch_prob' in given and not (args.mixup > 0. and (args.cutmix > 0. or args.cutmix_minmax)):
        _logger.warning('--mixup-switch-prob has no effect without both --mixup and --cutmix.')


def _values(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with single values."""
    for flag in FLAGS.values():
        value = getattr(args, flag.dest)
        if value is not None and flag.allowed is not None and not flag.allowed.holds(value):
            yield f'{flag.name} must {flag.allowed.text}, got {value!r}'
        for x in numbers(value):
            if not abs(x) < float('inf'):
                yield f'{flag.name} must be a finite number, got {value}'
            if isinstance(x, int) and flag.dest != 'seed' and not -2 ** 31 <= x < 2 ** 31:
                yield f'{flag.name} must be below 2 ** 31, got {value}'


def _conditions(args: argparse.Namespace) -> Iterator[str]:
    """What flags need or exclude by their declaration."""
    given = [flag for flag in FLAGS.values() if flag.is_given(getattr(args, flag.dest))]
    for flag in given:
        for condition in flag.needs:
            if _first(condition, args) is None:
                # if the flag is a choice with a default, only this value needs the other flag
                name = f'{flag.name} {getattr(args, flag.dest)}' if flag.choices and flag.default else flag.name
                got = f', got {getattr(args, condition.names[0])!r}' if condition.values else ''
                yield f'{name} needs {condition.text}{condition.why and f", {condition.why}"}{got}'
    for flag in given:
        for condition in flag.excludes:
            if (other := _first(condition, args)) is not None:
                yield f'{flag.name} does not go with {other}{condition.why and f": {condition.why}"}'


def _first(condition: Given, args: argparse.Namespace) -> Optional[str]:
    """The first flag that fulfils a condition, with its value if the condition names values; None if there is none."""
    for name in condition.names:
        value = getattr(args, name)
        if value in condition.values if condition.values else FLAGS[name].is_given(value):
            return f'{FLAGS[name].name} {value}' if condition.values else FLAGS[name].name
    return None


def _combinations(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with several flags together, beyond their declarations."""
    if is_second_order(args.opt):
        if args.multimix_implementation not in (None, 'reference'):
            yield (f'--multimix-implementation must be reference with --opt {args.opt}, which needs second '
                   f'derivatives, got {args.multimix_implementation!r}')
        for name in ('torchcompile', 'torchscript', 'sync_bn', 'grad_checkpointing', 'mixupe_exact'):
            if getattr(args, name):
                yield f'{flag_name(name)} does not go with --opt {args.opt}: it needs further derivatives'
    evaluator = MultiLabelClassificationEvaluator if args.task == 'multilabel' else ClassificationEvaluator
    if args.eval_metric not in evaluator.metric_names:
        yield (f'--eval-metric must be one of {", ".join(map(repr, evaluator.metric_names))} with --task {args.task}, '
               f'got {args.eval_metric!r}')
    batch_size = args.validation_batch_size or args.batch_size
    if not 0 <= args.tta <= batch_size:
        yield f'--tta must be from 0 to the validation batch size ({batch_size}), got {args.tta}'
    size = args.input_size
    if args.in_chans is not None and size and args.in_chans != size[0]:
        yield f'--in-chans must match --input-size ({size[0]}), got {args.in_chans}'
    if args.img_size is not None and size and size[1:] != [args.img_size] * 2:
        yield f'--img-size must match --input-size ({size[1]} x {size[2]}), got {args.img_size}; give one of them'
    in_chans = size[0] if size else args.in_chans or 3
    for name in ('mean', 'std'):
        value = getattr(args, name)
        if value is not None and (len(value) not in (1, in_chans) or (name == 'std' and min(value) <= 0.)):
            yield f'{flag_name(name)} must be 1 or {in_chans} numbers, std > 0, got {value}'
    for name in ('train_batch_sizes', 'train_size_probs'):
        values = getattr(args, name)
        if args.train_img_sizes and values is not None and len(values) != len(args.train_img_sizes):
            yield (f'{flag_name(name)} must have one value for each of --train-img-sizes '
                   f'({len(args.train_img_sizes)}), got {len(values)}')
    loss = loss_type(args)
    mixes = mixes_input(args) or args.mixup_mode in MODES
    if args.task == 'multilabel' and loss not in MULTI_LABEL_LOSS_TYPES:
        yield f'--task multilabel needs one of the losses {", ".join(MULTI_LABEL_LOSS_TYPES)}, got {loss!r}'
    if loss == 'db':
        yield '--loss db needs the counts of the classes, for which there is no flag'
    if mixes and (loss in ('twoway', 'zlpr') or (loss == 'asl' and args.task != 'multilabel')):
        labels = 'class indices' if loss == 'asl' else 'labels of 0 and 1'
        yield f'--loss {loss} accepts only {labels}, so it does not go with mixing'
    if loss == 'jsd' and args.aug_splits < 2:
        yield f'--jsd-loss needs --aug-splits of 2 or more, got {args.aug_splits}'
    asked = [name for name, given in (('--mixup-mode mixupe', args.mixup_mode == 'mixupe'),
                                      ('--multimix-teacher-decay', args.multimix_teacher_decay is not None)) if given]
    if asked and loss != 'ce':
        yield f'{asked[0]} needs cross-entropy, got --loss {loss}'
    sizes: List[int] = (args.train_img_sizes and args.train_batch_sizes) or [args.batch_size]
    which = '--train-batch-sizes' if len(sizes) > 1 else '--batch-size'
    if mixes_input(args) and any(size % 2 for size in sizes) and not args.naflex_loader:
        yield f'{which} must be even with --mixup-mode {args.mixup_mode}, got {sizes}; the multimix modes accept any'
    if needs_two_views(args) and args.resplit:
        yield ("--resplit does not erase the first of two views, the student's; leave it out, or give "
               '--multimix-single-view')
    if needs_two_views(args) and args.train_img_sizes:
        yield '--train-img-sizes with --multimix-teacher-decay needs --multimix-single-view'
    if args.multimix_length is not None and args.multimix_length > min(sizes):
        yield f'--multimix-length must be at most the batch size ({min(sizes)}), got {args.multimix_length}'
