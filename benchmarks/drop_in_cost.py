"""Cost of the drop-in, `MultiMix.attach`, over a plain step of the same loop: `python -m benchmarks.drop_in_cost`.

The default is Dense MultiMix on a ResNet-18 with 8 images of 224 x 224 and 1,000 classes. Both steps are timed in turn,
round by round; the ratio is the median over the rounds, with quartiles. Memory is measured in a separate process for
each: the peak of the resident set (on a GPU of CUDA's allocator) during a step, minus what was in use before. The first
step is left out, as libraries and the optimizer allocate memory once.
"""
import argparse
import copy
import statistics
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence

import timm
import torch
import torch.nn as nn
from timm.loss import SoftTargetCrossEntropy

from timm_multimix import MultiMix
from timm_multimix.settings import MODES

from .suite.cli import add_device, add_integers, check_least, create_parser, write_measured
from .suite.memory import RETURN_FREED, peak_mib, run_apart
from .suite.timing import quartiles, seconds_of

KINDS = ('plain', 'drop-in')


def create_step(kind: str, model: nn.Module, images: torch.Tensor, target: torch.Tensor, mode: str) -> Callable:
    """Return a training step of a stock loop on `model`, with the drop-in or without mixing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    if kind == 'drop-in':
        mixup_fn = MultiMix(mode=mode, num_classes=model.num_classes).attach(model)
        criterion: nn.Module = SoftTargetCrossEntropy()
    else:
        mixup_fn, criterion = (lambda images, target: (images, target)), nn.CrossEntropyLoss()

    def step() -> None:
        mixed, mixed_target = mixup_fn(images, target)
        criterion(model(mixed), mixed_target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


def create_steps(args: argparse.Namespace, kinds: Sequence[str]) -> Dict[str, Callable]:
    """Return a step of each kind, all from the same weights and images; each was taken once."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = timm.create_model(args.model, num_classes=args.num_classes).to(args.device).train()
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=args.device)
    target = torch.randint(args.num_classes, (args.batch_size,), device=args.device)
    steps = {kind: create_step(kind, copy.deepcopy(model), images, target, args.mode) for kind in kinds}
    for step in steps.values():
        step()
    return steps


def measure_memory(args: argparse.Namespace, kind: str) -> float:
    """Peak extra memory of a step in MiB, measured in this process."""
    return peak_mib(create_steps(args, [kind])[kind], torch.device(args.device))


def measure_time(args: argparse.Namespace) -> Dict[str, Any]:
    """Median seconds per step of each kind, and the ratio of the two."""
    steps = create_steps(args, KINDS)
    seconds: Dict[str, List[float]] = {kind: [] for kind in KINDS}
    for index in range(args.rounds):
        for kind in KINDS[::1 if index % 2 else -1]:
            seconds[kind].append(seconds_of(steps[kind], torch.device(args.device)))
    ratios = [a / b for a, b in zip(seconds['drop-in'], seconds['plain'])]
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return dict(seconds=medians, **quartiles('ratio', ratios))


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    add_device(parser)
    parser.add_argument('--model', default='resnet18', help='a timm model (resnet18)')
    parser.add_argument('--mode', choices=MODES, default='dense-multimix')
    add_integers(parser, batch_size=8, image_size=224, num_classes=1000, rounds=9, threads=1, seed=0)
    parser.add_argument('--output', help='file to write (benchmarks/results/drop_in_cost_DEVICE.json)')
    args = parser.parse_args(argv)
    check_least(parser, args, rounds=2)
    peak = {kind: run_apart(measure_memory, args, kind, **RETURN_FREED) for kind in KINDS}
    extra = peak['drop-in'] - peak['plain']
    result = dict(peak_mib=peak, extra_mib=extra, **measure_time(args))
    low, high = result['ratio_quartiles']
    print(f'{extra:+.0f} MiB over a plain step, {result["ratio"]:.3f} of its time ({low:.3f} to {high:.3f})')
    write_measured('drop_in_cost', args, result)
    return 0


if __name__ == '__main__':
    sys.exit(main())
