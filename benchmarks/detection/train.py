"""Fine-tuning of one detector, which resumes by epoch, in one or several processes."""
import logging
import math
import os
import time
from typing import Any, Callable, Dict, List

import torch
import torch.nn as nn
from timm.optim import create_optimizer_v2
from timm.utils import distribute_bn, random_seed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from timm_multimix.training.progress import progress

from .data import DetectionDataset, collate
from .place import Place
from .recipes import Job, Recipe

_logger = logging.getLogger('benchmarks')


def fine_tune(
        detector: nn.Module,
        dataset: DetectionDataset,
        job: Job,
        place: Place,
        state_path: str,
        settings: Dict[str, Any],
) -> List[Dict[str, float]]:
    """Train the detector in place; return for each epoch its total loss, the parts of the loss, and its seconds.

    The state is saved after each epoch, and loaded if it exists; `settings` identify the run that it belongs to.
    Each epoch is seeded separately, so that a resumed run is the same. A loss that is not finite is a RuntimeError.
    """
    recipe, seed, name = job.recipe, job.seed, f'{job.method} {job.seed}'
    if recipe.batch_size % place.world_size:
        raise ValueError(
            f'--batch-size is the sum over all processes: {recipe.batch_size} is not a multiple of {place.world_size}')
    parallel = place.world_size > 1
    model = DistributedDataParallel(
        detector, device_ids=[place.device] if place.device.type == 'cuda' else None) if parallel else detector
    sampler = DistributedSampler(dataset, seed=seed, drop_last=True) if parallel else None
    generator = torch.Generator()
    loader = DataLoader(
        dataset, recipe.batch_size // place.world_size, shuffle=sampler is None, sampler=sampler, drop_last=True,
        num_workers=place.workers, collate_fn=collate, generator=generator, pin_memory=place.device.type == 'cuda')
    if not len(loader):
        raise ValueError(f'--batch-size {recipe.batch_size} is more than the {len(dataset)} training images')
    optimizer = create_optimizer_v2(  # 'momentum' is SGD without Nesterov's; norms and biases are not decayed
        detector, 'momentum' if recipe.opt == 'sgd' else recipe.opt, recipe.lr, recipe.weight_decay, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(recipe, recipe.epochs * len(loader)))
    epochs: List[Dict[str, float]] = []
    if os.path.exists(state_path):
        epochs = _load(state_path, detector, optimizer, schedule, settings)
        _logger.info(f'{name}: resuming after epoch {len(epochs)}')
    while len(epochs) < recipe.epochs:
        epoch, start = len(epochs), time.time()
        random_seed((seed + 1_000_003 * epoch) % (2 ** 32 - place.world_size), place.rank)  # numpy takes 32 bits
        generator.manual_seed(seed + 1_000_003 * epoch)
        if sampler:
            sampler.set_epoch(epoch)
        losses = _train_epoch(model, loader, optimizer, schedule, recipe, place, name, epoch)
        if parallel:
            distribute_bn(detector, place.world_size, reduce=True)  # each process has its own statistics
        epochs.append(dict(epoch=epoch, **losses, seconds=time.time() - start))
        if place.rank == 0:
            state = dict(
                detector=detector.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.last_epoch,
                epochs=epochs, settings=settings)
            torch.save(state, f'{state_path}.tmp')
            os.replace(f'{state_path}.tmp', state_path)
        left = (recipe.epochs - epoch - 1) * epochs[-1]['seconds']
        _logger.info(f'{name}: epoch {epoch + 1}/{recipe.epochs}, loss {losses["loss"]:.4f}, '
                     f'{epochs[-1]["seconds"]:.0f} s; about {left / 60:.1f} min of training left')
    return epochs


def _train_epoch(model, loader, optimizer, schedule, recipe, place, name, epoch) -> Dict[str, float]:
    """Train for one epoch; return the mean of each loss over it and over all processes."""
    model.train()
    sums: Dict[str, torch.Tensor] = {}
    batches = progress(loader, f'{name}: epoch {epoch + 1}', place.rank == 0)
    for step, (images, targets) in enumerate(batches):
        images = [image.to(place.device, non_blocking=True) for image in images]
        targets = [{name: value.to(place.device) for name, value in target.items()} for target in targets]
        with torch.autocast(place.device.type, torch.bfloat16, enabled=recipe.amp):
            losses = model(images, targets)
            loss = sum(losses.values())
        losses = dict(loss=loss, **losses)
        if not math.isfinite(loss.item()):
            parts = ', '.join(f'{part} {value.item():.3g}' for part, value in losses.items())
            raise RuntimeError(f'the loss is not finite at step {step} of epoch {epoch}: {parts}')
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.)
        optimizer.step()
        schedule.step()
        for part, value in losses.items():
            sums[part] = sums.get(part, 0.) + value.detach().float()
    values = torch.stack(list(sums.values())) / len(loader)
    if place.world_size > 1:
        torch.distributed.all_reduce(values)
        values = values / place.world_size
    return dict(zip(sums, values.tolist()))


def lr_factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate by step: a linear warmup, then a cosine."""
    warmup = min(recipe.warmup_steps, steps // 4)
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else (
        0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _load(path, detector, optimizer, schedule, settings) -> List[Dict[str, float]]:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        if state['settings'] != settings:
            raise ValueError('its settings differ')
        detector.load_state_dict(state['detector'])
        optimizer.load_state_dict(state['optimizer'])
    except Exception as error:
        reason = str(error).split('\n')[0][:200]
        raise ValueError(f'--output: {path} is not the state of this run ({reason}); remove it') from error
    schedule.last_epoch = state['schedule']
    return state['epochs']
