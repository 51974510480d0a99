"""Growth of memory over a long run: `python -m benchmarks.memory_slope`.

A tiny model takes 2,000 training steps with each method, on new images at each step. The resident set of the process
(on a GPU also what the CUDA allocator has in use) is read every few steps. A line is fitted through the readings after
a warm-up; its slope is given in MiB per 1,000 steps, with its standard error, as noise alone tilts a line.
Each method runs in a separate process, so that it is not measured with what another has left.
"""
import argparse
import gc
import os
import sys
from typing import Any, Dict, List, Optional

import numpy as np
import torch

from .step_time import DEFAULT_METHODS, Stepper
from .suite.cli import add_device, add_integers, add_methods, create_parser, write_measured
from .suite.memory import MIB, resident_set, run_apart
from .suite.results import RESULTS


def measure(method: str, args: argparse.Namespace) -> Dict[str, Any]:
    """Measure memory over the steps of one method, in this process."""
    torch.set_num_threads(args.threads)
    settings = dict(vars(args), methods=[method], channels_last=False, amp=args.device != 'cpu')
    stepper = Stepper(args.model, args.batch_size, args.image_size, argparse.Namespace(**settings))
    on_gpu = stepper.device.type == 'cuda'
    generator = torch.Generator().manual_seed(args.seed)
    steps: List[int] = []
    resident: List[float] = []
    allocated: List[float] = []
    gc.freeze()  # collections need not visit what libraries hold
    for step in range(args.steps + 1):
        images = torch.randn(stepper.images.shape, generator=generator).to(stepper.device)
        stepper.step(method, images)
        if step >= args.warmup and step % args.interval == 0:
            gc.collect()  # garbage is not a leak
            if on_gpu:
                torch.cuda.synchronize()
                allocated.append(torch.cuda.memory_allocated() / MIB)
            steps.append(step)
            resident.append(resident_set() / MIB)
    gc.unfreeze()
    return dict(resident=summary(steps, resident), cuda=summary(steps, allocated) if on_gpu else None)


def summary(steps: List[int], mib: List[float]) -> Dict[str, float]:
    """First and last reading in MiB, and the least-squares slope in MiB per 1,000 steps, with its standard error."""
    (slope, _), covariance = np.polyfit(steps, mib, 1, cov=True)
    return dict(
        first_mib=mib[0],
        last_mib=mib[-1],
        mib_per_1000_steps=1000. * float(slope),
        standard_error=1000. * float(covariance[0, 0]) ** 0.5,
        readings=len(mib),
    )


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    add_device(parser)
    parser.add_argument('--model', default='test_resnet')
    add_integers(parser, batch_size=8, image_size=32, num_classes=10, tuples=100)
    add_methods(parser, DEFAULT_METHODS)
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--warmup', type=int, default=500, help='steps before the first reading')
    parser.add_argument('--interval', type=int, default=20, help='steps between readings')
    add_integers(parser, threads=1, seed=0)
    parser.add_argument('--output', default=os.path.join(RESULTS, 'memory_slope.json'))
    args = parser.parse_args(argv)
    if args.warmup < 0 or args.interval < 1 or args.steps < (-(-args.warmup // args.interval) + 3) * args.interval:
        parser.error(f'--steps must be at least --warmup plus three intervals, got {args.steps}')
    torch.set_num_threads(args.threads)
    results = {}
    for method in args.methods:
        results[method] = run_apart(measure, method, args)
        for kind, row in results[method].items():
            if row is not None:
                print(
                    f'{method} {kind}: {row["mib_per_1000_steps"]:+.3f} +- {row["standard_error"]:.3f} MiB per 1,000 '
                    f'steps ({row["first_mib"]:.1f} to {row["last_mib"]:.1f} MiB)', flush=True)
    write_measured('memory_slope', args, dict(methods=results))
    return 0


if __name__ == '__main__':
    sys.exit(main())
