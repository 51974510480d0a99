"""The runs of `benchmarks.accuracy` as a table and a figure: `python -m benchmarks.accuracy_table --recipe NAME`."""
import argparse
import statistics
import sys
import textwrap
from typing import List, Optional

from .accuracy import RESULTS
from .page import markdown_table
from .provenance import caption
from .recipes import RECIPES
from .runs import Runs, cell, read_runs


def table(runs: Runs) -> List[List[str]]:
    """A header, and a row per method: top-1 and loss on the held-out images after the last epoch."""
    rows = [['method', 'top-1 (%)', 'loss', 'seeds']]
    for method, records in runs.items():
        cells = []
        for metric, digits in (('top1', 2), ('loss', 3)):
            values = [record['result'][metric] for record in records]
            cells.append('' if None in values else cell(values, digits))
        rows.append([method, *cells, ', '.join(str(record['settings']['seed']) for record in records)])
    return rows


def plot(runs: Runs, path: str, recipe: str) -> None:
    """Every run as a point, every method's mean as a line, and what they were made with below."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 1.7 + 0.35 * len(runs)), constrained_layout=True)
    for row, (method, records) in enumerate(runs.items()):
        values = [record['result']['top1'] for record in records]
        color = 'C1' if 'multimix' in method else 'C0'
        axis.plot(values, [row] * len(values), 'o', color=color, alpha=0.6)
        axis.plot([statistics.fmean(values)] * 2, [row - 0.35, row + 0.35], color=color, linewidth=2)
    axis.set_yticks(range(len(runs)), list(runs))
    axis.invert_yaxis()
    axis.set_xlabel('top-1 (%) on the held-out images after the last epoch; each point a seed, lines their means')
    axis.set_title(recipe)
    axis.grid(axis='x', alpha=0.3)
    figure.supxlabel(textwrap.fill(caption(runs, recipe), 130), fontsize=7, color='0.4')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--recipe', required=True, choices=RECIPES)
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--figure', help='PNG file to write')
    args = parser.parse_args(argv)
    try:
        runs = read_runs(args.recipe, args.results)
    except ValueError as error:
        parser.error(str(error))
    if not runs:
        parser.error(f'--results {args.results} has no runs of {args.recipe} yet')
    print(markdown_table(table(runs)))
    if args.figure:
        plot(runs, args.figure, args.recipe)
    return 0


if __name__ == '__main__':
    sys.exit(main())
