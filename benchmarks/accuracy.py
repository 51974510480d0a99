"""Accuracy of each method on the same budget: `python -m benchmarks.accuracy --recipe NAME --data-dir FOLDER`.

Every run is a training by train_timm.py in its own folder, and writes one JSON file when it is complete. Complete runs
are not repeated, and interrupted ones resume after their last epoch. If a run fails, the others still run, and the
exit code is 1. Several of these commands may work side by side.
"""
import argparse
import csv
import logging
import math
import os
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

import torch
import yaml

import train_timm
from timm_multimix.training.errors import INTERRUPTED, TERMINATED

from .recipes import RECIPES
from .suite.budget import budget, check_data, check_flags, check_folder, check_pretrained, check_result
from .suite.cli import add_methods, create_parser, mistakes
from .suite.results import ACCURACY, COMMIT, write_result
from .suite.running import Run, exclusive, run_of, work_through
from .suite.subset import Share, prepare_data
from .suite.trained import apply, calibration_error, load_pixels, load_run

_logger = logging.getLogger('benchmarks')

class RunError(Exception):
    """A failed or interrupted training, with the exit code for it."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def train(run: Run, data: Share, results: str, extra: str = '') -> Optional[str]:
    """Train once and write the result; return the path of its file, or None if another process is training this run.

    Raises:
        RunError: If the training fails, or is stopped by Ctrl-C or SIGTERM.
    """
    recipe, method, seed = run.recipe, run.method, run.seed
    path = run.result_in(results)
    with exclusive(f'{run.folder}.lock') as mine:
        if not mine:
            return None
        if os.path.exists(path):
            return path
        flags = f'{budget(recipe, method, seed)} {extra}'.strip()
        start = time.time()
        command = [
            '--data-dir', data.folder, '--val-split', RECIPES[recipe].eval_split, *flags.split(),
            '--output', os.path.dirname(run.folder), '--experiment', os.path.basename(run.folder)]
        commits = _commits(run.folder)
        code = train_timm.main([*command, '--resume', 'auto', '--checkpoint-hist', '1'])
        epochs, wanted = _progress(run.folder)
        if code in (INTERRUPTED, TERMINATED):
            raise RunError(
                f'the run of {method} with seed {seed} was interrupted after {len(epochs)} of {wanted} epochs; the '
                f'same command resumes it', INTERRUPTED)
        if code:
            raise RunError(f'the run of {method} with seed {seed} failed; its command was: {" ".join(command)}', code)
        settings = dict(
            recipe=recipe, method=method, seed=seed, flags=flags, data=data.digest, checkpoint=run.checksum())
        last = epochs[-1]
        result: Dict[str, Any] = dict(
            top1=last['eval_top1'], loss=last['eval_loss'], ece=_calibration_error(run, data.folder), epochs=epochs,
            commits=commits)
        if 'eval_student_top1' in last:  # with a teacher the others are the teacher's; the model is compared
            result.update(top1=last['eval_student_top1'], teacher_top1=last['eval_top1'], loss=None)
        result['seconds'] = time.time() - start  # since the last start, if the run was interrupted
        write_result(path, 'accuracy', settings, result)
    return path


def _calibration_error(run: Run, folder: str) -> Optional[float]:
    """Calibration error of the last epoch's model, in float32, over all held-out images."""
    model, data_config = load_run(run, 'cpu')
    pixels, labels = load_pixels(os.path.join(folder, RECIPES[run.recipe].eval_split), data_config)
    return calibration_error(apply(model, pixels, 'cpu'), labels)


def _commits(folder: str) -> List[str]:
    """List the commits that trained in this folder, and record the current one unless the run is complete."""
    path, (epochs, wanted) = os.path.join(folder, 'commits.txt'), _progress(folder)
    commits = ['unknown'] if epochs else []
    if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            commits = file.read().split()
    if COMMIT not in commits and len(epochs) < wanted:
        commits.append(COMMIT)
        os.makedirs(folder, exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write('\n'.join(commits) + '\n')
    return commits


def _progress(folder: str) -> Tuple[List[Dict[str, Optional[float]]], float]:
    """Return the completed epochs of a run and its planned number of epochs, infinity if it has not started.

    An epoch counts once its checkpoint exists, which is written after its row of the summary.
    """
    path, checkpoint = os.path.join(folder, 'args.yaml'), os.path.join(folder, 'last.pth.tar')
    if not os.path.exists(path):
        return [], math.inf
    with open(path, encoding='utf-8') as file:
        wanted = yaml.safe_load(file)['epochs']
    if not os.path.exists(checkpoint):
        return [], wanted
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(checkpoint, map_location='cpu', weights_only=True)['epoch']
    return [row for row in _epochs(os.path.join(folder, 'summary.csv')) if row['epoch'] <= saved], wanted


def _epochs(summary: str) -> List[Dict[str, Optional[float]]]:
    with open(summary, newline='') as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    # JSON has no NaN or infinity, which a diverged loss is
    return [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--recipe', required=True, choices=RECIPES, help='the budget')
    parser.add_argument('--data-dir', required=True, help='folder with train/ and test/, a folder of images per class')
    add_methods(parser)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='SEED')
    parser.add_argument('--output', default='output/accuracy', help='folder of the runs')
    parser.add_argument('--results', default=ACCURACY, help='folder of the JSON files')
    parser.add_argument('--flags', default='', help='machine flags for train_timm.py, such as "--workers 8"')
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    todo = [run_of(args.output, args.recipe, method, seed) for seed in args.seeds for method in args.methods]

    def path_of(run: Run) -> str:
        return run.result_in(args.results)

    with mistakes(parser):
        check_pretrained(args.recipe)
        for run in todo:
            expected = budget(run.recipe, run.method, run.seed)
            check_flags(expected, args.flags)
            check_result(path_of(run), expected, run.folder)
            if not os.path.exists(path_of(run)):
                check_folder(run.folder, expected)
        data = prepare_data(RECIPES[args.recipe], args.data_dir, os.path.join(args.output, 'data', args.recipe))
        for run in todo:
            check_data(path_of(run), data.digest)
    failures: List[str] = []

    def work(run: Run) -> Optional[str]:
        try:
            return train(run, data, args.results, args.flags)
        except RunError as error:
            if error.code in (2, INTERRUPTED):  # 2 is a usage error, which all runs share
                raise
            failures.append(str(error))
            return 'failed'

    try:
        work_through(todo, work, lambda run: f'{run.method} {run.seed}', lambda run: os.path.exists(path_of(run)))
    except RunError as error:
        _logger.error(str(error))
        return error.code
    for failure in failures:
        _logger.error(failure)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
