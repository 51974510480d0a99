"""Which method helps where: `python -m benchmarks.regimes`, from the runs of `benchmarks.accuracy`.

Prints a table for each of top-1, loss and calibration error on the held-out images, with a row per method, a column per
regime of `benchmarks.recipes.REGIMES`, the mean rank, and the worst difference from plain training. A regime's
column has the seeds that all its methods share. Ranks are among the methods that have runs in a regime; a method
without runs in one of them has no mean rank. The last row follows `RULE`. Then follow, on all seeds, the best three
methods of each regime in top-1, and the rule beside the best of what timm has.
"""
import sys
from typing import Dict, List, Optional

from ..recipes import REGIMES
from ..report.metrics import ACCURACY_METRICS
from ..report.page import markdown_table
from ..suite.cli import create_parser, mistakes
from ..suite.results import ACCURACY
from ..suite.runs import Runs, read_runs
from .judgement import best_three, rule_beside_the_usual
from .scores import METHODS, Scores

RULE = {regime: 'mixup+dense-multimix' if regime == 'fitted' else 'dense-multimix' for regime in REGIMES}
"""The method recommended for each regime; docs/when-to-use.md gives the reasons."""


def read_regimes(results: str) -> Dict[str, Runs]:
    """Read the runs of every regime that has some.

    Raises:
        ValueError: If a file is not a result, or there are no runs.
    """
    regimes = {regime: runs for regime, recipe in REGIMES.items() if (runs := read_runs(recipe, results))}
    if not regimes:
        raise ValueError(f'--results must be a folder with results of benchmarks.accuracy, got {results}')
    return regimes


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--results', default=ACCURACY, help='folder of the JSON files')
    parser.add_argument('--figure', metavar='FILE', help='PNG file to write: top-1 and loss minus those of plain')
    args = parser.parse_args(argv)
    with mistakes(parser):
        regimes = read_regimes(args.results)
    scores = [Scores(metric, regimes, RULE) for metric in ACCURACY_METRICS]
    tables = [each.table() for each in scores]
    tables += [best_three(scores[0]), *(rule_beside_the_usual(each) for each in scores[:2])]
    print('\n\n'.join(map(markdown_table, tables)))
    if args.figure:
        from .figure import draw  # needs matplotlib, the tables do not

        draw(scores[:2], METHODS).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
