"""The runs of `benchmarks.accuracy` as a table and a figure: `python -m benchmarks.accuracy_table --recipe NAME`.

With `--against METHOD` the table also has the mean difference of each method from that one, over the seeds that both
have, and the p-value of a paired t-test.
"""
import sys
from typing import List, Optional

from .methods import find
from .recipes import RECIPES
from .report.metrics import ACCURACY_METRICS
from .report.page import markdown_table
from .report.provenance import caption
from .suite.cli import create_parser, mistakes
from .suite.results import ACCURACY
from .suite.runs import Runs, read_runs, seeds_of


def table(runs: Runs, against: Optional[str] = None) -> List[List[str]]:
    """A header, and a row per method: metrics on the held-out images after the last epoch."""
    rows = [['method', *(metric.title for metric in ACCURACY_METRICS), 'seeds']]
    if against:
        rows[0] += [f'{metric.name} over {find(against).label} (p)' for metric in ACCURACY_METRICS]
    for method, records in runs.items():
        cells = [metric.cell(dict(accuracy=runs), method) for metric in ACCURACY_METRICS]
        row = [find(method).label, *cells, seeds_of(records)]
        if against:
            row += [metric.difference_cell(records, runs[against]) for metric in ACCURACY_METRICS]
        rows.append(row)
    return rows


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--recipe', required=True, choices=RECIPES)
    parser.add_argument('--results', default=ACCURACY, help='folder of the JSON files')
    parser.add_argument('--against', metavar='METHOD', help='method to compare the others with')
    parser.add_argument('--figure', help='PNG file to write')
    args = parser.parse_args(argv)
    with mistakes(parser):
        runs = read_runs(args.recipe, args.results)
    if not runs:
        parser.error(f'--results {args.results} has no runs of {args.recipe} yet')
    if args.against and args.against not in runs:
        parser.error(f'--against must be one of {", ".join(runs)}, got {args.against!r}')
    print(markdown_table(table(runs, args.against)))
    if args.figure:
        from .report import figures  # needs matplotlib, the table does not
        figures.accuracy(runs, args.recipe, caption(runs, args.recipe)).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
