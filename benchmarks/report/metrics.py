"""The numbers by which methods are compared, and where MultiMix wins and loses."""
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, pvariance
from typing import Any, Callable, Dict, List, Optional, Sequence

from scipy.stats import ttest_ind

from ..methods import METHODS, find
from ..suite.runs import Runs, cell, paired_difference


@dataclass(frozen=True)
class Metric:
    """One number of a result.

    Args:
        name: Name of the number.
        kind: The kind of result that has it.
        value: Takes it from a result; None if it was not measured or is not finite.
        higher: Whether higher is better.
        digits: Number of decimals.
        top1: Whether it is a top-1 in percent, which says nothing at chance or below.
    """
    name: str
    kind: str
    value: Callable[[Dict[str, Any]], Optional[float]]
    higher: bool = True
    digits: int = 2
    top1: bool = False

    @property
    def title(self) -> str:
        """Name, with an arrow to where it is better."""
        return f'{self.name} {"↑" if self.higher else "↓"}'

    def values(self, parts: Dict[str, Runs], method: str) -> List[float]:
        """Values of all seeds; empty if a seed has none, as a mean over the others would flatter."""
        values = self._all_values(parts, method)
        return [] if None in values else values

    def diverged(self, parts: Dict[str, Runs], method: str) -> str:
        """Say how many seeds diverged, without a finite number; '' if none did, or all."""
        values = self._all_values(parts, method)
        return cell(values, self.digits) if None in values else ''

    def cell(self, parts: Dict[str, Runs], method: str) -> str:
        """Mean, with the standard deviation if there are several seeds."""
        return cell(self._all_values(parts, method), self.digits)

    def difference_cell(self, records: List[Dict[str, Any]], others: List[Dict[str, Any]]) -> str:
        """Mean difference over the seeds that both have, with its p-value if there are several; '' without any."""
        found = None if records is others else paired_difference(records, others, self.value)
        if found is None:
            return ''
        difference, p = found
        return f'{difference:+.{self.digits}f}' + ('' if p is None else f' ({p:.2g})')

    def _all_values(self, parts: Dict[str, Runs], method: str) -> List[Optional[float]]:
        return [self.value(record['result']) for record in parts.get(self.kind, {}).get(method, [])]


def _attacked(attack: str, radius: int) -> Callable:
    return lambda result: next(
        (row['top1'] for row in result['attacks'] if (row['attack'], row['eps_255']) == (attack, radius)), None)


def _corrupted(name: str) -> Callable:
    return lambda result: fmean(row['top1'] for row in result['corruptions'] if row['corruption'] == name)


def _detected(score: str, metric: str) -> Callable:
    return lambda result: 100. * fmean(outliers[score][metric] for outliers in result['sets'].values())


def _calibration_error(result: Dict[str, Any]) -> Optional[float]:
    found = result.get('ece')  # older results have none
    return None if found is None else 100. * found


ACCURACY_METRICS = (
    Metric('top-1 (%)', 'accuracy', itemgetter('top1'), top1=True),
    Metric('test loss', 'accuracy', itemgetter('loss'), higher=False, digits=3),
    Metric('calibration error (%)', 'accuracy', _calibration_error, higher=False, digits=1),
)
TABLES: Dict[str, Sequence[Metric]] = {
    'Accuracy: held-out images': ACCURACY_METRICS[:2],
    'Attacks: top-1 (%)': [
        Metric(f'{attack.upper()} {radius}/255', 'robustness', _attacked(attack, radius), top1=True)
        for attack in ('fgsm', 'pgd') for radius in (2, 4, 8)
    ],
    'Corruptions: top-1 (%), mean of three strengths': [
        Metric(name, 'robustness', _corrupted(name), top1=True) for name in ('noise', 'blur', 'contrast', 'jpeg')
    ],
    'Calibration, and outliers: mean over the sets (%)': [
        Metric('ECE', 'ood', _calibration_error, higher=False),
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
"""Metrics by the heading of their table; all metrics of a table are from one kind of result."""


def verdict(metric: Metric, ours: List[float], theirs: List[float], chance: float = 0.) -> str:
    """Say how far our mean is from theirs, and whether it wins or loses by Welch's t-test at the level of 5 %.

    There is no verdict for a single seed on a side, for seeds that do not differ at all, or for a top-1 of at most
    `chance`, in percent, on both sides.
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
    """Return the method with the best mean among those that are not ours, only with several seeds if any has."""
    others = {
        method: values for method in parts.get('accuracy', {})
        if method in METHODS and not METHODS[method].ours and (values := metric.values(parts, method))}
    several = {method: values for method, values in others.items() if len(values) > 1}
    means = {method: fmean(values) for method, values in (several or others).items()}
    return (max if metric.higher else min)(means, key=means.get, default=None)


def verdicts(parts: Dict[str, Runs], chance: float) -> List[List[str]]:
    """Return table rows: metric, our method, verdict against plain, the best other method, verdict against that.

    `parts` has the results of each kind by method; `chance` is the top-1 of guessing, in percent.
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
    """Count the comparisons tested in these rows of `verdicts`; plain as the best other counts once."""
    return len({
        (metric, method, other) for metric, method, plain, best, against in rows
        for other, text in (('plain', plain), (best, against))
        if text.endswith(('wins', 'loses', 'significantly different'))})
