"""The training task that the flags ask for, with its mixing."""
import argparse
import logging
import math
from collections import Counter
from typing import Any, Callable, Dict, Optional, Tuple

import torch.nn as nn
from timm.data import Mixup
from timm.task import (
    ClassificationTask,
    FeatureDistillationTask,
    LogitDistillationTask,
    MultiLabelClassificationTask,
    TokenDistillationTask,
    TrainingTask,
)

from ..checks import call_library
from ..settings import MODES
from ..tasks.mixupe import MixupETask
from ..tasks.multimix import MultiMixTask
from .cli.multimix import mixes_input, mixupe_kwargs, multimix_kwargs
from .cli.rules import loss_type
from .data.classes import source_of
from .model import create_by_name
from .runtime import Runtime

_logger = logging.getLogger('train')


def create_task(
        args: argparse.Namespace,
        model: nn.Module,
        data_config: Dict[str, Any],
        runtime: Runtime,
) -> Tuple[TrainingTask, Optional[Callable]]:
    """Create the task, and timm's Mixup for batches on the device if the mode uses it.

    Raises:
        ValueError: If the model or the criterion does not support the mode.
    """
    loss = loss_type(args)
    multi_label = args.task == 'multilabel'
    smoothing = args.smoothing
    if loss in ('twoway', 'zlpr') and smoothing:
        _logger.info(f'--loss {loss} does not support label smoothing; --smoothing {smoothing} is ignored.')
        smoothing = 0.
    criterion_kwargs: Dict[str, Any] = dict(loss_type=loss, smoothing=smoothing)
    if loss == 'bce':
        criterion_kwargs.update(
            bce_target_thresh=args.bce_target_thresh,
            bce_sum=args.bce_sum,
            pos_weight=args.bce_pos_weight,
        )
    elif loss == 'jsd':
        criterion_kwargs['jsd_splits'] = args.aug_splits
    shared = dict(device=runtime.device, dtype=runtime.model_dtype, verbose=runtime.primary)
    if args.mixup_mode in MODES:
        task = MultiMixTask(
            model,
            criterion_kwargs=criterion_kwargs,
            **multimix_kwargs(args),
            **({'input_size': data_config['input_size']} if args.mixup_mode == 'dense-multimix' else {}),
            **shared,
        )
        return task, None

    if args.mixup_mode == 'mixupe':
        task = MixupETask(
            model, criterion_kwargs=criterion_kwargs, prob=args.mixup_prob, **mixupe_kwargs(args), **shared)
        return task, None

    mixup_fn = None
    if mixes_input(args) and not args.naflex_loader:
        # on the batch, not in the loader's workers, where --mixup-off-epoch could not end it
        mixup_fn = Mixup(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=smoothing,
            num_classes=data_config['num_classes'],
            multi_label=multi_label,
        )
    criterion_kwargs['soft_targets'] = mixes_input(args)
    if args.kd_model_name:
        return _create_distillation_task(args, model, criterion_kwargs, shared), mixup_fn
    create = MultiLabelClassificationTask if multi_label else ClassificationTask
    return call_library(f'--loss {loss}', create, model, criterion_kwargs=criterion_kwargs, **shared), mixup_fn


def _create_distillation_task(
        args: argparse.Namespace,
        model: nn.Module,
        criterion_kwargs: Dict[str, Any],
        shared: Dict[str, Any],
) -> TrainingTask:
    """Create the task that distils the pretrained --kd-model-name into `model`.

    Raises:
        ValueError: If there is no such teacher, or the model does not fit the kind of distillation.
    """
    kwargs = dict(
        student_model=model,
        teacher_model=args.kd_model_name,
        criterion_kwargs=criterion_kwargs,
        distill_loss_weight=args.distill_loss_weight,
        task_loss_weight=args.task_loss_weight,
        **shared,
    )
    if args.kd_distill_type == 'logit':
        create = LogitDistillationTask
        kwargs.update(loss_type=args.kd_loss_type, temperature=args.kd_temperature)
    elif args.kd_distill_type == 'token':
        create = TokenDistillationTask
        kwargs.update(distill_type=args.kd_token_distill_type, temperature=args.kd_temperature)
    else:
        create = FeatureDistillationTask
        kwargs.update(
            student_feature_dim=args.kd_student_feature_dim, teacher_feature_dim=args.kd_teacher_feature_dim)
    return create_by_name(f'--kd-model-name {args.kd_model_name}', args.kd_model_name, create, **kwargs)


def optimized_module(task: TrainingTask, model: nn.Module) -> nn.Module:
    """The module to optimize: the model, in feature distillation with the projection trained beside it."""
    return task.get_trainable_module() if isinstance(task, FeatureDistillationTask) else model


def prepare_mixing(task: TrainingTask, loader: Any, data_config: Dict[str, Any]) -> None:
    """Estimate the mean image for exact MixupE in one pass over the training images, unless a checkpoint has it.

    Args:
        data_config: Holds 'input_size' `(ch, h, w)`, 'mean' and 'std' of the images.
    """
    if not isinstance(task, MixupETask) or not task.exact or not task.eta:
        return
    size, mean, std = ([*data_config[name]] for name in ('input_size', 'mean', 'std'))
    source = f'{len(loader.dataset)} images of {size}, mean {mean}, std {std}'
    if task.mean_image is not None:
        if task.mean_image_source == source:
            return
        _logger.warning(f'The mean image of the checkpoint is from {task.mean_image_source or "unknown images"}.')
    _logger.info(f'Estimating the mean image from one pass over the training images: {source}.')
    task.estimate_mean_image(loader, source)


def warn_if_averages_lag(args: argparse.Namespace, num_updates: int) -> bool:
    """Warn if a moving average without warm-up stays close to the initial model for much of the run; True if so."""
    averages = [('teacher', args.multimix_teacher_decay, args.multimix_teacher_warmup, '--multimix-teacher')]
    if args.model_ema:
        averages.append(('average of --model-ema', args.model_ema_decay, args.model_ema_warmup, '--model-ema'))
    lagging = [
        (name, decay, flag) for name, decay, warmup, flag in averages
        if decay is not None and not warmup and num_updates * (1. - decay) < 10.]
    for name, decay, flag in lagging:
        _logger.warning(
            f'The {name} spans about 1 / (1 - {decay:g}) updates, but this run has {num_updates}: for long it '
            f'stays close to an early state of the model. Give {flag}-warmup, or a lower {flag}-decay.')
    return bool(lagging)


def end_mixing(task: TrainingTask, mixup_fn: Optional[Callable]) -> None:
    """Stop mixing: further batches are left as they are."""
    if mixup_fn is not None:
        mixup_fn.mixup_enabled = False
    if isinstance(task, (MultiMixTask, MixupETask)):
        task.mixup_enabled = False


def chance_level(dataset: Any, num_classes: int) -> float:
    """Accuracy of always predicting the most frequent class.

    If the labels of the dataset are not available, as for streams, the classes are taken to be equally frequent.
    """
    source = source_of(dataset)
    labels = getattr(source, 'targets', None)
    if labels is None:
        labels = [label for _, label in getattr(source, 'samples', ())]
    try:
        counts = Counter(map(int, labels))
    except (RuntimeError, TypeError, ValueError):  # lists of labels, or names
        counts = Counter()
    return max(counts.values()) / counts.total() if counts else 1. / num_classes


def warn_if_at_chance(
        args: argparse.Namespace,
        epoch: int,
        train_metrics: Dict[str, float],
        num_images: int,
        chance: float,
) -> bool:
    """Warn if a MultiMix run has learnt nothing one epoch after its warm-up, or later; True if so.

    The accuracy of the clean logits is compared with chance plus two standard deviations of chance on `num_images`.
    The first epoch does not count, as its mean includes the untrained model.

    Args:
        args: The flags.
        epoch: Epoch number, from 0.
        train_metrics: Training metrics of the epoch.
        num_images: Number of images that the epoch trained on.
        chance: See `chance_level`.
    """
    if args.mixup_mode not in MODES or epoch < max(args.warmup_epochs, 1) or 'top1' not in train_metrics:
        return False
    spread = 2. * math.sqrt(chance * (1. - chance) / num_images)
    if train_metrics['top1'] > 100. * (chance + spread):
        return False
    _logger.warning(
        f'Not learning: clean train accuracy {train_metrics["top1"]:.2f} % after epoch {epoch} is at chance: always '
        f'predicting the most frequent class gives {100. * chance:.2f} % +- {100. * spread:.2f}. Mixing may be too '
        f'strong for this schedule: lower --multimix-alpha, give --multimix-concentration total, raise '
        f'--multimix-clean-weight, or mix fewer batches by --mixup-prob.')
    return True
