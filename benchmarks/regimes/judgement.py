"""Which differences stand: the best three methods of each regime, and the rule beside the best of what timm has."""
from typing import List

from ..methods import find
from ..suite.runs import cell, on_shared_seeds, paired_difference, seeds_of
from .scores import Scores

USUAL = ('plain', 'label-smoothing', 'mixup', 'cutmix', 'mixup-cutmix')
"""What timm users have without this package."""


def best_three(scores: Scores) -> List[List[str]]:
    """A row per regime: the best three methods of its table, on all seeds that the three share.

    First is the best on those seeds. Differences are paired by seed, with the p-value of a t-test.
    """
    rows = [[
        f'best three, {scores.metric.title}', 'seeds', 'first', 'second', 'third', 'first minus second (p)',
        'first minus third (p)']]
    for regime, runs in scores.regimes.items():
        three = {name: runs[name] for name in list(scores.means(regime))[:3]}
        within = Scores(scores.metric, {regime: three}, scores.rule)
        names = sorted(three, key=lambda name: within.rank(regime, name) or len(three))
        shared = on_shared_seeds(three, three)
        cells, differences = [''] * 3, [''] * 2
        for index, name in enumerate(names):
            cells[index] = f'{find(name).label}: {cell(within.values(regime, name), scores.metric.digits)}'
        for index, name in enumerate(names[1:]):
            differences[index] = scores.metric.difference_cell(shared[names[0]], shared[name])
        rows.append([regime, seeds_of(next(iter(shared.values()), [])), *cells, *differences])
    return rows


def rule_beside_the_usual(scores: Scores) -> List[List[str]]:
    """A row per regime: what the rule recommends, minus plain training, and minus the best of `USUAL`.

    The best is the one that the rule is least ahead of, on all seeds that the two share.
    """
    metric = scores.metric
    rows = [[f'the rule, {metric.title}', 'seeds', 'minus plain (p)', 'best of the usual', 'minus that (p)']]
    for regime, runs in scores.regimes.items():
        method = runs.get(scores.rule[regime], [])
        ahead = {
            name: found[0] for name in USUAL if (found := paired_difference(method, runs.get(name, []), metric.value))}
        best = (min if metric.higher else max)(ahead, key=ahead.get, default='plain')
        shared = on_shared_seeds(runs, [scores.rule[regime], 'plain', best])
        method, plain, usual = (shared.get(name, []) for name in (scores.rule[regime], 'plain', best))
        rows.append([
            f'{regime}: {find(scores.rule[regime]).label}', seeds_of(method), metric.difference_cell(method, plain),
            find(best).label, metric.difference_cell(method, usual)])
    return rows
