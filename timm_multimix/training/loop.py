"""One epoch of training."""
import argparse
import logging
import time
from collections import OrderedDict
from typing import Any, Callable, Dict, Optional

import torch
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import AverageMeter, CheckpointSaver, accuracy, dispatch_clip_grad, reduce_tensor

from .runtime import Runtime

_logger = logging.getLogger('train')


class TrainMeters:
    """Running means of an epoch. What comes from the device is kept there and read when a line is logged."""

    def __init__(self):
        self.time = AverageMeter()
        self.data_time = AverageMeter()
        self._sums: Dict[str, torch.Tensor] = {}
        self._count = 0
        self.last: Dict[str, float] = {}
        self.mean: Dict[str, float] = {}
        self._latest: Dict[str, torch.Tensor] = {}

    def update(self, values: Dict[str, torch.Tensor], num_samples: int) -> None:
        self._count += num_samples
        for name, value in values.items():
            # a batch that was not mixed lacks the terms of one that was
            total, count = self._sums.get(name, (torch.zeros_like(value, dtype=torch.float64), 0))
            self._sums[name] = total + value.double() * num_samples, count + num_samples
        self._latest = values

    def read(self, args: argparse.Namespace) -> None:
        """Bring the numbers to the host, averaged over processes."""
        def number(value):
            return (reduce_tensor(value, args.world_size) if args.distributed else value).item()

        self.last = {name: number(value) for name, value in self._latest.items()}
        self.mean = {name: number(total / count) for name, (total, count) in self._sums.items()}


def train_one_epoch(
        epoch: int,
        task: TrainingTask,
        loader: Any,
        optimizer: torch.optim.Optimizer,
        args: argparse.Namespace,
        runtime: Runtime,
        lr_scheduler: Optional[Scheduler] = None,
        saver: Optional[CheckpointSaver] = None,
        mixup_fn: Optional[Callable] = None,
) -> Dict[str, float]:
    """Train on every batch once.

    Returns:
        Means over the epoch: 'loss', and in the multimix modes the loss's parts and 'top1' of the clean logits.
    """
    accum_steps = args.grad_accum_steps
    updates_per_epoch = -(-len(loader) // accum_steps)
    last_group = len(loader) % accum_steps or accum_steps  # batches in the last, maybe shorter, update
    num_updates = epoch * updates_per_epoch
    meters = TrainMeters()
    task.train()
    optimizer.zero_grad()
    start = time.time()
    for batch_idx, (input, target) in enumerate(loader):
        last_batch = batch_idx == len(loader) - 1
        update_idx = batch_idx // accum_steps
        is_update = last_batch or (batch_idx + 1) % accum_steps == 0
        group = last_group if update_idx == updates_per_epoch - 1 else accum_steps
        if args.no_prefetcher:
            input, target = input.to(runtime.device, runtime.model_dtype), target.to(runtime.device)
        labels = target
        if mixup_fn is not None:
            input, target = mixup_fn(input, target)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        meters.data_time.update(time.time() - start)

        if is_update:
            terms = _forward_backward(task, input, target, optimizer, args, runtime, group, True)
        else:
            with task.no_sync():
                terms = _forward_backward(task, input, target, optimizer, args, runtime, group, False)
        meters.update(_train_metrics(terms, labels, mixup_fn), input.shape[0])
        if is_update:
            num_updates += 1
            optimizer.zero_grad()
            task.update_ema(step=num_updates)
        if args.synchronize_step and runtime.device.type == 'cuda':
            torch.cuda.synchronize()
        meters.time.update(time.time() - start)
        start = time.time()

        if is_update and (last_batch or update_idx % args.log_interval == 0):
            meters.read(args)
            if runtime.primary:
                _log(epoch, update_idx, updates_per_epoch, meters, optimizer, args.batch_size * args.world_size)
        if saver is not None and args.recovery_interval and (batch_idx + 1) % args.recovery_interval == 0:
            saver.save_recovery(epoch, batch_idx=update_idx)
        if lr_scheduler is not None and is_update:
            lr_scheduler.step_update(num_updates=num_updates, metric=meters.mean.get('loss'))

    if hasattr(optimizer, 'sync_lookahead'):
        optimizer.sync_lookahead()
    return OrderedDict(meters.mean)


def _forward_backward(task, input, target, optimizer, args, runtime, group, need_update):
    with runtime.autocast():
        result = task(input, target)
    loss = result['loss'] / group
    exclude_head = 'agc' in args.clip_mode
    if runtime.loss_scaler is not None:
        runtime.loss_scaler(
            loss,
            optimizer,
            clip_grad=args.clip_grad,
            clip_mode=args.clip_mode,
            parameters=task.get_clip_parameters(exclude_head=exclude_head),
            need_update=need_update,
        )
        return result
    loss.backward()
    if need_update:
        if args.clip_grad is not None:
            dispatch_clip_grad(
                task.get_clip_parameters(exclude_head=exclude_head), value=args.clip_grad, mode=args.clip_mode)
        optimizer.step()
    return result


def _train_metrics(terms, labels, mixup_fn):
    metrics = {name: value.detach() for name, value in terms.items() if name != 'output'}
    if mixup_fn is None:  # the logits are those of the images with these labels
        top1, = accuracy(terms['output'].detach(), labels, topk=(1,))
        metrics['top1'] = top1
    return metrics


def _log(epoch, update_idx, updates_per_epoch, meters, optimizer, images_per_batch):
    lr = sum(group['lr'] for group in optimizer.param_groups) / len(optimizer.param_groups)
    done = 100. * (update_idx + 1) / updates_per_epoch
    line = [
        f'Train: {epoch} [{update_idx:>4d}/{updates_per_epoch} ({done:>3.0f}%)]',
        f'Loss: {meters.last["loss"]:#.3g} ({meters.mean["loss"]:#.3g})',
    ]
    for name, label in (('mixed_loss', 'Mixed'), ('clean_loss', 'Clean')):
        if name in meters.mean:
            line.append(f'{label}: {meters.mean[name]:#.3g}')
    if 'top1' in meters.mean:
        line.append(f'Acc@1: {meters.mean["top1"]:.3f}')
    line += [
        f'Time: {meters.time.val:.3f}s, {images_per_batch / meters.time.val:>7.2f}/s',
        f'({meters.time.avg:.3f}s, {images_per_batch / meters.time.avg:>7.2f}/s)',
        f'LR: {lr:.3e}',
        f'Data: {meters.data_time.val:.3f} ({meters.data_time.avg:.3f})',
    ]
    _logger.info('  '.join(line))
