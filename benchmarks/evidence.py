"""Run the whole suite for a recipe: `python -m benchmarks.evidence --recipe NAME --data-dir FOLDER`.

The parts are accuracy, step time, robustness, outliers and calibration, embedding space, attention and the report.
Existing results are kept, so an interrupted command can be repeated, and seeds or methods can be added later.
"""
import argparse
import logging
import os
import sys
import time
from typing import List, Optional

import timm
from timm.data import resolve_data_config

from . import accuracy, attention, embedding_space, ood, robustness, step_time
from .methods import KNOBS, METHODS
from .recipes import RECIPES
from .report import __main__ as report
from .suite import budget
from .suite.cli import mistakes
from .suite.running import create_part_parser, exclusive
from .suite.runs import existing_settings

_logger = logging.getLogger('benchmarks')


def measure_step_time(recipe: str, methods: List[str], device: str, path: str) -> int:
    """Time steps of the recipe's model on its batches, unless the file has all of these methods.

    If any is missing, all are timed again: only methods that were timed side by side are compared.
    """
    train_args = budget.recipe_args(recipe)
    model = timm.create_model(train_args.model, num_classes=train_args.num_classes)
    data_config = resolve_data_config(vars(train_args), model=model)
    steps = dict(
        models=[train_args.model], batch_size=[train_args.batch_size], image_size=data_config['input_size'][-1],
        num_classes=train_args.num_classes, device=device)
    existing = existing_settings(path) or {}
    changed = [name for name, value in steps.items() if existing.get(name, value) != value]
    if changed:
        raise ValueError(f'{path} must have {steps}, got another {", ".join(changed)}; delete it to time again')
    timed = existing.get('methods', [])
    if {'plain', *methods} <= set(timed):
        return 0
    chosen = [method for method in [*METHODS, *KNOBS] if method in {'plain', *methods, *timed}]
    return step_time.main([
        '--models', train_args.model, '--batch-size', str(train_args.batch_size),
        '--image-size', str(steps['image_size']), '--num-classes', str(train_args.num_classes),
        '--device', device, '--methods', *chosen, '--output', path])


def time_steps_alone(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Call `measure_step_time`, unless another process is doing so."""
    with exclusive(os.path.join(args.output, f'{args.recipe}.step_time.lock')) as mine:
        if not mine:
            _logger.info('step time: running in another process')
            return 0
        with mistakes(parser):
            path = os.path.join(args.results, 'step_time', f'{args.recipe}.json')
            return measure_step_time(args.recipe, args.methods, args.device, path)


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_part_parser(__doc__)
    parser.add_argument('--flags', default='', help='more flags for train_timm.py, such as "--workers 8"')
    parser.add_argument('--outlier-folders', nargs='*', default=[], metavar='DIR', help='as for benchmarks.ood')
    parser.add_argument('--report', help='folder of the report (RESULTS/report)')
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    with mistakes(parser):  # before hours of training
        budget.check_flags(budget.budget(args.recipe, args.methods[0], args.seeds[0]), args.flags)
        ood.name_folders(args.outlier_folders, RECIPES[args.recipe])
        embedding_space.check_images(args.recipe, args.images)
    recipe = ['--recipe', args.recipe, '--results', args.results]
    data = [*recipe, '--data-dir', args.data_dir, '--output', args.output]
    runs = [*data, '--methods', *args.methods, '--seeds', *map(str, args.seeds)]
    judged = [*runs, '--device', args.device, '--images', str(args.images)]
    shown = [method for method in ('plain', 'dense-multimix') if method in args.methods]
    # attention takes its own number of images, and one seed
    looked_at = [*data, '--device', args.device, '--seeds', str(args.seeds[0]), '--methods', *shown]
    reported = [*recipe, '--methods', *dict.fromkeys([*METHODS, *args.methods])]
    parts = {
        'accuracy': lambda: accuracy.main(
            [*runs, '--results', os.path.join(args.results, 'accuracy'), f'--flags={args.flags}']),
        'step time': lambda: time_steps_alone(parser, args),
        'robustness': lambda: robustness.main(judged),
        'outliers': lambda: ood.main([*judged, '--outlier-folders', *args.outlier_folders]),
        'embedding space': lambda: embedding_space.main(judged),
        'attention': lambda: attention.main(looked_at) if shown else 0,
        'report': lambda: report.main([*reported, '--report', args.report] if args.report else reported),
    }
    failed = False
    for name, part in parts.items():
        start = time.time()
        code = part()
        if code > 1:  # usage error or Ctrl-C; 1 means that a run failed, and the others can be evaluated
            return code
        failed |= bool(code)
        _logger.info(f'== {name}: {time.time() - start:.0f} s' + (', incomplete' if code else ''))
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
