"""The range of every flag that is a number, or a list of them."""
import argparse
import math
from typing import Any, Iterable

from ...loss import MAX_CLEAN_WEIGHT
from .rules import flag_name

_FROM_1 = (  # integers
    'batch_size', 'validation_batch_size', 'grad_accum_steps', 'log_interval', 'val_interval', 'checkpoint_hist',
    'epochs', 'stop_epoch', 'lr_base_size', 'lr_cycle_limit', 'recount', 'num_classes', 'img_size', 'in_chans',
    'input_size', 'train_num_samples', 'val_num_samples', 'train_batches_per_epoch', 'train_img_sizes',
    'train_batch_sizes', 'naflex_train_seq_lens', 'naflex_max_seq_len', 'naflex_patch_sizes', 'kd_student_feature_dim',
    'kd_teacher_feature_dim', 'multimix_tuples', 'multimix_length')
_FROM_0 = (
    'workers', 'start_epoch', 'recovery_interval', 'max_bad_steps', 'mixup_off_epoch', 'warmup_epochs',
    'cooldown_epochs', 'patience_epochs', 'decay_milestones', 'lr', 'lr_base', 'warmup_lr', 'min_lr', 'weight_decay',
    'opt_eps', 'bn_eps', 'lr_noise', 'lr_noise_pct', 'lr_noise_std', 'lr_cycle_decay', 'epoch_repeats', 'aug_repeats',
    'color_jitter', 'layer_decay_min_scale', 'layer_decay_no_opt_scale', 'distill_loss_weight', 'task_loss_weight',
    'mixup', 'cutmix', 'bce_pos_weight', 'train_size_schedule_spread',
    'naflex_patch_size_probs')
_ABOVE_0 = ('clip_grad', 'crop_pct', 'decay_epochs', 'decay_rate', 'layer_decay', 'lr_cycle_mul', 'lr_k_decay',
            'kd_temperature')
_SHARES = (
    'mixup_prob', 'mixup_switch_prob', 'smoothing', 'model_ema_decay', 'reprob', 'hflip', 'vflip', 'momentum',
    'bn_momentum', 'color_jitter_prob', 'grayscale_prob', 'gaussian_blur_prob', 'train_size_random_mix',
    'bce_target_thresh', 'multimix_input_prob')
_SHARES_BELOW_1 = ('drop', 'drop_path', 'drop_connect', 'drop_block', 'opt_betas')


def check_ranges(args: argparse.Namespace) -> None:
    """Refuse numbers that no flag takes, and those out of the range of theirs.

    Raises:
        ValueError: Naming the flag, its value and what is allowed.
    """
    for names, holds, allowed in (
            (_FROM_1, lambda x: x >= 1, '>= 1'),
            (_FROM_0, lambda x: x >= 0, '>= 0'),
            (_ABOVE_0, lambda x: x > 0, '> 0'),
            (_SHARES, lambda x: 0 <= x <= 1, 'in [0, 1]'),
            (_SHARES_BELOW_1, lambda x: 0 <= x < 1, 'in [0, 1)'),
            (('multimix_clean_weight',), lambda x: 0 <= x <= MAX_CLEAN_WEIGHT, f'in [0, {MAX_CLEAN_WEIGHT:g}]'),
    ):
        for name in names:
            value = getattr(args, name)
            if not all(map(holds, _numbers(value))):
                raise ValueError(f'{flag_name(name)} must be {allowed}, got {value}')
    for name, value in vars(args).items():
        if not all(map(math.isfinite, _numbers(value))):
            raise ValueError(f'{flag_name(name)} must be a finite number, got {value}')
        if name != 'seed' and not all(-2 ** 31 <= x < 2 ** 31 for x in _numbers(value) if isinstance(x, int)):
            raise ValueError(f'{flag_name(name)} must be below 2 ** 31, got {value}')


def _numbers(value: Any) -> Iterable[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for x in values if isinstance(x, (int, float)) and not isinstance(x, bool)]
