"""Times and memory: `python -m benchmarks.timing loss` and `python -m benchmarks.timing step`.

loss: the loss and its gradient from embeddings `[b, r, d]` and a classifier, with sampling, against the literal
equations (the mixed embeddings of the same tuples go through the classifier), over every size in turn. The loss alone,
from given logits and weights, is compared with the time of its matrix products or bytes at the machine's peak rates.

step: whole training steps of each method, with the images already on the device, compared with plain training in the
same round; drop-in is `MultiMix.attach` in a stock loop. What a teacher adds is given in its forward passes. The peak
memory is that of CUDA's allocator or, on a CPU with --memory, of the resident set, in a process for each method.

What is compared is timed in turn in one process. Times are medians over rounds, with quartiles or the range.
"""
import os
import sys
from typing import List, Optional

import torch

from timm_multimix.functional import IMPLEMENTATIONS

from ..records import RESULTS, add_device, add_methods, create_parser, mistakes, write_measured
from .loss import SWEEPS, time_loss
from .steps import DROP_IN, STEPPED, time_steps


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__, prog='benchmarks.timing')
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
