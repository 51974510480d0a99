"""Which method helps where: `python -m benchmarks.regimes`, from the runs of `benchmarks.accuracy`.

Prints a table for each of top-1, loss and calibration error on the held-out images, with a row per method, a column per
regime of `benchmarks.suite.recipes.REGIMES`, the mean rank, and the worst difference from plain training. Only seeds
that plain training also has are used. Ranks are among the methods that have runs in a regime; a method without runs in
one of them has no mean rank. The last row follows `RULE`.
"""
import statistics
import sys
from typing import Dict, List, Optional

from ..report.metrics import ACCURACY_METRICS, Metric
from ..report.page import markdown_table
from ..suite.cli import create_parser, mistakes
from ..suite.methods import find
from ..suite.recipes import REGIMES
from ..suite.results import ACCURACY
from ..suite.runs import Runs, cell, paired_difference, read_runs

METHODS = (
    'plain label-smoothing mixup cutmix mixup-cutmix mixup-half manifold-mixup multimix dense-multimix '
    'mixup+dense-multimix mixup-cutmix+dense-multimix auto').split()
RULE = {regime: 'mixup+dense-multimix' if regime == 'fitted' else 'dense-multimix' for regime in REGIMES}
"""The method recommended for each regime; docs/when-to-use.md gives the reasons."""


class Scores:
    """One metric of every method in every regime.

    Args:
        metric: The metric to compare.
        regimes: Runs by regime and method.
        rule: The method recommended for each regime.
    """

    def __init__(self, metric: Metric, regimes: Dict[str, Runs], rule: Dict[str, str]):
        self.metric = metric
        self.regimes = regimes
        self.rule = rule

    def values(self, regime: str, method: str) -> List[Optional[float]]:
        """Values of the seeds that plain training also has; empty without runs."""
        runs = self.regimes[regime]
        seeds = {record['settings']['seed'] for record in runs.get('plain', [])}
        return [
            self.metric.value(record['result']) for record in runs.get(method, [])
            if record['settings']['seed'] in seeds]

    def difference(self, regime: str, method: str) -> Optional[float]:
        """Mean difference from plain training, on the seeds that both have."""
        runs = self.regimes[regime]
        found = paired_difference(runs.get(method, []), runs.get('plain', []), self.metric.value)
        return None if found is None else found[0]

    def rank(self, regime: str, method: str) -> Optional[int]:
        """Rank among the methods that have a mean, 1 for the best."""
        sign = 1. if self.metric.higher else -1.
        means = {
            other: sign * statistics.fmean(values) for other in METHODS
            if (values := self.values(regime, other)) and None not in values}
        return 1 + sum(mean > means[method] for mean in means.values()) if method in means else None

    def row(self, label: str, methods: Dict[str, str]) -> List[str]:
        """Return a table row for the method in `methods` of each regime: cells, mean rank, worst difference."""
        digits, pairs = self.metric.digits, [(regime, methods[regime]) for regime in self.regimes]
        cells = [cell(self.values(*pair), digits) if self.values(*pair) else '' for pair in pairs]
        ranks = [self.rank(*pair) for pair in pairs]
        differences = [difference for pair in pairs if (difference := self.difference(*pair)) is not None]
        worst = (min if self.metric.higher else max)(differences, default=None)
        return [
            label, *cells, '' if None in ranks else f'{statistics.fmean(ranks):.1f}',
            '' if worst is None or None in ranks else f'{worst:+.{digits}f}']

    def table(self) -> List[List[str]]:
        """A header, a row per method, and one that follows the rule."""
        header = [self.metric.title, *self.regimes, 'mean rank', 'worst difference from plain']
        rows = [self.row(find(method).label, dict.fromkeys(self.regimes, method)) for method in METHODS]
        return [header, *rows, self.row('**by the rule**', self.rule)]


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
    print('\n\n'.join(markdown_table(each.table()) for each in scores))
    if args.figure:
        from .figure import draw  # needs matplotlib, the tables do not

        draw(scores[:2], METHODS).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
