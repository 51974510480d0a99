"""Growth of memory over a long run: `python -m benchmarks.memory_slope`.

A tiny model takes 2,000 steps of training by each method, on images that are new at each step. The resident set of the
process (on a GPU also what the CUDA allocator has in use) is read every few steps; after a warm-up a line is fitted
through it, whose slope is given in MiB per 1,000 steps. Each method runs in a process of its own, so that none is
measured with what another has left. The slope of a line through noise is not 0: its standard error is given beside it.
"""
import argparse
import gc
import json
import os
import sys
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch

from .step_time import DEFAULT_METHODS, Stepper
from .suite.device import add_device
from .suite.memory import MIB, resident_set, run_apart
from .suite.methods import KNOBS, METHODS
from .suite.results import write_result


def slope(steps: List[int], values: List[float]) -> Tuple[float, float]:
    """Least-squares slope, and its standard error."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    x -= x.mean()
    fitted = float(x @ y / (x @ x))
    residual = y - y.mean() - fitted * x
    return fitted, float(np.sqrt(residual @ residual / max(len(x) - 2, 1) / (x @ x)))


def measure(method: str, args: argparse.Namespace) -> Dict[str, Any]:
    """Memory over the steps of one method, in this process."""
    settings = argparse.Namespace(**vars(args), methods=[method], channels_last=False, amp=args.device != 'cpu')
    stepper = Stepper(args.model, args.batch_size, args.image_size, settings)
    on_gpu = stepper.device.type == 'cuda'
    generator = torch.Generator().manual_seed(args.seed)
    steps: List[int] = []
    resident: List[float] = []
    allocated: List[float] = []
    gc.freeze()  # what libraries hold need not be gone through again
    for step in range(args.steps + 1):
        images = torch.randn(stepper.images.shape, generator=generator).to(stepper.device)
        stepper.step(method, images)
        if step >= args.warmup and step % args.interval == 0:
            gc.collect()  # what is garbage already is no leak
            if on_gpu:
                torch.cuda.synchronize()
                allocated.append(torch.cuda.memory_allocated() / MIB)
            steps.append(step)
            resident.append(resident_set() / MIB)
    gc.unfreeze()
    return dict(resident=summary(steps, resident), cuda=summary(steps, allocated) if on_gpu else None)


def summary(steps: List[int], mib: List[float]) -> Dict[str, float]:
    """First and last reading in MiB, and the slope in MiB per 1,000 steps."""
    fitted, error = slope(steps, mib)
    return dict(
        first_mib=mib[0],
        last_mib=mib[-1],
        mib_per_1000_steps=1000. * fitted,
        standard_error=1000. * error,
        readings=len(mib),
    )


def create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device(parser)
    parser.add_argument('--model', default='test_resnet')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--image-size', type=int, default=32)
    parser.add_argument('--num-classes', type=int, default=10)
    parser.add_argument('--tuples', type=int, default=100, help='of MultiMix')
    parser.add_argument('--methods', nargs='+', choices=[*METHODS, *KNOBS], default=DEFAULT_METHODS, metavar='METHOD')
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--warmup', type=int, default=500, help='steps before the first reading')
    parser.add_argument('--interval', type=int, default=20, help='steps between readings')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', help='(benchmarks/results/memory_slope.json)')
    parser.add_argument('--in-this-process', action='store_true', help=argparse.SUPPRESS)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser()
    args = parser.parse_args(argv)
    if not 0 <= args.warmup <= args.steps - 2 * args.interval or args.interval < 1:
        parser.error(f'--steps must be at least --warmup and two intervals, got {args.steps}')
    torch.set_num_threads(args.threads)
    values = {name: value for name, value in vars(args).items() if name not in ('output', 'in_this_process')}
    if args.in_this_process:
        method, = args.methods
        settings = argparse.Namespace(**{name: value for name, value in values.items() if name != 'methods'})
        print(json.dumps(measure(method, settings)))
        return 0
    flags = [text for name, value in values.items() if name != 'methods'
             for text in (f'--{name.replace("_", "-")}', str(value))]
    results = {}
    for method in args.methods:
        argv_apart = [*flags, '--methods', method, '--in-this-process']
        results[method] = json.loads(run_apart('benchmarks.memory_slope', argv_apart))
        for kind, row in results[method].items():
            if row is not None:
                print(
                    f'{method} {kind}: {row["mib_per_1000_steps"]:+.3f} +- {row["standard_error"]:.3f} MiB per 1,000 '
                    f'steps ({row["first_mib"]:.1f} to {row["last_mib"]:.1f} MiB)', flush=True)
    path = args.output or os.path.join(os.path.dirname(__file__), 'results', 'memory_slope.json')
    write_result(path, 'memory_slope', values, dict(methods=results))
    return 0


if __name__ == '__main__':
    sys.exit(main())
