"""The runs of `benchmarks.accuracy` as a table and a figure: `python -m benchmarks.accuracy_table --recipe NAME`."""
import argparse
import sys
from typing import List, Optional

from .accuracy import RESULTS
from .report.page import markdown_table
from .report.provenance import caption
from .suite.methods import find
from .suite.recipes import RECIPES
from .suite.runs import Runs, cell, read_runs


def table(runs: Runs) -> List[List[str]]:
    """A header, and a row per method: top-1 and loss on the held-out images after the last epoch."""
    rows = [['method', 'top-1 (%)', 'loss', 'seeds']]
    for method, records in runs.items():
        cells = [
            cell([record['result'][metric] for record in records], digits)
            for metric, digits in (('top1', 2), ('loss', 3))]
        rows.append([find(method).label, *cells, ', '.join(str(record['settings']['seed']) for record in records)])
    return rows


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
        from .report import figures  # needs matplotlib, the table does not
        figures.accuracy(runs, args.recipe, caption(runs, args.recipe)).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
