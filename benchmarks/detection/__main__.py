"""Compare how well backbones detect objects: `python -m benchmarks.detection --recipe NAME --checkpoint PATTERN`.

Every method is fine-tuned on the same budget, and writes one JSON file per seed when it is complete. Complete runs are
not repeated, and interrupted ones resume after their last epoch. With torchrun a run is spread over GPUs.
"""
import argparse
import importlib.util
import logging
import os
import sys
from dataclasses import replace
from typing import Any, Dict, List, Optional

import torch

from benchmarks import models  # noqa: F401  registers them
from benchmarks.suite.cli import create_parser, mistakes
from benchmarks.suite.running import work_through

from .checkpoint import read_checkpoint
from .detector import DETECTORS
from .place import Place, agreed, create_place
from .recipes import RECIPES, SCRATCH, Job, Recipe
from .run import RESULTS, check_budget, prepare_data, read_data, run

_logger = logging.getLogger('benchmarks')
_OVERRIDES: Dict[str, Dict[str, Any]] = dict(
    model=dict(help='timm model of the checkpoints'),
    detector=dict(choices=DETECTORS),
    epochs=dict(type=int),
    batch_size=dict(type=int, help='sum over all processes'),
    lr=dict(type=float),
    freeze_bn=dict(action=argparse.BooleanOptionalAction, help='freeze batch norms (never from scratch)'),
    amp=dict(action=argparse.BooleanOptionalAction, help='bfloat16'),
)


def _parser() -> argparse.ArgumentParser:
    parser = create_parser(__doc__)
    parser.add_argument('--recipe', required=True, choices=RECIPES, help='data, detector and budget')
    parser.add_argument('--data-dir', help=(
        'VOC: folder with VOCdevkit; COCO: folder with train2017, val2017 and annotations; recipe cifar: folder with '
        'train/ and test/, each with a folder of images per class'))
    parser.add_argument('--checkpoint', metavar='PATTERN', help=(
        'checkpoints of train_timm.py; {method} and {seed} in it are replaced, and required for several of them; '
        f'not used for {SCRATCH}'))
    parser.add_argument('--ema', action='store_true', help='use the moving average of the weights in the checkpoints')
    parser.add_argument(
        '--methods', nargs='+', default=[SCRATCH, 'plain', 'cutmix', 'dense-multimix'], metavar='METHOD',
        help=f'any names; {SCRATCH} is random weights')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='SEED')
    parser.add_argument('--setting', help="name of the folder of results (default: the recipe's)")
    parser.add_argument('--output', default='output/detection', help='folder of generated scenes and training states')
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--workers', type=int, default=0, help='data loader workers of each process')
    group = parser.add_argument_group("overrides of the recipe, which need a separate --setting")
    for name, options in _OVERRIDES.items():
        group.add_argument(f'--{name.replace("_", "-")}', default=None, **options)
    return parser


def _jobs(args: argparse.Namespace) -> List[Job]:
    """Return the runs that the arguments ask for."""
    changes = {name: getattr(args, name) for name in _OVERRIDES if getattr(args, name) is not None}
    if changes and not args.setting:
        flags = ', '.join(f'--{name.replace("_", "-")}' for name in changes)
        raise ValueError(f'--setting must name a folder of results for flags that change the recipe ({flags})')
    recipe: Recipe = replace(RECIPES[args.recipe], **changes)
    for name in ('epochs', 'batch_size', 'lr'):
        if not getattr(recipe, name) > 0:
            raise ValueError(f'--{name.replace("_", "-")} must be positive, got {getattr(recipe, name)}')
    for name, values in (('workers', [args.workers]), ('seeds', args.seeds)):
        if min(values) < 0:
            raise ValueError(f'--{name} must be 0 or more, got {min(values)}')
    trained = [method for method in args.methods if method != SCRATCH]
    if trained and not args.checkpoint:
        raise ValueError(f'--checkpoint must give the checkpoints of {", ".join(trained)}')
    if len(trained) > 1 and '{method}' not in args.checkpoint:
        raise ValueError(f'--checkpoint must contain {{method}} for several methods, got {args.checkpoint}')
    if trained and len(args.seeds) > 1 and '{seed}' not in args.checkpoint:  # one backbone would count several times
        raise ValueError(f'--checkpoint must contain {{seed}} for several seeds, got {args.checkpoint}')

    def checkpoint(method: str, seed: int) -> Optional[str]:
        return None if method == SCRATCH else args.checkpoint.replace('{method}', method).replace('{seed}', str(seed))

    return [
        Job(args.setting or args.recipe, recipe, method, seed, checkpoint(method, seed), args.ema)
        for seed in args.seeds for method in args.methods]


def main(argv: Optional[List[str]] = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(message)s')
    _logger.setLevel(logging.INFO)
    missing = [name for name in ('torchmetrics', 'pycocotools') if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} must be installed: pip install -e '.[bench]'")
    with mistakes(parser):
        jobs = _jobs(args)
        place = create_place(args.device, args.workers)
        try:
            _run_all(args, jobs, place)
        finally:
            if place.world_size > 1:
                torch.distributed.destroy_process_group()
    return 0


def _run_all(args: argparse.Namespace, jobs: List[Job], place: Place) -> None:
    if place.rank > 0:
        _logger.setLevel(logging.WARNING)  # one process logs
    for job in jobs:  # find all mistakes before the first run
        if job.checkpoint:
            read_checkpoint(job.checkpoint, job.recipe.model, job.use_ema)
    recipe, scenes = jobs[0].recipe, os.path.join(args.output, 'data', args.recipe)
    agreed(lambda: check_budget(args.results, jobs[0].setting, recipe), place)
    data = read_data(recipe, agreed(lambda: prepare_data(recipe, args.data_dir, scenes), place))
    work_through(
        jobs,
        lambda job: run(job, data, args.output, args.results, place),
        lambda job: f'{job.method} {job.seed}',
        lambda job: os.path.exists(job.result_in(args.results)),
    )


if __name__ == '__main__':
    sys.exit(main())
