"""Flags that exclude each other, and flags that have no effect alone."""
import argparse
import logging
import math

from timm.loss import MULTI_LABEL_LOSS_TYPES

from ...head import MODES
from .multimix import needs_two_views

_logger = logging.getLogger('train')

# upstream's flags that only one other flag gives a meaning; timm ignores them in silence
_PARTNERS = {
    'amp': ('amp_dtype',),
    'clip_grad': ('clip_mode',),
    'kd_model_name': (
        'kd_distill_type', 'kd_loss_type', 'distill_loss_weight', 'task_loss_weight', 'kd_temperature',
        'kd_student_feature_dim', 'kd_teacher_feature_dim', 'kd_token_distill_type'),
    'log_wandb': ('wandb_project', 'wandb_tags', 'wandb_resume_id'),
    'model_ema': ('model_ema_force_cpu', 'model_ema_decay', 'model_ema_warmup'),
    'naflex_loader': (
        'naflex_train_seq_lens', 'naflex_max_seq_len', 'naflex_patch_sizes', 'naflex_patch_size_probs',
        'naflex_loss_scale', 'naflex_patchify_channels_first'),
    'reprob': ('remode', 'recount', 'resplit'),
    'torchcompile': ('torchcompile_mode',),
    'train_img_sizes': (
        'train_batch_sizes', 'train_size_probs', 'train_size_schedule', 'train_size_schedule_spread',
        'train_size_random_mix', 'train_batches_per_epoch', 'variable_batch_loss_scale'),
}

# with the multimix modes and mixupe: what needs other batches, other outputs or another task
_NOT_WITH_MULTIMIX = {
    'naflex_loader': 'its batches are not images of one size',
    'aug_splits': 'its batches hold several views of each image',
    'jsd_loss': 'its batches hold several views of each image',
    'split_bn': 'its batches hold several views of each image',
    'torchscript': 'a scripted model has no features, and no second derivatives',
    'kd_model_name': 'it is a training task of its own',
}


def flag_name(name: str) -> str:
    """The flag of an argument."""
    return '--' + name.replace('_', '-')


def mixes_input(args: argparse.Namespace) -> bool:
    """Whether the flags ask for timm's own Mixup."""
    return args.mixup_mode not in (*MODES, 'mixupe') and mixes_images(args)


def mixes_images(args: argparse.Namespace) -> bool:
    """Whether images are mixed, by Mixup or CutMix, whatever the mode."""
    return args.mixup > 0. or args.cutmix > 0. or args.cutmix_minmax is not None


def loss_type(args: argparse.Namespace) -> str:
    """One of timm's loss types: --loss, or what --bce-loss, --jsd-loss and --task imply."""
    if args.loss:
        return args.loss
    if args.jsd_loss:
        return 'jsd'
    return 'bce' if args.bce_loss or args.task == 'multilabel' else 'ce'


def check_combinations(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other.

    Raises:
        ValueError: Naming both.
    """
    if args.mixup_mode in (*MODES, 'mixupe'):
        for name, reason in _NOT_WITH_MULTIMIX.items():
            if getattr(args, name):
                raise ValueError(f'{flag_name(name)} does not go with --mixup-mode {args.mixup_mode}: {reason}')
    _check_loss(args)
    _check_splits(args)
    _check_loaders(args)
    for first, second in (
            ('torchscript', 'torchcompile'), ('torchscript', 'sync_bn'), ('torchscript', 'grad_checkpointing'),
            ('split_bn', 'sync_bn'), ('kd_model_name', 'naflex_loader'), ('kd_model_name', 'aug_splits'),
    ):
        if getattr(args, first) and getattr(args, second):
            raise ValueError(f'{flag_name(first)} does not go with {flag_name(second)}')
    if args.target_format == 'multihot' and args.task != 'multilabel':
        raise ValueError(f'--target-format multihot needs --task multilabel, got {args.task}')
    for name in ('kd_model_name', 'multimix_teacher_decay'):
        if getattr(args, name) is not None and args.task == 'multilabel':
            raise ValueError(f'{flag_name(name)} needs --task classification, got multilabel')
    eval_batch_size = args.validation_batch_size or args.batch_size
    if not 0 <= args.tta <= eval_batch_size:
        raise ValueError(f'--tta must be from 0 to the validation batch size ({eval_batch_size}), got {args.tta}')
    if args.wandb_resume_id and args.log_wandb and not args.resume:
        raise ValueError('--wandb-resume-id needs --resume, whose run it is')


def _check_loss(args: argparse.Namespace) -> None:
    asked = [name for name in ('loss', 'bce_loss', 'jsd_loss') if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f'{flag_name(asked[0])} and {flag_name(asked[1])} both choose the criterion; give one of them')
    loss = loss_type(args)
    if loss != 'bce':
        for name in ('bce_sum', 'bce_target_thresh', 'bce_pos_weight'):
            if getattr(args, name):
                raise ValueError(f'{flag_name(name)} needs --bce-loss, the criterion is {loss!r}')
    if args.task == 'multilabel' and loss not in MULTI_LABEL_LOSS_TYPES:
        raise ValueError(f'--task multilabel needs one of the losses {", ".join(MULTI_LABEL_LOSS_TYPES)}, got {loss!r}')
    if loss == 'db':
        raise ValueError('--loss db needs the counts of each class, for which there is no flag')
    if loss in ('twoway', 'zlpr') and (mixes_input(args) or args.mixup_mode in MODES):
        raise ValueError(f'--loss {loss} takes labels of 0 and 1 alone, so it does not go with mixing')
    if loss == 'jsd' and args.aug_splits < 2:
        raise ValueError(f'--jsd-loss needs --aug-splits of 2 or more, got {args.aug_splits}')
    if loss == 'asl' and args.task != 'multilabel' and (mixes_input(args) or args.mixup_mode in MODES):
        raise ValueError('--loss asl takes class indices alone, so it does not go with mixing')


def _check_splits(args: argparse.Namespace) -> None:
    if args.aug_splits == 1 or args.aug_splits < 0:
        raise ValueError(f'--aug-splits must be 0 or at least 2, got {args.aug_splits}')
    if args.split_bn and not (args.aug_splits or args.resplit):
        raise ValueError('--split-bn needs --aug-splits or --resplit')
    if args.aug_splits:
        if mixes_input(args):
            raise ValueError('--aug-splits does not go with --mixup or --cutmix: views of one image would be mixed')
        if args.no_prefetcher:
            raise ValueError('--aug-splits does not go with --no-prefetcher, which does not join the views')


def _check_loaders(args: argparse.Namespace) -> None:
    if args.train_img_sizes:
        for name in ('naflex_loader', 'use_multi_epochs_loader', 'aug_splits', 'aug_repeats'):
            if getattr(args, name):
                raise ValueError(f'--train-img-sizes does not go with {flag_name(name)}')
        if needs_two_views(args):
            raise ValueError('--train-img-sizes with --multimix-teacher-decay needs --multimix-single-view')
        for name in ('train_batch_sizes', 'train_size_probs'):
            value = getattr(args, name)
            if value is not None and len(value) != len(args.train_img_sizes):
                raise ValueError(
                    f'{flag_name(name)} must have one value for each of --train-img-sizes '
                    f'({len(args.train_img_sizes)}), got {len(value)}')
        probs = args.train_size_probs
        if probs and (min(probs) < 0. or not 0. < sum(probs) < math.inf):
            raise ValueError(f'--train-size-probs must be >= 0 and not all 0, got {probs}')
        if mixes_input(args) and any(size % 2 for size in args.train_batch_sizes or ()):
            raise ValueError(f'--train-batch-sizes must be even with --mixup or --cutmix, got {args.train_batch_sizes}')
        if args.multimix_length and args.multimix_length > min(args.train_batch_sizes or [args.multimix_length]):
            raise ValueError(
                f'--multimix-length must be at most the smallest batch ({min(args.train_batch_sizes)}), '
                f'got {args.multimix_length}')
    if args.naflex_loader:
        for name in ('aug_splits', 'aug_repeats', 'split_bn', 'torchscript', 'channels_last', 'save_images'):
            if getattr(args, name):
                raise ValueError(f'--naflex-loader does not go with {flag_name(name)}')


def warn_of_ignored(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Say which flags have no effect, because the one that they belong to is not given."""
    for partner, names in _PARTNERS.items():
        if getattr(args, partner):
            continue
        for name in names:
            if getattr(args, name) != parser.get_default(name):
                _logger.warning(f'{flag_name(name)} has no effect without {flag_name(partner)}.')
    if args.mixup_mode == 'mixupe' and args.mixup_switch_prob != parser.get_default('mixup_switch_prob'):
        _logger.warning('--mixup-switch-prob has no effect with --mixup-mode mixupe, which is Mixup alone.')
    if args.mixup_mode not in (*MODES, 'mixupe') and not mixes_input(args):
        for name in ('mixup_mode', 'mixup_prob', 'mixup_switch_prob', 'mixup_off_epoch'):
            if getattr(args, name) != parser.get_default(name):
                _logger.warning(f'{flag_name(name)} has no effect without --mixup, --cutmix or --cutmix-minmax.')
