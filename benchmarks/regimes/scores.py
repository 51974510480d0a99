"""The table of one metric: methods by regimes."""
import statistics
from operator import itemgetter
from typing import Dict, List, Optional

from ..methods import find
from ..report.metrics import Metric
from ..suite.runs import Runs, cell, on_shared_seeds, paired_difference

METHODS = (
    'plain label-smoothing mixup cutmix mixup-cutmix mixup-half manifold-mixup multimix dense-multimix '
    'mixup+dense-multimix mixup-cutmix+dense-multimix auto').split()


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
        self._shared = {regime: on_shared_seeds(runs, METHODS) for regime, runs in regimes.items()}

    def values(self, regime: str, method: str) -> List[Optional[float]]:
        """Values of the seeds that all methods of the regime share; empty without runs."""
        return [self.metric.value(record['result']) for record in self._shared[regime].get(method, [])]

    def difference(self, regime: str, method: str) -> Optional[float]:
        """Mean difference from plain training on the same seeds."""
        runs = self._shared[regime]
        found = paired_difference(runs.get(method, []), runs.get('plain', []), self.metric.value)
        return None if found is None else found[0]

    def means(self, regime: str) -> Dict[str, float]:
        """Means by method, the best first; methods without a number for some seed are left out."""
        means = {
            method: statistics.fmean(values) for method in METHODS
            if (values := self.values(regime, method)) and None not in values}
        return dict(sorted(means.items(), key=itemgetter(1), reverse=self.metric.higher))

    def rank(self, regime: str, method: str) -> Optional[int]:
        """Rank among the methods that have a mean, 1 for the best; equal means share a rank."""
        means = self.means(regime)
        return 1 + list(means.values()).index(means[method]) if method in means else None

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
