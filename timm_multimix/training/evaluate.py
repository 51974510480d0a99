"""Validation."""
import logging
import time
from typing import Any, Dict

import torch
import torch.nn as nn
from timm.task import evaluation_sample_limit
from timm.utils import AverageMeter

from .checkpoints.recovery import Recovery
from .loop import Training, share_statistics
from .progress import progress

_logger = logging.getLogger('train')


def validate_all(training: Training, loader: Any, recovery: Recovery) -> Dict[str, float]:
    """Metrics of the model, or of its moving average (--model-ema, or the teacher) if there is one to validate."""
    args, task = training.args, training.task
    metrics = student_metrics = validate(training, task.get_eval_model(), loader, recovery)
    if task.has_ema() and not (args.model_ema and args.model_ema_force_cpu):
        ema_model = task.get_eval_model(ema=True)
        share_statistics(training, ema_model)
        metrics = validate(training, ema_model, loader, recovery, log_suffix=' (EMA)')
    if args.multimix_teacher_decay is not None:
        metrics['student_top1'] = student_metrics['top1']
    return metrics


@torch.no_grad()
def validate(
        training: Training, model: nn.Module, loader: Any, recovery: Recovery, log_suffix: str = '',
) -> Dict[str, float]:
    """The task's metrics of `model` on `loader`, over all processes: loss, and accuracies in percent.

    Raises:
        Stopped: If the run is told to end, for which the rest of the validation is skipped.
    """
    args, runtime = training.args, training.runtime
    model.eval()
    evaluator = training.task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    batch_time, start = AverageMeter(), time.time()
    last_idx = len(loader) - 1
    for batch_idx, (input, target) in enumerate(progress(loader, f'Test{log_suffix}', runtime.primary)):
        input, target = training.on_device(input, target)
        with runtime.autocast():
            output = model(input)
        output = output[0] if isinstance(output, (tuple, list)) else output
        if 1 < args.tta <= len(output):  # as if the loader repeated every image that often
            output = output.unfold(0, args.tta, args.tta).mean(dim=2)
            target = target[::args.tta][:len(output)]
        evaluator.update(output, target)
        batch_time.update(time.time() - start)
        start = time.time()
        if runtime.primary and (batch_idx == last_idx or batch_idx % args.log_interval == 0):
            metrics = evaluator.summary()
            _logger.info('  '.join([
                f'Test{log_suffix}: [{batch_idx:>4d}/{last_idx}]',
                f'Time: {batch_time.val:.3f} ({batch_time.avg:.3f})',
                f'Loss: {metrics["loss"]:>6.3f}',
                *(f'Acc@{name[3:]}: {value:>7.3f}' for name, value in metrics.items() if name.startswith('top')),
            ]))
        if recovery.stop.requested:
            break
    recovery.in_validation()
    return evaluator.compute(distributed=runtime.distributed)
