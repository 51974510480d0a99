"""One epoch of training."""
import argparse
import logging
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn as nn
from timm.task import TrainingTask
from timm.utils import AverageMeter, accuracy, dispatch_clip_grad, distribute_bn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.utils import save_image

from ..checks import any_values
from ..picture import show
from ..tasks.multimix import MultiMixTask
from .bad_steps import BadSteps
from .checkpoints.recovery import Recovery
from .data.classes import class_names
from .data.loaders import set_epoch
from .data.naflex import to_device
from .diagnostics import chance_level, warn_if_at_chance
from .runtime import Runtime, seed_epoch
from .schedule import Schedule

_logger = logging.getLogger('train')

METRICS = ('loss', 'mixed_loss', 'clean_loss', 'task_loss', 'distill_loss', 'top1')
LABELS = dict(
    mixed_loss='Mixed', clean_loss='Clean', task_loss='Task', distill_loss='Distill', strength='Strength', fit='Fit')


@dataclass(frozen=True)
class Training:
    """The parts of a run that stay the same from epoch to epoch."""
    args: argparse.Namespace
    runtime: Runtime
    task: TrainingTask  # with the model, and its moving average if there is one
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    bad_steps: BadSteps
    mixup_fn: Optional[Callable] = None  # timm's Mixup on the device; None if it is not used

    def on_device(self, input: Any, target: torch.Tensor) -> Tuple[Any, torch.Tensor]:
        """Move a batch to the device and into the memory format of the run."""
        if self.args.no_prefetcher:
            input = to_device(input, self.runtime.device, self.runtime.model_dtype)
            target = target.to(self.runtime.device)
        if self.args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        return input, target


class TrainMeters:
    """Running means of an epoch, kept on the device and read only when a line is logged.

    Only mixed batches have all metrics, and each process draws for itself whether to mix. So the sums and counts of all
    metrics are kept in one vector of a fixed layout, which all processes can reduce.
    """

    def __init__(self, device: torch.device):
        self.time = AverageMeter()
        self.data_time = AverageMeter()
        dtype = torch.float32 if device.type == 'mps' else torch.float64
        self._numbers = torch.zeros(2 * len(METRICS) + 1, dtype=dtype, device=device)  # sums, counts, the last loss
        self.last_loss = 0.
        self.mean: Dict[str, float] = {}

    def update(self, values: Dict[str, torch.Tensor], num_samples: int) -> None:
        for name, value in values.items():
            index = METRICS.index(name)
            value = value.to(self._numbers.dtype)
            finite = value.isfinite()  # skip NaN batches in the mean
            self._numbers[index] += torch.where(finite, value, 0.) * num_samples
            self._numbers[len(METRICS) + index] += finite * num_samples
        self._numbers[-1] = values['loss']

    def state(self) -> torch.Tensor:
        """This process's numbers, float64 on the CPU, for `load`."""
        return self._numbers.cpu().double().clone()

    def load(self, state: torch.Tensor) -> None:
        self._numbers.copy_(state)

    def read(self, training: Training) -> None:
        """Sum the numbers over all processes and bring them to the host."""
        numbers = self._numbers.clone()
        if training.runtime.distributed:
            torch.distributed.all_reduce(numbers)
        *numbers, last_loss = numbers.tolist()
        self.last_loss = last_loss / training.runtime.world_size
        sums, counts = numbers[:len(METRICS)], numbers[len(METRICS):]
        self.mean = {name: total / count for name, total, count in zip(METRICS, sums, counts) if count}
        task = training.task
        if isinstance(task, MultiMixTask) and task.mixup_enabled:  # current strength 'auto', not a mean
            self.mean.update(task.input_mixing.metrics())


def train_one_epoch(
        epoch: int, training: Training, loader: Any, recovery: Recovery, output_dir: Optional[str] = None,
) -> Dict[str, float]:
    """Train on every batch once, or on the remaining batches of an interrupted epoch.

    Returns:
        Means over the epoch: 'loss', and in the multimix modes the loss's parts and 'top1' of the clean logits.
    """
    args, runtime, task, optimizer = training.args, training.runtime, training.task, training.optimizer
    mixup_fn, bad_steps = training.mixup_fn, training.bad_steps
    accum_steps = args.grad_accum_steps
    updates_per_epoch = -(-len(loader) // accum_steps)
    last_group = len(loader) % accum_steps or accum_steps  # batches in the last, maybe shorter, update
    meters = TrainMeters(runtime.device)
    num_updates = epoch * updates_per_epoch + recovery.updates_done(epoch, len(loader))
    seed_epoch(args.seed, runtime, epoch)
    set_epoch(loader, epoch)
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
        for mixing in (task, mixup_fn):
            if hasattr(mixing, 'mixup_enabled'):
                mixing.mixup_enabled = False
    task.train()
    optimizer.zero_grad()
    start = time.time()
    for batch_idx, (input, target) in recovery.batches(loader, epoch, meters):
        last_batch = batch_idx == len(loader) - 1
        update_idx = batch_idx // accum_steps
        is_update = last_batch or (batch_idx + 1) % accum_steps == 0
        group = last_group if update_idx == updates_per_epoch - 1 else accum_steps
        input, target = training.on_device(input, target)
        labels = target
        if mixup_fn is not None:
            input, target = mixup_fn(input, target)
        meters.data_time.update(time.time() - start)

        batch_size = labels.shape[0]
        scale = _loss_scale(args, batch_size, runtime) / group
        if batch_idx % accum_steps == 0:
            bad_steps.begin()
        with nullcontext() if is_update else task.no_sync():
            terms = train_step(training, input, target, scale, is_update)
        meters.update(_train_metrics(terms, labels, mixup_fn), batch_size)
        if is_update:
            num_updates += 1
            optimizer.zero_grad()
            if bad_steps.end():
                task.update_ema(step=num_updates)
        if args.synchronize_step and runtime.device.type == 'cuda':
            torch.cuda.synchronize()
        meters.time.update(time.time() - start)
        start = time.time()

        if is_update and (last_batch or update_idx % args.log_interval == 0):
            meters.read(training)
            bad_steps.report()
            if runtime.primary:
                _log(epoch, update_idx, meters, training.schedule, batch_size * runtime.world_size)
                if args.save_images:
                    path = os.path.join(output_dir, f'train-batch-{batch_idx}.jpg')
                    save_image(input, path, padding=0, normalize=True)
                    if 'mixed_loss' in terms:  # this batch's embeddings were mixed
                        path = os.path.join(output_dir, f'mixed-batch-{batch_idx}.png')
                        show(task, input[:batch_size], labels, path, class_names=class_names(loader.dataset))
        if is_update:
            training.schedule.step_update(num_updates)
            recovery.after_update(batch_idx, update_idx)

    if not meters.mean:  # no batches remained
        meters.read(training)
    if hasattr(optimizer, 'sync_lookahead'):
        optimizer.sync_lookahead()
    share_statistics(training, task.get_eval_model())
    if runtime.primary and 'top1' in meters.mean:
        num_images = len(loader) * args.batch_size * runtime.world_size
        warn_if_at_chance(args, epoch, meters.mean['top1'], num_images, lambda: chance_level(
            loader.dataset, task.get_eval_model().num_classes))
    return meters.mean


def share_statistics(training: Training, model: nn.Module) -> None:
    """Give all processes the same running statistics (--dist-bn); with --sync-bn they already have them."""
    args, runtime = training.args, training.runtime
    if runtime.distributed and not args.sync_bn and args.dist_bn in ('broadcast', 'reduce'):
        distribute_bn(model, runtime.world_size, args.dist_bn == 'reduce')


def train_step(training: Training, input: Any, target: torch.Tensor, scale: float, need_update: bool) -> Dict[str, Any]:
    """Run the task forward and backward, with the loss times `scale`, and the optimizer if this completes an update."""
    args, runtime, task = training.args, training.runtime, training.task
    second_order = getattr(training.optimizer, 'is_second_order', False)
    attention = sdpa_kernel(SDPBackend.MATH) if second_order else nullcontext()  # others have one derivative only
    with runtime.autocast(), any_values(), attention:  # BadSteps checks the gradients, in all processes alike
        result = task(input, target)
    loss = result['loss'] * scale
    parameters = task.get_clip_parameters(exclude_head='agc' in args.clip_mode)
    if runtime.loss_scaler is not None:
        runtime.loss_scaler(
            loss, training.optimizer, clip_grad=args.clip_grad, clip_mode=args.clip_mode, parameters=parameters,
            create_graph=second_order, need_update=need_update)
        if need_update:
            training.bad_steps.check_gradients()  # only to count: for bad ones the scaler has skipped the optimizer
        return result
    loss.backward(create_graph=second_order)
    if need_update and training.bad_steps.check_gradients():
        if args.clip_grad is not None:
            dispatch_clip_grad(parameters, value=args.clip_grad, mode=args.clip_mode)
        training.optimizer.step()
    return result


def _loss_scale(args, batch_size, runtime):
    """Factor of the loss of a batch whose size differs from --batch-size."""
    kind = args.naflex_loss_scale if args.naflex_loader else args.variable_batch_loss_scale
    if not (args.naflex_loader or args.train_img_sizes):
        return 1.
    ratio = batch_size / args.batch_size
    scale = dict(none=1., sqrt=ratio ** 0.5, linear=ratio)[kind]
    if runtime.distributed and args.naflex_loader:  # DDP averages over processes whose last batches may differ in size
        total = torch.tensor(float(batch_size), device=runtime.device)
        torch.distributed.all_reduce(total)
        scale *= batch_size * runtime.world_size / total.item()
    return scale


def _train_metrics(terms, labels, mixup_fn):
    metrics = {name: terms[name].detach() for name in METRICS if name in terms}
    if 'kd_loss' in terms:  # timm's name for it in two of its three tasks
        metrics['distill_loss'] = terms['kd_loss'].detach()
    # logits of mixed images do not belong to these labels
    if mixup_fn is None and not terms.get('input_mixed') and labels.ndim == 1:
        top1, = accuracy(terms['output'].detach(), labels, topk=(1,))
        metrics['top1'] = top1
    return metrics


def _log(epoch, update_idx, meters, schedule, images_per_batch):
    mean = meters.mean
    done = 100. * (update_idx + 1) / schedule.updates_per_epoch
    _logger.info('  '.join([
        f'Train: {epoch} [{update_idx:>4d}/{schedule.updates_per_epoch} ({done:>3.0f}%)]',
        f'Loss: {meters.last_loss:#.3g} ({mean.get("loss", math.nan):#.3g})',
        *(f'{label}: {mean[name]:#.3g}' for name, label in LABELS.items() if name in mean),
        *([f'Acc@1: {mean["top1"]:.3f}'] if 'top1' in mean else []),
        f'Time: {meters.time.val:.3f}s, {images_per_batch / meters.time.val:>7.2f}/s',
        f'({meters.time.avg:.3f}s, {images_per_batch / meters.time.avg:>7.2f}/s)',
        f'LR: {schedule.mean_rate():.3e}',
        f'Data: {meters.data_time.val:.3f} ({meters.data_time.avg:.3f})',
    ]))
