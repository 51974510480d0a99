"""Times and memory: `python -m benchmarks.timing loss` and `python -m benchmarks.timing step`.

loss: the loss and its gradient from embeddings `[b, r, d]` and a classifier, with sampling, against the literal
equations (the mixed embeddings of the same tuples go through the classifier), over every size in turn. The loss alone,
from given logits and weights, is compared with the time of its matrix products or bytes at the machine's peak rates.

step: whole training steps of each method, with the images already on the device, compared with plain training in the
same round; drop-in is `MultiMix.attach` in a stock loop. What a teacher adds is given in its forward passes. The peak
memory is that of CUDA's allocator or, on a CPU with --memory, of the resident set, in a process for each method.

What is compared is timed in turn in one process. Times are medians over rounds, with quartiles or the range.
"""
import argparse
import copy
import math
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from typing import Any, Callable, Dict, List, NamedTuple, Optional
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask, TrainingTask

from timm_multimix import MultiMix, MultiMixLoss, UsageError
from timm_multimix.functional import IMPLEMENTATIONS, mixed_cross_entropy
from timm_multimix.training.cli.multimix import needs_two_views
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.runtime import Runtime
from timm_multimix.training.task import create_task

from .methods import METHODS, find
from .records import RESULTS, add_device, add_methods, check_least, create_parser, mistakes, write_measured

MIB = 2 ** 20
DROP_IN = 'drop-in'
STEPPED = [
    *(name for name, method in METHODS.items() if 'paper' not in name and '--device-modules' not in method.flags),
    'mixup@mixup-mode=elem']
"""Methods that are timed unless others are asked for."""
_RETURN_FREED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')  # so the resident set is in use


class Size(NamedTuple):
    """b examples, embeddings of width d, c classes, n tuples at each of r positions."""
    batch_size: int = 32
    width: int = 2048
    classes: int = 1000
    tuples: int = 1000
    positions: int = 49

    @property
    def literal_flops(self) -> float:
        """FLOPs of the literal equations: mixing, then the classifier on each mix, forward and backward."""
        rows = self.positions * self.tuples
        return 6. * rows * self.width * self.classes + 4. * rows * self.batch_size * self.width

    @property
    def flops(self) -> float:
        """FLOPs of the loss and its gradient from given logits: ΛS, Λᵀ softmax and ΛᵀΛ."""
        return self.positions * self.tuples * self.batch_size * (4. * self.classes + 2. * self.batch_size)

    @property
    def bytes(self) -> float:
        """Least number of bytes read and written, in float32: the weights, the logits and their gradient."""
        return 4. * self.positions * self.batch_size * (self.tuples + 2. * self.classes)


BASE = dict(cpu=Size(), cuda=Size(batch_size=128))
SWEEPS = dict(
    tuples=(100, 1000, 10_000, 100_000),
    positions=(1, 7, 49, 196),
    classes=(10, 100, 1000, 21_841),
    batch_size=(32, 128, 1024),
)
IMAGENET_21K = Size(batch_size=128, classes=21_841)


def seconds_of(work: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Mean time of `times` calls in a row."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_rates(device: torch.device, repeats: int = 8) -> Dict[str, float]:
    """FLOP/s of a large float32 matrix product, and bytes/s, read and written, of a copy too large for any cache."""
    def best(work: Callable[[], Any]) -> float:
        return min([seconds_of(work, device) for _ in range(repeats)][1:])  # the first is a warm-up

    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    source = torch.ones(1 << (30 if device.type == 'cuda' else 26), device=device)
    target = torch.empty_like(source)
    num_bytes = 2. * source.numel() * source.element_size()
    return dict(flops=2. * size ** 3 / best(lambda: a @ b), bandwidth=num_bytes / best(lambda: target.copy_(source)))


def run_apart(function: Callable, *args: Any) -> Any:
    """Call a module-level function in a fresh process, so that memory left by others is not measured."""
    context = multiprocessing.get_context('spawn')
    with patch.dict(os.environ, _RETURN_FREED), ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes during `work` minus those in use before: of the resident set, or of CUDA's allocator."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # resets the peak
    before = resident_set()
    work()
    return resident_set('VmHWM') - before


def resident_set(name: str = 'VmRSS') -> int:
    """Resident set of this process in bytes, or its peak as 'VmHWM'."""
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))


def literal_loss(embeddings, weight, bias, target, lam):
    """Compute Dense MultiMix literally: mixed embeddings `[r, n, d]`, mixed targets, the classifier on each."""
    mixed = lam @ embeddings.transpose(0, 1)
    mixed_target = lam @ F.one_hot(target, weight.shape[0]).to(embeddings.dtype)
    logits = F.linear(mixed, weight, bias)
    return -(mixed_target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


class Problem:
    """The inputs of one size; `run(name)` gives the loss and its gradients by an implementation, or 'literal'."""

    def __init__(self, size: Size, device: torch.device, seed: int):
        torch.manual_seed(seed)
        self.size, self.device, self.seed = size, device, seed
        self.inputs = [
            torch.randn(size.batch_size, size.positions, size.width, device=device, requires_grad=True),
            (torch.randn(size.classes, size.width, device=device) / size.width ** 0.5).requires_grad_(),
            torch.zeros(size.classes, device=device, requires_grad=True),
        ]
        self.target = torch.randint(size.classes, (size.batch_size,), device=device)

    def criterion(self, implementation: str = 'auto') -> MultiMixLoss:
        return MultiMixLoss(self.size.tuples, clean_weight=0., implementation=implementation)

    def sample(self) -> torch.Tensor:
        torch.manual_seed(self.seed)
        shape = (self.size.batch_size, self.size.positions, self.size.classes)
        return self.criterion().sample_weights(self.inputs[0].new_empty(()).expand(shape))

    @cached_property
    def weights(self) -> torch.Tensor:
        return self.sample()

    def run(self, name: str):
        if name == 'literal':
            loss = literal_loss(*self.inputs, self.target, self.sample())
        else:
            torch.manual_seed(self.seed)
            loss = self.criterion(name)(F.linear(*self.inputs), self.target)
        return loss, torch.autograd.grad(loss, self.inputs)

    def alone(self, name: str) -> Callable:
        """Return a function for the loss and its gradient alone, from given logits and weights."""
        with torch.no_grad():
            logits = F.linear(*self.inputs)
        logits.requires_grad_()

        def run():
            loss = mixed_cross_entropy(logits, self.target, self.weights, implementation=name)
            return loss, torch.autograd.grad(loss, logits)
        return run


def measure_loss(size: Size, names: List[str], args: argparse.Namespace) -> Dict[str, Any]:
    """Return median times by name, ratios of the literal time to each, and how far the gradients differ."""
    problem = Problem(size, torch.device(args.device), args.seed)
    functions: Dict[str, Callable] = {name: (lambda name=name: problem.run(name)) for name in names}
    if size.positions * size.tuples * size.batch_size <= args.max_weights:  # else the weights never exist at once
        functions['sampling'] = problem.sample
        functions.update({f'{name} alone': problem.alone(name) for name in names if name != 'literal'})
    seconds: Dict[str, List[float]] = {name: [] for name in functions}
    first = {name: function() for name, function in functions.items()}  # a warm-up
    start = time.perf_counter()
    for _ in range(args.repeats):
        for name, function in functions.items():
            seconds[name].append(seconds_of(function, problem.device))
        if time.perf_counter() - start > args.seconds:
            break
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    row: Dict[str, Any] = dict(size=size._asdict(), seconds=medians, repeats=len(seconds[names[0]]))
    if 'literal' in names:
        row['ratio'], row['max_relative_gradient_difference'] = {}, {}
        for name in names[1:]:
            ratios = sorted(a / b for a, b in zip(seconds['literal'], seconds[name]))
            row['ratio'][name] = [ratios[0], statistics.median(ratios), ratios[-1]]
            row['max_relative_gradient_difference'][name] = max(
                ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(first[name][1], first['literal'][1]))
    return row


def loss_memory(size: Size, device: str, threads: int = 1) -> int:
    """Peak bytes of the loss, forward and backward from given logits.

    It includes sampling and the gradient of the logits, which has their size, but not the logits themselves.
    """
    torch.set_num_threads(threads)
    logits = torch.randn(size.batch_size, size.positions, size.classes, device=device, requires_grad=True)
    target = torch.randint(size.classes, (size.batch_size,), device=device)
    MultiMixLoss(num_tuples=2)(logits[:, :1], target).backward()  # what libraries allocate once
    logits.grad = None
    loss = MultiMixLoss(num_tuples=size.tuples)
    return peak_memory(lambda: loss(logits, target).backward(), logits.device)


def time_loss(args: argparse.Namespace) -> Dict[str, Any]:
    """Time the loss over every size, with the others at their base."""
    device = torch.device(args.device)
    on_gpu = device.type == 'cuda'
    names = args.implementations or (['chunked', 'compiled', 'triton'] if on_gpu else ['chunked'])
    limit = 1e12 * (args.max_literal_tflop or (20. if on_gpu else 1.))
    base, rates = BASE['cuda' if on_gpu else 'cpu'], peak_rates(device)
    measured: Dict[Size, Dict[str, Any]] = {}

    def row_of(size: Size) -> Dict[str, Any]:
        if size not in measured:
            literal = ['literal'] if size.literal_flops <= limit else []
            row = measured[size] = measure_loss(size, literal + names, args)
            row['floor'] = max(size.flops / rates['flops'], size.bytes / rates['bandwidth'])
            print(f'b, d, c, n, r = {tuple(size)}: ' + ', '.join(
                f'{name} {value * 1e3:.1f} ms' for name, value in row['seconds'].items()), flush=True)
        return measured[size]

    row_of(base)
    sweeps = {axis: [row_of(base._replace(**{axis: value})) for value in SWEEPS[axis]] for axis in args.sweeps}
    slopes: Dict[str, Dict[str, float]] = {}  # of log time over log size, by least squares: 1 for linear cost
    for axis, rows in sweeps.items():
        sizes = [math.log(row['size'][axis]) for row in rows]
        everywhere = [name for name in rows[0]['seconds'] if all(name in row['seconds'] for row in rows)]
        slopes[axis] = {
            name: statistics.linear_regression(sizes, [math.log(row['seconds'][name]) for row in rows]).slope
            for name in everywhere}
    sizes = (base, base._replace(tuples=10_000), base._replace(tuples=100_000), IMAGENET_21K)
    memory = [] if args.no_memory else [
        dict(size=size._asdict(), mib=run_apart(loss_memory, size, device.type, args.threads) / MIB) for size in sizes]
    return dict(rates=rates, base=base._asdict(), sizes=list(measured.values()), slopes=slopes, memory=memory)


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


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    commands = parser.add_subparsers(dest='benchmark', required=True)
    loss, step = commands.add_parser('loss'), commands.add_parser('step')
    for each in (loss, step):
        add_device(each)
        each.add_argument('--threads', type=int, help='CPU threads (1 for loss, all for step)')
        each.add_argument('--seed', type=int, default=0)
        each.add_argument('--output', help='file to write (benchmarks/results/timing/BENCHMARK_DEVICE.json)')
    loss.add_argument('--implementations', nargs='+', choices=[*IMPLEMENTATIONS], help='(depends on the device)')
    loss.add_argument('--sweeps', nargs='+', choices=[*SWEEPS], default=list(SWEEPS), help='sizes to vary (all)')
    loss.add_argument('--repeats', type=int, default=7, help='of each size, for --seconds at most (%(default)s)')
    loss.add_argument('--seconds', type=float, default=90., help='(%(default)s)')
    loss.add_argument('--max-literal-tflop', type=float, help='skip literal above this (depends on the device)')
    loss.add_argument('--max-weights', type=float, default=1e9, help='skip sampling and loss alone above this')
    loss.add_argument('--no-memory', action='store_true', help='skip memory, which needs a process per number')
    loss.set_defaults(threads=1)
    step.add_argument('--models', nargs='+', help='timm models (depends on the device)')
    for name, options in dict(batch_size=dict(nargs='+'), rounds={}, steps={}).items():
        step.add_argument(f'--{name.replace("_", "-")}', type=int, help='(depends on the device)', **options)
    for name, default in dict(image_size=224, num_classes=1000, tuples=None).items():
        step.add_argument(f'--{name.replace("_", "-")}', type=int, default=default, help='(%(default)s)')
    add_methods(step, STEPPED)
    step.add_argument('--drop-in', action='store_true', help='time the drop-in, too')
    step.add_argument('--memory', action='store_true', help='measure peak memory on a CPU, too')
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with mistakes(parser):
        if args.benchmark == 'step' and args.drop_in:
            args.methods = [*args.methods, DROP_IN]
        result = (time_loss if args.benchmark == 'loss' else time_steps)(args)
    settings = dict(vars(args))
    path = settings.pop('output') or os.path.join(
        RESULTS, 'timing', f'{args.benchmark}_{torch.device(args.device).type}.json')
    write_measured(path, settings.pop('benchmark'), settings, result)
    return 0


if __name__ == '__main__':
    sys.exit(main())
