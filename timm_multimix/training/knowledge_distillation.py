"""timm's knowledge distillation tasks, from the --kd-* flags."""
import argparse
from typing import Any, Dict

import torch.nn as nn
from timm.task import FeatureDistillationTask, LogitDistillationTask, TokenDistillationTask, TrainingTask

from .errors import named


def create_distillation_task(
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
    with named(f'--kd-model-name {args.kd_model_name}'):
        if args.kd_distill_type == 'logit':
            return LogitDistillationTask(loss_type=args.kd_loss_type, temperature=args.kd_temperature, **kwargs)
        if args.kd_distill_type == 'token':
            return TokenDistillationTask(
                distill_type=args.kd_token_distill_type, temperature=args.kd_temperature, **kwargs)
        return FeatureDistillationTask(
            student_feature_dim=args.kd_student_feature_dim,
            teacher_feature_dim=args.kd_teacher_feature_dim,
            **kwargs,
        )
