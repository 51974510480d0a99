"""The loss and its gradient, with sampling, against the literal equations, over every size in turn."""
import argparse
import math
import statistics
import time
from functools import cached_property
from typing import Any, Callable, Dict, List, NamedTuple

import torch
import torch.nn.functional as F

from timm_multimix import MultiMixLoss
from timm_multimix.functional import mixed_cross_entropy

from .resources import MIB, peak_memory, peak_rates, run_apart, seconds_of


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
