"""The training task that the flags ask for, with its mixing and its optimizer."""
import argparse
import logging
from typing import Any, Callable, Dict, Optional, Tuple

import timm.task
import torch
import torch.nn as nn
from timm.data import Mixup
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.task import TrainingTask

from ..checks import REJECTIONS, call_library
from ..settings import MODES
from ..tasks.mixupe import MixupETask
from ..tasks.multimix import MultiMixTask
from .cli.flag import take
from .cli.multimix import mixes_input, mixup_kwargs, mixupe_kwargs, multimix_kwargs
from .cli.rules import loss_type
from .model import create_by_name
from .runtime import Runtime
from .schedule import scaled_learning_rate

_logger = logging.getLogger('train')


def create_task(
        args: argparse.Namespace, model: nn.Module, data_config: Dict[str, Any], runtime: Runtime,
) -> Tuple[TrainingTask, Optional[Callable]]:
    """Create the task, and timm's Mixup for batches on the device if the mode uses it."""
    criterion_kwargs = criterion_of(args)
    shared = dict(
        criterion_kwargs=criterion_kwargs, device=runtime.device, dtype=runtime.model_dtype, verbose=runtime.primary)
    if args.mixup_mode in MODES:
        size = {'input_size': data_config['input_size']} if args.mixup_mode == 'dense-multimix' else {}
        return MultiMixTask(model, **multimix_kwargs(args), **size, **shared), None
    if args.mixup_mode == 'mixupe':
        return MixupETask(model, prob=args.mixup_prob, **mixupe_kwargs(args), **shared), None

    mixup_fn = None
    if mixes_input(args) and not args.naflex_loader:
        # on the batch, not in the loader's workers, where --mixup-off-epoch could not end it
        mixup_fn = Mixup(
            **mixup_kwargs(args), cutmix_minmax=args.cutmix_minmax, mode=args.mixup_mode,
            num_classes=data_config['num_classes'], label_smoothing=criterion_kwargs['smoothing'])
    criterion_kwargs['soft_targets'] = mixes_input(args)
    if args.kd_model_name:
        return _create_distillation_task(args, model, shared), mixup_fn
    create = timm.task.MultiLabelClassificationTask if args.task == 'multilabel' else timm.task.ClassificationTask
    return call_library(f'--loss {criterion_kwargs["loss_type"]}', create, model, **shared), mixup_fn


def criterion_of(args: argparse.Namespace) -> Dict[str, Any]:
    """Return the `criterion_kwargs` of timm's tasks."""
    loss, smoothing = loss_type(args), args.smoothing
    if loss in ('twoway', 'zlpr') and smoothing:
        _logger.info(f'--loss {loss} does not support label smoothing; --smoothing {smoothing} is ignored.')
        smoothing = 0.
    kwargs: Dict[str, Any] = dict(loss_type=loss, smoothing=smoothing)
    if loss == 'bce':
        kwargs.update(
            bce_target_thresh=args.bce_target_thresh, bce_sum=args.bce_sum, pos_weight=args.bce_pos_weight)
    elif loss == 'jsd':
        kwargs['jsd_splits'] = args.aug_splits
    return kwargs


def _create_distillation_task(args: argparse.Namespace, model: nn.Module, shared: Dict[str, Any]) -> TrainingTask:
    create, kwargs = {
        'logit': (timm.task.LogitDistillationTask, dict(loss_type=args.kd_loss_type, temperature=args.kd_temperature)),
        'token': (timm.task.TokenDistillationTask, dict(
            distill_type=args.kd_token_distill_type, temperature=args.kd_temperature)),
        'feature': (timm.task.FeatureDistillationTask, dict(
            student_feature_dim=args.kd_student_feature_dim, teacher_feature_dim=args.kd_teacher_feature_dim)),
    }[args.kd_distill_type]
    name = args.kd_model_name
    return create_by_name(
        f'--kd-model-name {name}', name, create, student_model=model, teacher_model=name,
        **take(args, 'distill_loss_weight', 'task_loss_weight'), **kwargs, **shared)


def create_optimizer(
        args: argparse.Namespace, task: TrainingTask, model: nn.Module, world_size: int) -> torch.optim.Optimizer:
    """Create the optimizer of the model, in feature distillation also of the projection, which is trained as well."""
    return call_library(
        f'--opt {args.opt}',
        create_optimizer_v2,
        task.get_trainable_module() if isinstance(task, timm.task.FeatureDistillationTask) else model,
        **dict(optimizer_kwargs(cfg=args), lr=scaled_learning_rate(args, world_size)),
        **args.opt_kwargs,
        errors=Exception if args.opt_kwargs or args.opt_betas else REJECTIONS,
    )


def prepare_mixing(task: TrainingTask, loader: Any, data_config: Dict[str, Any]) -> None:
    """Estimate the mean image for exact MixupE in one pass over the training images, unless a checkpoint has it."""
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
