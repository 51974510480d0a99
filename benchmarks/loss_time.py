"""Time of the loss against the literal equations, over every size in turn: `python -m benchmarks.loss_time`.

Times are medians over repeats of the loss and its gradient from embeddings `[b, r, d]` and a classifier, with sampling,
all in one process and in turn. Literal means that the mixed embeddings of the same tuples go through the classifier,
with gradients by autograd; it is left out if it would take too long. The loss alone, from given logits and weights, is
timed too. Its floor is the time of its matrix products or its bytes at the peak rates measured on the machine.
"""
import argparse
import math
import statistics
import sys
import time
from functools import cached_property
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
import torch.nn.functional as F

from timm_multimix import MultiMixLoss
from timm_multimix.functional import IMPLEMENTATIONS, mixed_cross_entropy

from .suite.cli import add_device, add_integers, create_parser, write_measured
from .suite.memory import RETURN_FREED, peak_mib, run_apart
from .suite.timing import peak_bandwidth, peak_flops, seconds_of


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


def measure(size: Size, names: List[str], device: torch.device, args: argparse.Namespace) -> Dict[str, Any]:
    """Return median times by name, ratios of the literal time to each, and how far the gradients differ."""
    problem = Problem(size, device, args.seed)
    functions: Dict[str, Callable] = {name: (lambda name=name: problem.run(name)) for name in names}
    if size.positions * size.tuples * size.batch_size <= args.max_weights:  # else the weights never exist at once
        functions['sampling'] = problem.sample
        functions.update({f'{name} alone': problem.alone(name) for name in names if name != 'literal'})
    seconds: Dict[str, List[float]] = {name: [] for name in functions}
    first = {name: function() for name, function in functions.items()}  # a warm-up
    start = time.perf_counter()
    for _ in range(args.repeats):
        for name, function in functions.items():
            seconds[name].append(seconds_of(function, device))
        if time.perf_counter() - start > args.seconds:
            break
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    row: Dict[str, Any] = dict(size=size._asdict(), seconds=medians, repeats=len(seconds[names[0]]))
    if 'literal' in names:
        row['ratio'], row['max_relative_gradient_difference'] = {}, {}
        for name in names:
            if name != 'literal':
                ratios = sorted(a / b for a, b in zip(seconds['literal'], seconds[name]))
                row['ratio'][name] = [ratios[0], statistics.median(ratios), ratios[-1]]
                row['max_relative_gradient_difference'][name] = max(
                    ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(first[name][1], first['literal'][1]))
    return row


def measure_memory(size: Size, device: str, threads: int = 1) -> float:
    """Peak extra memory of the loss in MiB, forward and backward from given logits.

    It includes sampling and the gradient of the logits, which has their size, but not the logits themselves.
    """
    torch.set_num_threads(threads)
    logits = torch.randn(size.batch_size, size.positions, size.classes, device=device, requires_grad=True)
    target = torch.randint(size.classes, (size.batch_size,), device=device)
    MultiMixLoss(num_tuples=2)(logits[:, :1], target).backward()  # what libraries allocate once
    logits.grad = None
    loss = MultiMixLoss(num_tuples=size.tuples)
    return peak_mib(lambda: loss(logits, target).backward(), logits.device)


def slope(rows: List[Dict[str, Any]], axis: str, name: str) -> float:
    """Least-squares slope of log time over log size: 1 for linear cost."""
    return statistics.linear_regression(
        [math.log(row['size'][axis]) for row in rows],
        [math.log(row['seconds'][name]) for row in rows]).slope


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    add_device(parser)
    parser.add_argument('--implementations', nargs='+', choices=[*IMPLEMENTATIONS], help='(depends on the device)')
    parser.add_argument('--sweeps', nargs='+', choices=[*SWEEPS], default=list(SWEEPS), help='sizes to vary (all)')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--seconds', type=float, default=90., help='time limit for the repeats of one size')
    parser.add_argument('--max-literal-tflop', type=float, help='skip literal above this (depends on the device)')
    parser.add_argument('--max-weights', type=float, default=1e9, help='skip sampling and loss alone above this')
    add_integers(parser, threads=1, seed=0)
    parser.add_argument('--no-memory', action='store_true', help='skip memory, which needs a process per number')
    parser.add_argument('--output', help='file to write (benchmarks/results/loss_time_DEVICE.json)')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    on_gpu = device.type == 'cuda'
    names = args.implementations or (['chunked', 'compiled', 'triton'] if on_gpu else ['chunked'])
    limit = 1e12 * (args.max_literal_tflop or (20. if on_gpu else 1.))
    base = BASE['cuda' if on_gpu else 'cpu']
    rates = dict(flops=peak_flops(device), bandwidth=peak_bandwidth(device))
    print(f'peak {rates["flops"] / 1e9:.0f} GFLOP/s, {rates["bandwidth"] / 1e9:.1f} GB/s', flush=True)

    measured: Dict[Size, Dict[str, Any]] = {}

    def row_of(size: Size) -> Dict[str, Any]:
        if size not in measured:
            literal = ['literal'] if size.literal_flops <= limit else []
            row = measured[size] = measure(size, literal + names, device, args)
            row['floor'] = max(size.flops / rates['flops'], size.bytes / rates['bandwidth'])
            print(describe(row), flush=True)
        return measured[size]

    row_of(base)
    sweeps = {axis: [row_of(base._replace(**{axis: value})) for value in SWEEPS[axis]] for axis in args.sweeps}
    slopes = {}
    for axis, rows in sweeps.items():
        everywhere = [name for name in rows[0]['seconds'] if all(name in row['seconds'] for row in rows)]
        slopes[axis] = {name: slope(rows, axis, name) for name in everywhere}
    print('slopes', slopes)
    memory = []
    if not args.no_memory:
        for size in (base, base._replace(tuples=10_000), base._replace(tuples=100_000), IMAGENET_21K):
            mib = run_apart(measure_memory, size, device.type, args.threads, **RETURN_FREED)
            memory.append(dict(size=size._asdict(), mib=mib))
            print(f'{tuple(size)}: {mib:.1f} MiB', flush=True)
    result = dict(rates=rates, base=base._asdict(), sizes=list(measured.values()), slopes=slopes, memory=memory)
    write_measured('loss_time', args, result)
    return 0


def describe(row: Dict[str, Any]) -> str:
    size, ratio = Size(**row['size']), row.get('ratio', {})
    seconds = (
        f'{name} {value * 1e3:.1f} ms' + (f' ({ratio[name][1]:.1f} times faster)' if name in ratio else '')
        for name, value in row['seconds'].items())
    return f'b, d, c, n, r = {tuple(size)}: {", ".join(seconds)}, floor {row["floor"] * 1e3:.1f} ms'


if __name__ == '__main__':
    sys.exit(main())
