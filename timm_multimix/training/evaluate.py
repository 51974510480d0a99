"""Validation."""
import argparse
import logging
import time
from typing import Any, Dict

import torch
import torch.nn as nn
from timm.task import TrainingTask, evaluation_sample_limit
from timm.utils import AverageMeter

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
) -> Dict[str, float]:
    """Loss, top-1 and top-5 accuracy (percent) of `model` on `loader`, over all processes."""
    model.eval()
    evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    batch_time = AverageMeter()
    start = time.time()
    for batch_idx, (input, target) in enumerate(loader):
        if args.no_prefetcher:
            input, target = input.to(runtime.device, runtime.model_dtype), target.to(runtime.device)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        with runtime.autocast():
            output = model(input)
        evaluator.update(output[0] if isinstance(output, (tuple, list)) else output, target)
        batch_time.update(time.time() - start)
        start = time.time()
        last_idx = len(loader) - 1
        if runtime.primary and (batch_idx == last_idx or batch_idx % args.log_interval == 0):
            metrics = evaluator.summary()
            _logger.info(
                f'Test{log_suffix}: [{batch_idx:>4d}/{last_idx}]  '
                f'Time: {batch_time.val:.3f} ({batch_time.avg:.3f})  '
                f'Loss: {metrics["loss"]:>6.3f}  '
                f'Acc@1: {metrics["top1"]:>7.3f}  '
                f'Acc@5: {metrics["top5"]:>7.3f}')
    return evaluator.compute(distributed=args.distributed)
