"""Accuracy of each method on the same budget: `python -m benchmarks.accuracy --recipe NAME --data-dir FOLDER`.

Every run is one of train_timm.py, in its own folder, and writes one JSON file when it is whole. A run that has its
file is never repeated; one that was killed goes on from its last epoch. Several of these commands may work side by
side.
"""
import argparse
import csv
import logging
import os
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

import yaml

import train_timm

from . import models  # noqa: F401  registers them
from .methods import KNOBS, METHODS
from .recipes import RECIPES, prepare_data
from .results import write_result
from .suite import RESULTS as ALL_RESULTS
from .suite import exclusive, existing_settings, work_through

RESULTS = os.path.join(ALL_RESULTS, 'accuracy')


def run(
        recipe: str,
        method: str,
        seed: int,
        data_dir: str,
        output: str,
        results: str,
        extra: str = '',
) -> Optional[str]:
    """Train once and write the result; the path of its file, or None where another process is at it.

    Raises:
        RuntimeError: If the training fails.
    """
    path = _result_path(results, recipe, method, seed)
    folder = os.path.join(output, recipe)
    with exclusive(os.path.join(folder, f'{method}-{seed}.lock')) as mine:
        if not mine:
            return None
        if os.path.exists(path):
            return path
        flags = f'{budget(recipe, method, seed)} {extra}'.strip()
        where = f'--data-dir {data_dir} --val-split {RECIPES[recipe].eval_split}'
        start = time.time()
        command = [*where.split(), *flags.split(), '--output', folder, '--experiment', f'{method}-{seed}']
        if train_timm.main([*command, '--resume', 'auto', '--checkpoint-hist', '1']):
            raise RuntimeError(f'the run of {method} with seed {seed} failed; its command was: {" ".join(command)}')
        epochs = _epochs(os.path.join(folder, f'{method}-{seed}', 'summary.csv'))
        with open(os.path.join(folder, f'{method}-{seed}', 'args.yaml'), encoding='utf-8') as file:
            wanted = yaml.safe_load(file)['epochs']
        if len(epochs) < wanted:  # told to end by Ctrl-C or SIGTERM, which train_timm.py does in order
            raise RuntimeError(
                f'the run of {method} with seed {seed} was interrupted after {len(epochs)} of {wanted} epochs; the '
                f'same command goes on with it')
        settings = dict(recipe=recipe, method=method, seed=seed, flags=flags)
        last = epochs[-1]
        result: Dict[str, Any] = dict(top1=last['eval_top1'], loss=last['eval_loss'], epochs=epochs)
        if 'eval_student_top1' in last:  # with a teacher the others are its own; the model is what is compared
            result.update(top1=last['eval_student_top1'], teacher_top1=last['eval_top1'], loss=None)
        result['seconds'] = time.time() - start  # of the last start, where the run was interrupted
        write_result(path, 'accuracy', settings, result)
    return path


def budget(recipe: str, method: str, seed: int) -> str:
    """Flags of a run, without those of the machine."""
    return f'{RECIPES[recipe].flags} {({**METHODS, **KNOBS})[method]} --seed {seed}'


def _result_path(results: str, recipe: str, method: str, seed: int) -> str:
    return os.path.join(results, recipe, f'{method}-{seed}.json')


def _check_budget(path: str, expected: str) -> None:
    existing = existing_settings(path)
    if existing is not None and not f'{existing["flags"]} '.startswith(f'{expected} '):
        raise ValueError(f'{path} is of the flags {existing["flags"]!r}, not {expected!r}; delete it to train anew')


def _epochs(summary: str) -> List[Dict[str, float]]:
    if not os.path.exists(summary):  # interrupted in the first one
        return []
    with open(summary, newline='') as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recipe', required=True, choices=RECIPES, help='the budget')
    parser.add_argument('--data-dir', required=True, help='folder with train/ and test/, a folder of images per class')
    parser.add_argument('--methods', nargs='+', choices=[*METHODS, *KNOBS], default=list(METHODS), metavar='METHOD')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='SEED')
    parser.add_argument('--output', default='output/accuracy', help='folder of the runs')
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--flags', default='', help='more flags for train_timm.py, such as "--workers 8"')
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    todo = [(method, seed) for seed in args.seeds for method in args.methods]
    try:
        for method, seed in todo:
            _check_budget(_result_path(args.results, args.recipe, method, seed), budget(args.recipe, method, seed))
        data = prepare_data(RECIPES[args.recipe], args.data_dir, os.path.join(args.output, 'data', args.recipe))
    except ValueError as error:
        parser.error(str(error))

    def work(item: Tuple[str, int]) -> Optional[str]:
        return run(args.recipe, *item, data, args.output, args.results, args.flags)

    work_through(todo, work, lambda item: f'{item[0]} {item[1]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
