"""The runs of `benchmarks.detection` as a table and a figure: `python -m benchmarks.detection.table --setting NAME`."""
import argparse
import glob
import os
import statistics
import sys
import textwrap
from typing import Any, Dict, List, Optional

from benchmarks.methods import METHODS
from benchmarks.page import markdown_table
from benchmarks.provenance import machine, seeds
from benchmarks.runs import Runs, cell, read_result

from .run import RESULTS, SCRATCH

_COLUMNS = (('ap', 'AP'), ('ap50', 'AP50'), ('ap75', 'AP75'))


def read_runs(setting: str, results: str = RESULTS) -> Runs:
    """The result records of a setting, by method: from scratch first, then in the order of `METHODS`, then others."""
    runs: Runs = {}
    for path in sorted(glob.glob(os.path.join(results, setting, '*.json'))):
        record = read_result(path)
        runs.setdefault(record['settings']['method'], []).append(record)
    known = [method for method in (SCRATCH, *METHODS) if method in runs]
    return {
        method: sorted(runs[method], key=lambda record: record['settings']['seed'])
        for method in dict.fromkeys([*known, *runs])}


def table(runs: Runs) -> List[List[str]]:
    """A header, and a row per method: in percent, mean and standard deviation over the seeds."""
    rows = [['backbone', *(f'{name} (%)' for _, name in _COLUMNS), 'seeds']]
    for method, records in runs.items():
        cells = [cell([record['result'][metric] for record in records], 1) for metric, _ in _COLUMNS]
        rows.append([method, *cells, ', '.join(str(record['settings']['seed']) for record in records)])
    return rows


def caption(runs: Runs) -> str:
    """What the runs were made with: seeds, each budget that occurs, hardware, versions and commits."""
    records = [record for of_method in runs.values() for record in of_method]
    budgets = dict.fromkeys(_budget(record) for record in records)
    return f'{seeds(runs)}. Budget: {" and ".join(budgets)}. {machine(records)}.'


def _budget(record: Dict[str, Any]) -> str:
    budget, images = record['settings']['budget'], record['result']['images']
    return (
        f'{budget["detector"]} on {budget["model"]}, {budget["epochs"]} epochs, batches of {budget["batch_size"]}, '
        f'{budget["opt"]} with lr {budget["lr"]:g}, {images["train"]} images to train on, {images["evaluate"]} to '
        'evaluate on')


def draw(runs: Runs, title: str, caption: Optional[str] = None) -> Any:
    """A matplotlib figure, AP and AP50 side by side: every run as a point, every method's mean as a line.

    The caption is wrapped below them.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    lines = textwrap.wrap(caption or '', 165, break_on_hyphens=False)  # as wide as the figure at size 7
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 1.4 + 0.4 * len(runs) + 0.15 * len(lines)), sharey=True, constrained_layout=True)
    for axis, (metric, name) in zip(axes, _COLUMNS):
        for row, (method, records) in enumerate(runs.items()):
            values = [record['result'][metric] for record in records]
            color = 'C1' if 'multimix' in method else '0.5' if method == SCRATCH else 'C0'
            axis.plot(values, [row] * len(values), 'o', color=color, alpha=0.6)
            axis.plot([statistics.fmean(values)] * 2, [row - 0.35, row + 0.35], color=color, linewidth=2)
        axis.set_xlabel(f'{name} (%); each point a seed, lines their means')
        axis.grid(axis='x', alpha=0.3)
    axes[0].set_yticks(range(len(runs)), list(runs))
    axes[0].invert_yaxis()
    figure.suptitle(title)
    if lines:  # the layout leaves room for this label, however many lines it has
        figure.supxlabel('\n'.join(lines), x=0.01, ha='left', fontsize=7, color='0.4')
    return figure


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--setting', required=True, help="name of the recipe, or what --setting was")
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--figure', help='PNG file to write')
    args = parser.parse_args(argv)
    runs = read_runs(args.setting, args.results)
    if not runs:
        parser.error(f'--results {args.results} has no runs of {args.setting} yet')
    print(markdown_table(table(runs)))
    if args.figure:
        draw(runs, f'Fine-tuned for detection: {args.setting}', caption(runs)).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
