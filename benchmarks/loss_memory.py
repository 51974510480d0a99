"""Peak extra memory of the loss, forward and backward from given logits: `python -m benchmarks.loss_memory`.

On the CPU the highest resident set of a fresh process over what it was before, on a GPU what CUDA's allocator counts.
Sampling is included, and so is the gradient of the logits, which has their size; the logits themselves are not.
"""
import argparse
import os
import subprocess
import sys
from typing import List, Optional, Sequence

import torch

from timm_multimix import MultiMixLoss

from .suite.device import add_device


def measure_memory(size: Sequence[int], device: str, threads: int = 1) -> float:
    """Peak extra memory in MiB of a size (b, d, c, n, r), in a process of its own."""
    command = [sys.executable, '-m', 'benchmarks.loss_memory', *map(str, size)]
    # what is freed goes back to the system at once, so the resident set is what is in use
    environ = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')
    command += ['--device', device, '--threads', str(threads)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ).stdout)


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
    on_gpu = logits.is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with open('/proc/self/clear_refs', 'w') as file:
            file.write('5')  # resets the peak
    before = torch.cuda.memory_allocated() if on_gpu else _status('VmRSS')
    MultiMixLoss(num_tuples=args.tuples)(logits, target).backward()
    after = torch.cuda.max_memory_allocated() if on_gpu else _status('VmHWM')
    print((after - before) / 2 ** 20)
    return 0


def _status(name: str) -> int:
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(name))


if __name__ == '__main__':
    sys.exit(main())
