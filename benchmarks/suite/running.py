"""Code that the parts of the suite share: flags, finding the trained runs, and one JSON file per run."""
import argparse
import contextlib
import fcntl
import logging
import os
import statistics
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from ..recipes import RECIPES
from .budget import check_data
from .cli import add_device, add_methods, check_least, create_parser, mistakes
from .results import RESULTS, write_result
from .runs import Run, existing_settings, run_of
from .subset import prepare_data
from .trained import Judged, load_pixels, load_run

_logger = logging.getLogger('benchmarks')


def create_part_parser(description: Optional[str]) -> argparse.ArgumentParser:
    """Create a parser with the flags of every part that evaluates trained models."""
    parser = create_parser(description)
    parser.add_argument('--recipe', required=True, choices=RECIPES, help='the budget that the runs had')
    parser.add_argument('--data-dir', required=True, help='folder with train/ and test/, as for benchmarks.accuracy')
    add_methods(parser)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='SEED')
    parser.add_argument('--output', default='output/accuracy', help='folder of the runs of benchmarks.accuracy')
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files, with a folder for each part')
    add_device(parser)
    parser.add_argument('--images', type=int, default=1000, help='test images, evenly spread over the classes')
    return parser


def evaluate_runs(
        kind: str,
        parser: argparse.ArgumentParser,
        args: argparse.Namespace,
        settings: Dict[str, Any],
        evaluate: Callable[[Run, Judged], Dict[str, Any]],
) -> int:
    """Write what `evaluate` returns to RESULTS/kind/RECIPE/METHOD-SEED.json, for every trained run.

    Skips runs that have their file, or that another process is evaluating. Exits with code 2 if there is nothing to
    evaluate, or if a file was written with other settings.
    """
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    check_least(parser, args, images=1)
    with mistakes(parser):
        data = prepare_data(RECIPES[args.recipe], args.data_dir, os.path.join(args.output, 'data', args.recipe))
        settings = dict(images=args.images, **settings, data=data.digest)
        runs = find_runs(args)
        for run in runs:
            check_data(_path(args, 'accuracy', run), data.digest)
            _check_settings(_path(args, kind, run), run, settings)
    folder = os.path.join(data.folder, RECIPES[args.recipe].eval_split)

    def work(run: Run) -> Optional[str]:
        path = _path(args, kind, run)
        with exclusive(f'{run.folder}.{kind}.lock') as mine:
            if not mine:
                return None
            if not os.path.exists(path):
                start = time.time()
                try:
                    model, data_config = load_run(run, args.device)
                    pixels, labels = load_pixels(folder, data_config, args.images)
                    result = evaluate(run, Judged(model, pixels, labels, data_config, folder))
                except Exception:
                    _logger.error(f'{kind} of {run.method} with seed {run.seed} failed, on {run.checkpoint}:')
                    raise
                write_result(path, kind, _settings(run, settings), dict(result, seconds=time.time() - start))
        return path

    work_through(
        runs, work, lambda run: f'{kind}: {run.method} {run.seed}',
        lambda run: os.path.exists(_path(args, kind, run)))
    return 0


def find_runs(args: argparse.Namespace) -> List[Run]:
    """Return the requested runs that are complete: with a result of `benchmarks.accuracy` and a checkpoint."""
    runs, untrained, elsewhere = [], [], []
    for run in (run_of(args.output, args.recipe, method, seed) for method in args.methods for seed in args.seeds):
        known = os.path.exists(_path(args, 'accuracy', run))
        (untrained if not known else runs if os.path.exists(run.checkpoint) else elsewhere).append(run)
    for reason, lacking in (('not trained', untrained), (f'trained, but not in {args.output}', elsewhere)):
        if lacking:
            _logger.info(f'Left out, {reason}: ' + ', '.join(f'{run.method}-{run.seed}' for run in lacking))
    if not runs:
        raise ValueError(
            f'--recipe {args.recipe} must have runs of benchmarks.accuracy in --output {args.output}, with their '
            f'results in --results {args.results}; got none of the methods and seeds asked for'
            + (' (results without their checkpoints: choose other --results to train again)' if elsewhere else ''))
    for run in runs:
        path = _path(args, 'accuracy', run)
        found = run.checksum()
        expected = existing_settings(path).get('checkpoint', found)
        if expected != found:
            raise ValueError(
                f'{run.checkpoint} must be the checkpoint of {path}, {expected}, got {found}: it was trained again, or '
                'is still training; choose other --results, or delete that file')
    return runs


def work_through(
        todo: List[Any],
        work: Callable[[Any], Optional[str]],
        name: Callable[[Any], str],
        is_done: Callable[[Any], bool],
) -> None:
    """Process all items, and log progress and remaining time after each.

    `work` returns the path it wrote, or None if another process has the item; items that pass `is_done` take no time.
    """
    durations: List[float] = []
    for index, item in enumerate(todo):
        start = time.time()
        path = work(item)
        if path is not None and time.time() - start > 1.:
            durations.append(time.time() - start)
        left = ''  # unknown until an item has taken some time
        if durations:
            remaining = sum(not is_done(other) for other in todo[index + 1:])
            left = f'; about {remaining * statistics.fmean(durations) / 60:.0f} min left'
        _logger.info(f'[{index + 1}/{len(todo)}] {name(item)}: {path or "running in another process"}{left}')


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[bool]:
    """Yield whether this process got the lock at `path`; a lock ends with its process, however that ends."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _path(args: argparse.Namespace, kind: str, run: Run) -> str:
    return run.result_in(os.path.join(args.results, kind))


def _settings(run: Run, settings: Dict[str, Any]) -> Dict[str, Any]:
    return dict(recipe=run.recipe, method=run.method, seed=run.seed, checkpoint=run.checksum(), **settings)


def _check_settings(path: str, run: Run, settings: Dict[str, Any]) -> None:
    """Check that a result, if it exists, has these settings and weights: others are not comparable."""
    existing = existing_settings(path)
    if existing is None:
        return
    for name, value in _settings(run, settings).items():
        found = existing.get(name, value)  # older results lack some settings
        if found != value:
            raise ValueError(f'{name} must be {found!r}, as in {path}, got {value!r}; delete that file to replace it')
