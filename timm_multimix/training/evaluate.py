"""Validation."""
import argparse
import logging
import time
from typing import Any, Dict, Optional

import torch
import torch.nn as nn
from timm.task import TrainingTask, evaluation_sample_limit
from timm.utils import AverageMeter

from .checkpoints.recovery import Recovery
from .data.naflex import to_device
from .progress import progress
from .runtime import Runtime

_logger = logging.getLogger('train')


@torch.no_grad()
def validate(
        task: TrainingTask,
        model: nn.Module,
        loader: Any,
        args: argparse.Namespace,
        runtime: Runtime,
        log_suffix: str = '',
        recovery: Optional[Recovery] = None,
) -> Dict[str, float]:
    """The task's metrics of `model` on `loader`, over all processes: loss, and accuracies in percent.

    Raises:
        Stopped: If the run is told to end, which it does here without waiting for the validation.
    """
    model.eval()
    evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    batch_time = AverageMeter()
    start = time.time()
    for batch_idx, (input, target) in enumerate(progress(loader, f'Test{log_suffix}', runtime.primary)):
        if args.no_prefetcher:
            input, target = to_device(input, runtime.device, runtime.model_dtype), target.to(runtime.device)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        with runtime.autocast():
            output = model(input)
        output = output[0] if isinstance(output, (tuple, list)) else output
        if 1 < args.tta <= len(output):  # as if the loader gave every image that often
            output = output.unfold(0, args.tta, args.tta).mean(dim=2)
            target = target[::args.tta][:len(output)]
        evaluator.update(output, target)
        batch_time.update(time.time() - start)
        start = time.time()
        last_idx = len(loader) - 1
        if runtime.primary and (batch_idx == last_idx or batch_idx % args.log_interval == 0):
            metrics = evaluator.summary()
            line = [
                f'Test{log_suffix}: [{batch_idx:>4d}/{last_idx}]',
                f'Time: {batch_time.val:.3f} ({batch_time.avg:.3f})',
                f'Loss: {metrics["loss"]:>6.3f}',
            ]
            line += [f'Acc@{name[3:]}: {value:>7.3f}' for name, value in metrics.items() if name.startswith('top')]
            _logger.info('  '.join(line))
        if recovery is not None and recovery.stop.requested:
            break
    if recovery is not None:
        recovery.in_validation()
    return evaluator.compute(distributed=args.distributed)
