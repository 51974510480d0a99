"""The numbers that methods are compared by, and where MultiMix wins and loses."""
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, pvariance
from typing import Any, Callable, Dict, List, Optional

from scipy.stats import ttest_ind

from ..suite.methods import METHODS, find
from ..suite.runs import Runs, cell


@dataclass(frozen=True)
class Metric:
    """One number of a result.

    Args:
        name: Of the number.
        kind: The kind of result it is in.
        value: Of a result; None where it is not measured, or not finite.
        higher: Whether more is better.
        digits: After the point.
        top1: Whether it is a top-1 in percent, and says nothing at chance or below.
    """
    name: str
    kind: str
    value: Callable[[Dict[str, Any]], Optional[float]]
    higher: bool = True
    digits: int = 2
    top1: bool = False

    @property
    def title(self) -> str:
        """With an arrow to where it is better."""
        return f'{self.name} {"↑" if self.higher else "↓"}'

    def values(self, parts: Dict[str, Runs], method: str) -> List[float]:
        """Of each seed; none where a seed has it not: a mean of the others would flatter."""
        values = self._all_values(parts, method)
        return [] if None in values else values

    def diverged(self, parts: Dict[str, Runs], method: str) -> str:
        """How many seeds ended without a finite number where others have one; '' where there are none of them."""
        values = self._all_values(parts, method)
        return cell(values, self.digits) if None in values else ''

    def cell(self, parts: Dict[str, Runs], method: str) -> str:
        """Mean, with the standard deviation over the seeds where there are several."""
        return cell(self._all_values(parts, method), self.digits)

    def _all_values(self, parts: Dict[str, Runs], method: str) -> List[Optional[float]]:
        return [self.value(record['result']) for record in parts.get(self.kind, {}).get(method, [])]


def _attacked(attack: str, radius: int) -> Callable:
    return lambda result: next(
        (row['top1'] for row in result['attacks'] if (row['attack'], row['eps_255']) == (attack, radius)), None)


def _corrupted(name: str) -> Callable:
    return lambda result: fmean(row['top1'] for row in result['corruptions'] if row['corruption'] == name)


def _detected(score: str, metric: str) -> Callable:
    return lambda result: 100. * fmean(outliers[score][metric] for outliers in result['sets'].values())


TABLES: Dict[str, List[Metric]] = {
    'Accuracy: held-out images': [
        Metric('top-1 (%)', 'accuracy', itemgetter('top1'), top1=True),
        Metric('loss', 'accuracy', itemgetter('loss'), higher=False, digits=3),
    ],
    'Attacks: top-1 (%)': [
        Metric(f'{attack.upper()} {radius}/255', 'robustness', _attacked(attack, radius), top1=True)
        for attack in ('fgsm', 'pgd') for radius in (2, 4, 8)
    ],
    'Corruptions: top-1 (%), mean of three strengths': [
        Metric(name, 'robustness', _corrupted(name), top1=True) for name in ('noise', 'blur', 'contrast', 'jpeg')
    ],
    'Calibration, and outliers: mean over the sets (%)': [
        Metric('ECE', 'ood', lambda result: 100. * result['ece'], higher=False),
        *(
            Metric(f'{metric.upper()}, {name}', 'ood', _detected(score, metric), higher=metric != 'fpr95')
            for metric in ('auroc', 'aupr', 'fpr95') for score, name in (('msp', 'softmax'), ('energy', 'energy'))),
    ],
    'Embedding space: test images': [
        Metric('alignment', 'embedding_space', itemgetter('alignment'), higher=False, digits=3),
        Metric('uniformity', 'embedding_space', itemgetter('uniformity'), higher=False, digits=3),
        Metric('class spread', 'embedding_space', itemgetter('spread'), higher=False, digits=3),
        Metric('class separation', 'embedding_space', itemgetter('separation'), digits=3),
    ],
}
"""By heading of their table; those of a table are of one kind of result."""


def verdict(metric: Metric, ours: List[float], theirs: List[float], chance: float = 0.) -> str:
    """Which mean is better, ours or theirs, if they differ by Welch's t-test at the level of 5 %.

    With a single seed on a side there is nothing to test with, and no verdict; nor where no seed differs from another,
    or where both have a top-1 of no more than `chance`, in percent.
    """
    if not ours or not theirs:
        return 'not measured'
    if metric.top1 and max(fmean(ours), fmean(theirs)) <= chance:
        return 'both at chance or below'
    difference = fmean(ours) - fmean(theirs)
    signed = f'{difference:+.{metric.digits}f}'
    if min(len(ours), len(theirs)) < 2:
        return f'{signed}, one seed: no verdict'
    # the test divides by the variances
    if pvariance(ours) + pvariance(theirs) == 0. or not ttest_ind(ours, theirs, equal_var=False).pvalue < 0.05:
        return f'{signed}, not significantly different'
    return f'{signed}, {"wins" if (difference > 0.) == metric.higher else "loses"}'


def best_other(metric: Metric, parts: Dict[str, Runs]) -> Optional[str]:
    """The method with the best mean among those of `METHODS` that are not ours; with several seeds, where one has."""
    others = {
        method: values for method in parts.get('accuracy', {})
        if method in METHODS and not METHODS[method].ours and (values := metric.values(parts, method))}
    several = {method: values for method, values in others.items() if len(values) > 1}
    means = {method: fmean(values) for method, values in (several or others).items()}
    return (max if metric.higher else min)(means, key=means.get, default=None)


def verdicts(parts: Dict[str, Runs], chance: float) -> List[List[str]]:
    """Rows of a table: metric, method of ours, against plain, the best other method, against that.

    `parts` has the results of each kind, by method; `chance` is the top-1 of guessing, in percent.
    """
    rows = []
    for metrics in TABLES.values():
        for metric in metrics:
            other = best_other(metric, parts)
            for method in (name for name, entry in METHODS.items() if entry.ours):
                ours = metric.values(parts, method)
                if ours and other is not None:
                    plain, best = (
                        metric.diverged(parts, name) or verdict(metric, ours, metric.values(parts, name), chance)
                        for name in ('plain', other))
                    rows.append([metric.title, find(method).label, plain, find(other).label, best])
                elif metric.diverged(parts, method):
                    rows.append([metric.title, find(method).label, metric.diverged(parts, method), '', ''])
    return rows


def num_tests(rows: List[List[str]]) -> int:
    """How many comparisons of two methods these rows of `verdicts` tested; plain may be the best other, too."""
    return len({
        (metric, method, other) for metric, method, plain, best, against in rows
        for other, text in (('plain', plain), (best, against))
        if text.endswith(('wins', 'loses', 'significantly different'))})
