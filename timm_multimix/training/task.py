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

from .._checks import call_library
from ..head import MODES
from ..tasks.mixupe import MixupETask
from ..tasks.multimix import MultiMixTask
from .cli.multimix import mixes_input, mixupe_kwargs, multimix_kwargs
from .cli.rules import loss_type
from .model import create_by_name
from .runtime import Runtime

_logger = logging.getLogger('train')


def create_task(
        args: argparse.Namespace,
        model: nn.Module,
        data_config: Dict[str, Any],
        runtime: Runtime,
) -> Tuple[TrainingTask, Optional[Callable]]:
    """The task, and timm's Mixup for batches on the device where that is the mode.

    Raises:
        ValueError: If the model or the criterion cannot serve the mode.
    """
    loss = loss_type(args)
    multi_label = args.task == 'multilabel'
    smoothing = args.smoothing
    if loss in ('twoway', 'zlpr') and smoothing:
        _logger.info(f'--loss {loss} takes no label smoothing; --smoothing {smoothing} is not used.')
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
        # on the batch, not in the loader's workers: only there can --mixup-off-epoch end it
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
    """The task that distils the pretrained --kd-model-name into `model`.

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


def tell_length(task: TrainingTask, num_batches: int) -> None:
    """Tell --multimix-input-prob auto how many batches the whole run trains on, in one process."""
    if isinstance(task, MultiMixTask) and task.input_mixing.found_share is not None:
        task.input_mixing.found_share.num_batches = num_batches


def optimized_module(task: TrainingTask, model: nn.Module) -> nn.Module:
    """What the optimizer takes: the model, with the projection that feature distillation trains beside it."""
    return task.get_trainable_module() if isinstance(task, FeatureDistillationTask) else model


def prepare_mixing(task: TrainingTask, loader: Any, data_config: Dict[str, Any]) -> None:
    """The first pass over the training images that the exact MixupE needs; a resumed run of the same has its result.

    Args:
        data_config: With 'input_size' `(ch, h, w)`, 'mean' and 'std' of the images.
    """
    if not isinstance(task, MixupETask) or not task.exact or not task.eta:
        return
    size, mean, std = ([*data_config[name]] for name in ('input_size', 'mean', 'std'))
    source = f'{len(loader.dataset)} images of {size}, mean {mean}, std {std}'
    if task.mean_image is not None:
        if task.mean_image_source == source:
            return
        _logger.warning(f'The mean image of the checkpoint is of {task.mean_image_source or "unknown images"}.')
    _logger.info(f'Estimating the mean image from one pass over the training images: {source}.')
    task.estimate_mean_image(loader, source)


def warn_if_averages_lag(args: argparse.Namespace, num_updates: int) -> bool:
    """Say so when a moving average without warm-up spends much of the run as an average of its beginning."""
    averages = [('teacher', args.multimix_teacher_decay, args.multimix_teacher_warmup, '--multimix-teacher')]
    if args.model_ema:
        averages.append(('average of --model-ema', args.model_ema_decay, args.model_ema_warmup, '--model-ema'))
    lagging = [
        (name, decay, flag) for name, decay, warmup, flag in averages
        if decay is not None and not warmup and num_updates * (1. - decay) < 10.]
    for name, decay, flag in lagging:
        _logger.warning(
            f'The {name} is over 1 / (1 - {decay:g}) updates of the {num_updates} that this run has: for long it is an '
            f'early state of the model. Give {flag}-warmup, or a lower {flag}-decay.')
    return bool(lagging)


def end_mixing(task: TrainingTask, mixup_fn: Optional[Callable]) -> None:
    """From now on batches are left as they are."""
    if mixup_fn is not None:
        mixup_fn.mixup_enabled = False
    if isinstance(task, (MultiMixTask, MixupETask)):
        task.mixup_enabled = False


def chance_level(dataset: Any, num_classes: int) -> float:
    """Accuracy that can be had without looking: by always naming the most frequent class.

    Of datasets whose labels are not at hand, as those of streams, the classes are taken to be equally frequent.
    """
    while hasattr(dataset, 'dataset'):  # what wraps it
        dataset = dataset.dataset
    labels = getattr(dataset, 'targets', None)
    if labels is None:
        labels = [label for _, label in getattr(getattr(dataset, 'reader', None), 'samples', ())]
    try:
        counts = Counter(map(int, labels))
    except (TypeError, ValueError):  # lists of labels, or names
        counts = Counter()
    return max(counts.values()) / counts.total() if counts else 1. / num_classes


def warn_if_at_chance(
        args: argparse.Namespace,
        epoch: int,
        train_metrics: Dict[str, float],
        num_images: int,
        chance: float,
) -> bool:
    """Say so when a MultiMix run has learnt nothing by the end of its warm-up and one more epoch.

    The clean logits tell: their accuracy is compared with chance plus two standard deviations that it has on so many
    images. The first epoch does not count, as its mean is that of a model which has seen nothing yet.

    Args:
        args: The flags.
        epoch: From 0.
        train_metrics: Of the epoch.
        num_images: That were trained on in it.
        chance: See `chance_level`.
    """
    if args.mixup_mode not in MODES or epoch < max(args.warmup_epochs, 1) or 'top1' not in train_metrics:
        return False
    spread = 2. * math.sqrt(chance * (1. - chance) / num_images)
    if train_metrics['top1'] > 100. * (chance + spread):
        return False
    _logger.warning(
        f'Not learning: clean train accuracy {train_metrics["top1"]:.2f} % after epoch {epoch} is chance, as always '
        f'naming the most frequent class gives {100. * chance:.2f} %, give or take {100. * spread:.2f}. Mixing may be '
        f'too strong for this schedule: lower --multimix-alpha, give --multimix-concentration total, raise '
        f'--multimix-clean-weight, or mix fewer batches by --mixup-prob.')
    return True
