"""Which differences stand: the best three methods of each regime, and the rule beside the best of what timm has."""
from typing import List

from ..suite.methods import find
from ..suite.runs import cell, on_shared_seeds, seeds_of
from .scores import Scores

USUAL = ('plain', 'label-smoothing', 'mixup', 'cutmix', 'mixup-cutmix')
"""What timm users have without this package."""


def best_three(scores: Scores) -> List[List[str]]:
    """A row per regime: the best three methods of its table, on all seeds that the three share.

    Best is by the table's mean. Differences are paired by seed, with the p-value of a t-test.
    """
    rows = [[
        f'best three, {scores.metric.title}', 'seeds', 'first', 'second', 'third', 'first minus second (p)',
        'first minus third (p)']]
    for regime, runs in scores.regimes.items():
        names = list(scores.means(regime))[:3]
        shared = on_shared_seeds(runs, names)
        cells, differences = [''] * 3, [''] * 2
        for index, name in enumerate(names):
            values = [scores.metric.value(record['result']) for record in shared[name]]
            cells[index] = f'{find(name).label}: {cell(values, scores.metric.digits)}'
        for index, name in enumerate(names[1:]):
            differences[index] = scores.metric.difference_cell(shared[names[0]], shared[name])
        rows.append([regime, seeds_of(next(iter(shared.values()), [])), *cells, *differences])
    return rows


def rule_beside_the_usual(scores: Scores) -> List[List[str]]:
    """A row per regime: what the rule recommends, minus plain training, and minus the best of `USUAL`."""
    rows = [[f'the rule, {scores.metric.title}', 'seeds', 'minus plain (p)', 'best of the usual', 'minus that (p)']]
    for regime, runs in scores.regimes.items():
        best = next((name for name in scores.means(regime) if name in USUAL), 'plain')
        shared = on_shared_seeds(runs, [scores.rule[regime], 'plain', best])
        method, plain, usual = (shared.get(name, []) for name in (scores.rule[regime], 'plain', best))
        rows.append([
            f'{regime}: {find(scores.rule[regime]).label}', seeds_of(method),
            scores.metric.difference_cell(method, plain), find(best).label,
            scores.metric.difference_cell(method, usual)])
    return rows
