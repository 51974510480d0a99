"""Time and memory of whole training steps, method by method in one process: `python -m benchmarks.step_time`.

A step is mixing, forward, loss, backward, optimizer and, with a teacher, its update; the images are already on the
device. In every round the methods take their steps in turn, in a rotating order, and each is compared with plain
training in the same round. Results are medians over the rounds, with quartiles. The time that a teacher adds to a step
is given in forward passes of that teacher, timed in the same round. Memory is the peak that the CUDA allocator reports
for one step of a method; on a CPU it is not measured.
"""
import argparse
import statistics
import sys
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import timm
import torch
import torch.nn as nn
from timm.task import TrainingTask

from timm_multimix.training.cli.multimix import needs_two_views
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.runtime import Runtime
from timm_multimix.training.task import create_task, tell_length

from .methods import METHODS, find
from .suite.cli import add_device, add_methods, check_least, create_parser, write_measured
from .suite.memory import MIB
from .suite.timing import quartiles, seconds_of

DEFAULT_METHODS = [*METHODS, 'mixup-elem']
_DEFAULTS = dict(
    cuda=dict(models=['resnet50', 'vit_small_patch16_224'], batch_size=[128, 256], rounds=15, steps=10),
    cpu=dict(models=['resnet18', 'vit_tiny_patch16_224'], batch_size=[16], rounds=9, steps=1),
)
_RUN_LENGTH = 1000  # batches that 'auto' expects, so that its share of mixed images stays near 0


class TimedMethod(NamedTuple):
    """A task, timm's Mixup for its batches, and whether the task takes two views of each image."""
    task: TrainingTask
    mix: Optional[Callable]
    two_views: bool


def create_method(name: str, model: nn.Module, image_size: int, num_tuples: Optional[int] = None) -> TimedMethod:
    """Build what train_timm.py builds from a method's flags; several methods may share one model."""
    flags = find(name).flags
    if num_tuples is not None and 'multimix' in flags:
        flags = f'--multimix-tuples {num_tuples} {flags}'  # first, so that the method's own number wins
    args, _ = parse_args(['DIR', '--num-classes', str(model.num_classes), *flags.split()])
    runtime = Runtime(next(model.parameters()).device, False, nullcontext, None, None)
    data_config = dict(input_size=(3, image_size, image_size), num_classes=model.num_classes)
    task, mixup_fn = create_task(args, model, data_config, runtime)
    tell_length(task, _RUN_LENGTH)
    return TimedMethod(task, mixup_fn, needs_two_views(args))


class Stepper:
    """Training steps of any method, on one model, optimizer and batch; a second view repeats the first."""

    def __init__(self, name: str, batch_size: int, image_size: int, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.device = torch.device(args.device)
        model = timm.create_model(name, num_classes=args.num_classes).to(self.device).train()
        images = torch.randn(batch_size, 3, image_size, image_size, device=self.device)
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        self.images = images
        self.target = torch.randint(args.num_classes, (batch_size,), device=self.device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        self.amp = args.amp
        self.methods = {method: create_method(method, model, image_size, args.tuples) for method in args.methods}

    def batches(self, method: str, count: int) -> List[torch.Tensor]:
        """Return images for `count` steps, as copies for timm's Mixup, which changes its input."""
        copied = self.methods[method].mix is not None
        return [self.images.clone() if copied else self.images for _ in range(count)]

    def step(self, method: str, images: torch.Tensor) -> None:
        task, mix, two_views = self.methods[method]
        target = self.target
        if mix is not None:
            images, target = mix(images, target)
        if two_views:
            images = (images, images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = task(images, target)['loss']
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
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

    def peak_memory(self, method: str) -> Optional[int]:
        """Peak memory of one step in bytes; None on a CPU."""
        if self.device.type != 'cuda':
            return None
        images, = self.batches(method, 1)
        torch.cuda.reset_peak_memory_stats()
        self.step(method, images)
        return torch.cuda.max_memory_allocated()


def measure(stepper: Stepper, methods: List[str], rounds: int, steps: int) -> Dict[str, Dict[str, Any]]:
    """Return seconds per step by method, and the ratio to plain training in the same round.

    A method with a teacher also gets the time that the teacher adds, in forward passes, if the method without is timed.
    """
    for method in methods:  # warm-up
        stepper.seconds(method, steps)
    seconds: Dict[str, List[float]] = {method: [] for method in methods}
    without_teacher = {method: method.removesuffix('-distilled') for method in methods}
    teacher_seconds: Dict[str, List[float]] = {
        method: [] for method, without in without_teacher.items() if without != method and without in methods}
    for index in range(rounds):
        shift = index % len(methods)
        for method in methods[shift:] + methods[:shift]:
            seconds[method].append(stepper.seconds(method, steps))
            if method in teacher_seconds:
                teacher_seconds[method].append(stepper.teacher_seconds(method, steps))
    result = {}
    for method, values in seconds.items():
        result[method] = dict(
            flags=find(method).flags,
            seconds=statistics.median(values),
            **quartiles('ratio', [value / plain for value, plain in zip(values, seconds['plain'])]),
            peak_memory=stepper.peak_memory(method),
        )
    for method, passes in teacher_seconds.items():
        added = [
            (with_teacher - without) / one_pass
            for with_teacher, without, one_pass in zip(seconds[method], seconds[without_teacher[method]], passes)]
        result[method].update(
            teacher_forward_seconds=statistics.median(passes), **quartiles('teacher_forwards', added))
    return result


def describe(row: Dict[str, Any]) -> str:
    """Describe the time and memory of a method's step, and what its teacher adds."""
    low, high = row['ratio_quartiles']
    text = f'{row["seconds"] * 1e3:.1f} ms, {row["ratio"]:.3f} of plain ({low:.3f} to {high:.3f})'
    if row['peak_memory'] is not None:
        text += f', {row["peak_memory"] / MIB:.0f} MiB'
    if 'teacher_forwards' in row:
        low, high = row['teacher_forwards_quartiles']
        text += f', teacher adds {row["teacher_forwards"]:.2f} ({low:.2f} to {high:.2f}) of its forward passes'
    return text


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    add_device(parser)
    parser.add_argument('--models', nargs='+', help='timm models (depends on the device)')
    parser.add_argument('--batch-size', type=int, nargs='+', help='(depends on the device)')
    parser.add_argument('--image-size', type=int, default=224)
    parser.add_argument('--num-classes', type=int, default=1000)
    parser.add_argument('--tuples', type=int, help='tuples of MultiMix (its default)')
    add_methods(parser, DEFAULT_METHODS)
    parser.add_argument('--rounds', type=int, help='(depends on the device)')
    parser.add_argument('--steps', type=int, help='steps in a row (depends on the device)')
    parser.add_argument('--threads', type=int, help="CPU threads (torch's default)")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', help='file to write (benchmarks/results/step_time_DEVICE.json)')
    args = parser.parse_args(argv)
    on_gpu = torch.device(args.device).type == 'cuda'
    for name, value in _DEFAULTS['cuda' if on_gpu else 'cpu'].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if 'plain' not in args.methods:
        parser.error(f'--methods must include plain, which the others are compared with, got {args.methods}')
    check_least(parser, args, rounds=2, steps=1, tuples=1, image_size=1, num_classes=1, batch_size=1)
    unknown = [name for name in args.models if not timm.is_model(name.partition('.')[0])]
    if unknown:
        parser.error(f'--models must be models of timm, got {unknown}')
    if args.threads:
        torch.set_num_threads(args.threads)
    args.amp = args.channels_last = on_gpu
    results = []
    for name in args.models:
        for batch_size in args.batch_size:
            methods = measure(Stepper(name, batch_size, args.image_size, args), args.methods, args.rounds, args.steps)
            results.append(dict(model=name, batch_size=batch_size, methods=methods))
            for method, row in methods.items():
                print(f'{name} {batch_size} {method}: {describe(row)}', flush=True)
    write_measured('step_time', args, dict(runs=results))
    return 0


if __name__ == '__main__':
    sys.exit(main())
