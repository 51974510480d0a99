"""Whole training steps of each method, compared with plain training in the same round."""
import argparse
import copy
import statistics
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask, TrainingTask

from timm_multimix import MultiMix, UsageError
from timm_multimix.training.cli.multimix import needs_two_views
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.runtime import Runtime
from timm_multimix.training.task import create_task

from ..methods import METHODS, find
from ..records import check_least
from .resources import peak_memory, run_apart, seconds_of

DROP_IN = 'drop-in'
STEPPED = [
    *(name for name, method in METHODS.items() if 'paper' not in name and '--device-modules' not in method.flags),
    'mixup@mixup-mode=elem']
"""Methods that are timed unless others are asked for."""


class Stepped(NamedTuple):
    """A task, a mixing of its batches if any, and whether the task takes two views of each image."""
    task: TrainingTask
    mix: Optional[Callable]
    two_views: bool = False


class Stepper:
    """Training steps of any method, on one model, optimizer and batch; a second view repeats the first."""

    def __init__(self, model: str, batch_size: int, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.device = torch.device(args.device)
        self.amp = self.device.type == 'cuda'
        self.model = timm.create_model(model, num_classes=args.num_classes).to(self.device).train()
        images = torch.randn(batch_size, 3, args.image_size, args.image_size, device=self.device)
        if self.amp:
            self.model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        self.images, self.target = images, torch.randint(args.num_classes, (batch_size,), device=self.device)
        self.methods = {method: self._create(method, args) for method in args.methods}
        self.optimizers = {
            method: torch.optim.SGD(stepped.task.get_eval_model().parameters(), lr=1e-4, momentum=0.9)
            for method, stepped in self.methods.items()}

    def _create(self, name: str, args: argparse.Namespace) -> Stepped:
        """Build what train_timm.py builds from a method's flags; all but the drop-in, which hooks it, share a model."""
        if name == DROP_IN:
            model = copy.deepcopy(self.model)
            mixing = MultiMix(mode='dense-multimix', num_classes=args.num_classes, num_tuples=args.tuples)
            return Stepped(ClassificationTask(model, SoftTargetCrossEntropy(), verbose=False), mixing.attach(model))
        flags = find(name).flags
        if args.tuples is not None and 'multimix' in flags:
            flags = f'--multimix-tuples {args.tuples} {flags}'  # first, so that the method's own number wins
        settings, _ = parse_args(['DIR', '--num-classes', str(args.num_classes), *flags.split()])
        if settings.device_modules:
            raise UsageError(f'--methods {name} changes the script, which is not timed here')
        runtime = Runtime(self.device, False, nullcontext, None, None)
        data_config = dict(input_size=(3, args.image_size, args.image_size), num_classes=args.num_classes)
        task, mixup_fn = create_task(settings, self.model, data_config, runtime)
        return Stepped(task, mixup_fn, needs_two_views(settings))

    def batches(self, method: str, count: int) -> List[torch.Tensor]:
        """Return images for `count` steps, as copies for timm's Mixup, which changes its input."""
        copied = self.methods[method].mix is not None
        return [self.images.clone() if copied else self.images for _ in range(count)]

    def step(self, method: str, images: torch.Tensor) -> None:
        task, mix, two_views = self.methods[method]
        target, optimizer = self.target, self.optimizers[method]
        if mix is not None:
            images, target = mix(images, target)
        if two_views:
            images = (images, images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = task(images, target)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema()

    def seconds(self, method: str, steps: int) -> float:
        """Mean time of `steps` steps in a row."""
        batches = iter(self.batches(method, steps))
        return seconds_of(lambda: self.step(method, next(batches)), self.device, steps)

    def teacher_seconds(self, method: str, steps: int) -> float:
        """Mean time of `steps` forward passes of the method's teacher."""
        teacher = self.methods[method].task.teacher
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            return seconds_of(lambda: teacher(self.images), self.device, steps)


def step_memory(model: str, batch_size: int, args: argparse.Namespace, method: str) -> int:
    """Peak bytes of one step; the first is left out, as libraries and the optimizer allocate memory once."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    stepper = Stepper(model, batch_size, argparse.Namespace(**dict(vars(args), methods=[method])))
    first, second = stepper.batches(method, 2)
    stepper.step(method, first)
    return peak_memory(lambda: stepper.step(method, second), stepper.device)


def measure_steps(stepper: Stepper, args: argparse.Namespace) -> Dict[str, Dict[str, Any]]:
    """Return seconds per step by method, and the ratio to plain training in the same round.

    A method with a teacher also gets the time that the teacher adds, in forward passes, if the method without is timed.
    """
    methods = args.methods
    for method in methods:  # warm-up
        stepper.seconds(method, args.steps)
    seconds: Dict[str, List[float]] = {method: [] for method in methods}
    without_teacher = {method: method.removesuffix('-distilled') for method in methods}
    teacher_seconds: Dict[str, List[float]] = {
        method: [] for method, without in without_teacher.items() if without != method and without in methods}
    for index in range(args.rounds):
        shift = index % len(methods)
        for method in methods[shift:] + methods[:shift]:
            seconds[method].append(stepper.seconds(method, args.steps))
            if method in teacher_seconds:
                teacher_seconds[method].append(stepper.teacher_seconds(method, args.steps))
    result = {method: dict(
        flags='' if method == DROP_IN else find(method).flags,
        seconds=statistics.median(values),
        **_quartiles('ratio', [value / plain for value, plain in zip(values, seconds['plain'])]),
    ) for method, values in seconds.items()}
    for method, passes in teacher_seconds.items():
        added = [
            (with_teacher - without) / one_pass
            for with_teacher, without, one_pass in zip(seconds[method], seconds[without_teacher[method]], passes)]
        result[method].update(
            teacher_forward_seconds=statistics.median(passes), **_quartiles('teacher_forwards', added))
    return result


def _quartiles(name: str, values: List[float]) -> Dict[str, Any]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {name: middle, f'{name}_quartiles': [low, high]}


def time_steps(args: argparse.Namespace) -> Dict[str, Any]:
    """Time steps of each method with each model and batch size."""
    defaults = dict(models=['resnet18', 'vit_tiny_patch16_224'], batch_size=[16], rounds=9, steps=1)
    on_gpu = torch.device(args.device).type == 'cuda'
    if on_gpu:
        defaults = dict(models=['resnet50', 'vit_small_patch16_224'], batch_size=[128, 256], rounds=15, steps=10)
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    check_least(args, rounds=2, steps=1, tuples=1, image_size=1, num_classes=1, batch_size=1)
    if 'plain' not in args.methods:
        raise UsageError(f'--methods must include plain, which the others are compared with, got {args.methods}')
    unknown = [name for name in args.models if not timm.is_model(name.partition('.')[0])]
    if unknown:
        raise UsageError(f'--models must be models of timm, got {unknown}')
    runs = []
    for model in args.models:
        for batch_size in args.batch_size:
            methods = measure_steps(Stepper(model, batch_size, args), args)
            for method, row in methods.items():
                row['peak_memory'] = (
                    run_apart(step_memory, model, batch_size, args, method) if args.memory or on_gpu else None)
                low, high = row['ratio_quartiles']
                print(f'{model} {batch_size} {method}: {row["seconds"] * 1e3:.1f} ms, {row["ratio"]:.3f} of plain '
                      f'({low:.3f} to {high:.3f})', flush=True)
            runs.append(dict(model=model, batch_size=batch_size, methods=methods))
    return dict(runs=runs)
