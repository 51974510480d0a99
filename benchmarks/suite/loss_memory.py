"""Peak extra memory of the loss, forward and backward from given logits: `python -m benchmarks.suite.loss_memory`.

On the CPU the highest resident set of a fresh process over what it was before, on a GPU what CUDA's allocator counts.
Sampling is included, and so is the gradient of the logits, which has their size; the logits themselves are not.
"""
import argparse
import sys
from typing import List, Optional, Sequence

import torch

from timm_multimix import MultiMixLoss

from .device import add_device
from .memory import RETURN_FREED, peak_mib, run_apart


def measure_memory(size: Sequence[int], device: str, threads: int = 1) -> float:
    """Peak extra memory in MiB of a size (b, d, c, n, r), in a process of its own."""
    flags = [*map(str, size), '--device', device, '--threads', str(threads)]
    return float(run_apart('benchmarks.suite.loss_memory', flags, **RETURN_FREED))


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('batch_size', 'width', 'classes', 'tuples', 'positions'):
        parser.add_argument(name, type=int)
    add_device(parser)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logits = torch.randn(args.batch_size, args.positions, args.classes, device=args.device, requires_grad=True)
    target = torch.randint(args.classes, (args.batch_size,), device=args.device)
    MultiMixLoss(num_tuples=2)(logits[:, :1], target).backward()  # what libraries take once
    logits.grad = None
    loss = MultiMixLoss(num_tuples=args.tuples)
    print(peak_mib(lambda: loss(logits, target).backward(), logits.device))
    return 0


if __name__ == '__main__':
    sys.exit(main())
