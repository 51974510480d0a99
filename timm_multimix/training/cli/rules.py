"""Checks of the arguments before anything is built: declarations of single flags, and rules for several together."""
import argparse
import logging
from typing import Any, Dict, Iterator, List, Optional

from timm.loss import MULTI_LABEL_LOSS_TYPES
from timm.task import ClassificationEvaluator, MultiLabelClassificationEvaluator

from ...checks import UsageError, check_several_classes
from ...settings import MODES, PAPER
from .flag import Flag, Given, flag_name, numbers
from .multimix import OUR_MODES, is_second_order, mixes_images, mixes_input, needs_two_views

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


def check_args(args: argparse.Namespace, flags: Dict[str, Flag]) -> None:
    """Refuse what cannot work before anything is built; `flags` are all flags, by argument name."""
    if args.num_classes is not None and not is_binary(args):
        check_several_classes('--num-classes', args.num_classes, '--bce-loss')
    for rules in (_values(args, flags), _conditions(args, flags), _combinations(args)):
        for problem in rules:
            raise UsageError(problem)


def check_data(args: argparse.Namespace) -> None:
    """Refuse a run without data, or with two sources of it."""
    if args.data and args.data_dir and args.data != args.data_dir:
        raise UsageError(f'two folders of data: {args.data} and --data-dir {args.data_dir}; give one of them')
    own_data = args.dataset == 'digits' or args.dataset.lower().startswith(_OWN_DATA)
    if not args.data and not args.data_dir and not own_data:
        raise UsageError('no data: give a folder, as DIR or --data-dir, or --dataset digits')
    if args.resume == 'auto' and not args.experiment:
        raise UsageError("--resume auto needs --experiment, the name of the run's folder")


def warn_of_ignored(args: argparse.Namespace, flags: Dict[str, Flag]) -> None:
    """Warn of flags of mixing that have no effect: timm ignores them without a word."""
    given = [name for name in _MIXING if flags[name].is_given(getattr(args, name))]
    if args.mixup_mode not in OUR_MODES and not mixes_images(args):
        for name in given:
            _logger.warning(f'{flag_name(name)} has no effect without --mixup, --cutmix or --cutmix-minmax.')
    elif 'mixup_switch_prob' in given and not (args.mixup > 0. and (args.cutmix > 0. or args.cutmix_minmax)):
        _logger.warning('--mixup-switch-prob has no effect without both --mixup and --cutmix.')


def _values(args: argparse.Namespace, flags: Dict[str, Flag]) -> Iterator[str]:
    """What is wrong with single values."""
    for flag in flags.values():
        value = getattr(args, flag.dest)
        if value is not None and flag.allowed is not None and not flag.allowed.holds(value):
            yield f'{flag.name} must {flag.allowed.text}, got {value!r}'
        for x in numbers(value):
            if not abs(x) < float('inf'):
                yield f'{flag.name} must be a finite number, got {value}'
            if isinstance(x, int) and flag.dest != 'seed' and not -2 ** 31 <= x < 2 ** 31:
                yield f'{flag.name} must be below 2 ** 31, got {value}'


def _conditions(args: argparse.Namespace, flags: Dict[str, Flag]) -> Iterator[str]:
    """What flags need or exclude by their declaration."""
    given = [flag for flag in flags.values() if flag.is_given(getattr(args, flag.dest))]
    for flag in given:
        for condition in flag.needs:
            if _first(condition, args, flags) is None:
                # if the flag is a choice with a default, only this value needs the other flag
                name = f'{flag.name} {getattr(args, flag.dest)}' if flag.choices and flag.default else flag.name
                got = f', got {getattr(args, condition.names[0])!r}' if condition.values else ''
                yield f'{name} needs {condition.text}{condition.reason(", ")}{got}'
    for flag in given:
        for condition in flag.excludes:
            if (other := _first(condition, args, flags)) is not None:
                yield f'{flag.name} does not go with {other}{condition.reason(": ")}'


def _first(condition: Given, args: argparse.Namespace, flags: Dict[str, Flag]) -> Optional[str]:
    """The first flag that fulfils a condition, with its value if the condition names values; None if there is none."""
    for name in condition.names:
        value = getattr(args, name)
        if condition.values:
            if value in condition.values:
                return f'{flags[name].name} {value}'
        elif flags[name].is_given(value):
            return flags[name].name
    return None


def _combinations(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with several flags together, beyond their declarations."""
    yield from _optimizer(args)
    yield from _images(args)
    yield from _losses(args)
    yield from _mixing(args)
    yield from _epochs_and_validation(args)


def _optimizer(args: argparse.Namespace) -> Iterator[str]:
    if args.amp and args.model_dtype not in (None, 'float32'):
        yield f'--model-dtype must be float32 with --amp, got {args.model_dtype!r}'
    if not is_second_order(args):
        return
    if args.multimix_implementation not in (None, 'reference'):
        yield (f'--multimix-implementation must be reference with --opt {args.opt}, which needs second derivatives, '
               f'got {args.multimix_implementation!r}')
    for name in ('torchcompile', 'torchscript', 'sync_bn', 'grad_checkpointing', 'mixupe_exact'):
        if getattr(args, name):
            yield f'{flag_name(name)} does not go with --opt {args.opt}: it needs further derivatives'


def _images(args: argparse.Namespace) -> Iterator[str]:
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
    lists: Dict[str, Optional[List[Any]]] = {
        name: getattr(args, name) for name in ('train_batch_sizes', 'train_size_probs')}
    for name, values in lists.items():
        if args.train_img_sizes and values is not None and len(values) != len(args.train_img_sizes):
            yield (f'{flag_name(name)} must have one value for each of --train-img-sizes '
                   f'({len(args.train_img_sizes)}), got {len(values)}')


def _losses(args: argparse.Namespace) -> Iterator[str]:
    asked = [flag_name(name) for name in ('loss', 'bce_loss', 'jsd_loss') if getattr(args, name)]
    if len(asked) > 1:
        yield f'{asked[0]} and {asked[1]} both choose the criterion; give one of them'
    loss = loss_type(args)
    mixes = mixes_input(args) or args.mixup_mode in MODES
    for name in ('bce_sum', 'bce_target_thresh', 'bce_pos_weight'):
        if loss != 'bce' and getattr(args, name) is not None and getattr(args, name) is not False:
            yield f'{flag_name(name)} needs --bce-loss, the criterion is {loss!r}'
    if args.task == 'multilabel' and loss not in MULTI_LABEL_LOSS_TYPES:
        yield f'--task multilabel needs one of the losses {", ".join(MULTI_LABEL_LOSS_TYPES)}, got {loss!r}'
    if loss == 'db':
        yield '--loss db needs the counts of the classes, for which there is no flag'
    if loss in ('twoway', 'zlpr') and mixes:
        yield f'--loss {loss} accepts only labels of 0 and 1, so it does not go with mixing'
    if loss == 'jsd' and args.aug_splits < 2:
        yield f'--jsd-loss needs --aug-splits of 2 or more, got {args.aug_splits}'
    if loss == 'asl' and args.task != 'multilabel' and mixes:
        yield '--loss asl accepts only class indices, so it does not go with mixing'
    if args.mixup_mode == 'mixupe' and args.task != 'classification':
        yield f'--mixup-mode mixupe needs --task classification, got {args.task!r}'
    chosen = '--bce-loss' if args.bce_loss else f'--loss {args.loss}'
    if args.mixup_mode == 'mixupe' and loss != 'ce':
        yield f'--mixup-mode mixupe needs cross-entropy, got {chosen}'
    if args.multimix_teacher_decay is not None and loss != 'ce':
        yield f'--multimix-teacher-decay needs cross-entropy, got {chosen}'


def _mixing(args: argparse.Namespace) -> Iterator[str]:
    if mixes_input(args) and args.batch_size % 2 and not args.naflex_loader:
        yield (f'--batch-size must be even with --mixup-mode {args.mixup_mode}, got {args.batch_size}; the multimix '
               f'modes accept any')
    sizes: List[int] = (args.train_img_sizes and args.train_batch_sizes) or [args.batch_size]
    if mixes_input(args) and args.train_img_sizes and any(size % 2 for size in sizes):
        yield f'--train-batch-sizes must be even with --mixup or --cutmix, got {args.train_batch_sizes}'
    if needs_two_views(args) and args.resplit:
        yield ("--resplit does not erase the first of two views, the student's; leave it out, or give "
               '--multimix-single-view')
    if needs_two_views(args) and args.train_img_sizes:
        yield '--train-img-sizes with --multimix-teacher-decay needs --multimix-single-view'
    for keyword in PAPER if args.multimix_paper else ():
        if getattr(args, f'multimix_{keyword}', None) is not None:
            yield f'{flag_name("multimix_" + keyword)} is set by --multimix-paper; give one of them'
    if args.multimix_strength == 'auto' and args.task == 'multilabel':
        yield '--multimix-strength auto needs --task classification: it follows top-1 accuracy'
    if args.multimix_length is not None and args.multimix_length > min(sizes):
        smallest = 'smallest batch' if args.train_img_sizes else 'batch size'
        yield f'--multimix-length must be at most the {smallest} ({min(sizes)}), got {args.multimix_length}'


def _epochs_and_validation(args: argparse.Namespace) -> Iterator[str]:
    last = args.epochs + args.cooldown_epochs + (args.warmup_epochs if args.warmup_prefix else 0)
    if args.stop_epoch is not None and args.stop_epoch > last:
        yield f'--stop-epoch must be at most the {last} epochs of the schedule, got {args.stop_epoch}'
    if not all(1 <= epoch <= last for epoch in args.save_epochs or ()):
        yield f'--save-epochs must be from 1 to the {last} epochs of the schedule, got {args.save_epochs}'
    evaluator = MultiLabelClassificationEvaluator if args.task == 'multilabel' else ClassificationEvaluator
    if args.eval_metric not in evaluator.metric_names:
        yield (f'--eval-metric must be one of {", ".join(map(repr, evaluator.metric_names))} with --task {args.task}, '
               f'got {args.eval_metric!r}')
    batch_size = args.validation_batch_size or args.batch_size
    if not 0 <= args.tta <= batch_size:
        yield f'--tta must be from 0 to the validation batch size ({batch_size}), got {args.tta}'
    if args.wandb_resume_id and args.log_wandb and not args.resume:
        yield '--wandb-resume-id needs --resume, because it belongs to the resumed run'
