"""The tables, each a list of rows of text with the header first."""
import statistics
from typing import Any, Dict, List, Optional, Sequence

import pandas as pd

from ..recipes import RECIPES, REGIMES
from ..records import read_record
from .frame import Metric, entry_of, methods_of, of_method, on_shared_seeds, seeds_of

Rows = List[List[str]]
MIB = 2 ** 20
ACCURACY = (
    Metric('top-1 (%)', 'accuracy.top1'),
    Metric('test loss', 'accuracy.loss', higher=False, digits=3),
    Metric('calibration error (%)', 'accuracy.ece', higher=False, digits=1, scale=100.),
)
MEASURES: Dict[str, Sequence[Metric]] = {
    'robustness': (
        *(Metric(f'top-1 under {attack.upper()}, {eps}/255 (%)', f'robustness.attacks.{attack}.{eps}', digits=1)
          for attack in ('fgsm', 'pgd') for eps in (2, 4, 8)),
        Metric('top-1, mean of the corruptions (%)', 'robustness.corruptions.*', digits=1),
    ),
    'outliers': [
        Metric(f'{title} of {score} (%)', f'outliers.sets.*.{short}.{metric}', metric != 'fpr95', 1, 100.)
        for metric, title in (
            ('auroc', 'AUROC'), ('aupr_in', 'AUPR in'), ('aupr_out', 'AUPR out'), ('fpr95', 'FPR95'),
            ('accuracy', 'detection accuracy'))
        for short, score in (('msp', 'softmax'), ('energy', 'energy'))
    ],
    'embeddings': (
        Metric('class separation', 'embeddings.separation', digits=3),
        Metric('class spread', 'embeddings.spread', higher=False, digits=3),
        Metric('alignment', 'embeddings.alignment', higher=False, digits=3),
        Metric('uniformity', 'embeddings.uniformity', higher=False),
        *(Metric(f'{title}{where} (%)', f'embeddings.{prefix}{name}', digits=1)
          for prefix, where in (('', ''), ('unseen.', ', new classes'))
          for name, title in (('recall1', 'recall@1'), ('map', 'mean average precision'), ('knn', 'nearest neighbours'),
                              ('1-shot', '1-shot'), ('5-shot', '5-shot'))),
    ),
    'boxes': (
        Metric('boxes found (%)', 'boxes.iou50', digits=1),
        *(Metric(f"attention '{kind}', {title} (%)", f'boxes.attention.{kind}_{name}', higher, 1)
          for kind in ('gap', 'cam')
          for name, title, higher in (('inside', 'in boxes', True), ('entropy', 'entropy', False))),
    ),
}
"""Metrics of each measure but accuracy, for test images; those of outliers are means over the sets."""
RECOMMENDED = 'strength'
"""The one setting of the pages, whose form was chosen before it was judged."""
BASELINES = ('plain', 'label-smoothing', 'mixup', 'cutmix', 'mixup-cutmix')
"""What timm users have without this package."""


def accuracy_table(frame: pd.DataFrame, against: Sequence[str]) -> Rows:
    """A row per method of one recipe, on the seeds that all share: metrics, and how far `against` is ahead of it."""
    shared = on_shared_seeds(frame)
    frame = shared if len(shared) else frame
    against = [method for method in against if method in set(frame.method)]
    rows = [['method', *(metric.title for metric in ACCURACY), 'seeds', *(
        f'{entry_of(other).label} minus this: {metric.name} (p)' for other in against for metric in ACCURACY)]]
    for method in methods_of(frame):
        own = of_method(frame, method)
        rows.append([
            entry_of(method).label, *(metric.cell(own) for metric in ACCURACY), seeds_of(own), *(
                metric.difference_cell(of_method(frame, other), own) for other in against for metric in ACCURACY)])
    return rows


def measure_table(frame: pd.DataFrame, measure: str) -> Rows:
    """A row per metric, a column per method. Bold: the best mean; a star: p < 0.05 against plain, by Welch's t-test."""
    frame = frame[frame.filter(regex=rf'^{measure}\.').notna().any(axis=1)]
    methods, plain = methods_of(frame), of_method(frame, 'plain')
    rows = [[measure, *(entry_of(method).label for method in methods)]]
    for metric in MEASURES[measure]:
        cells = [metric.cell(of_method(frame, method)) for method in methods]
        means = {method: mean for method in methods if (mean := metric.mean(of_method(frame, method))) is not None}
        if not means:
            continue
        best = (max if metric.higher else min)(means.values())
        rows.append([metric.title, *(
            (f'**{cell}**' if means.get(method) == best else cell)
            + (' *' if metric.differs(of_method(frame, method), plain) else '')
            for method, cell in zip(methods, cells))])
    return rows


def variants_table(frame: pd.DataFrame) -> Rows:
    """A row per variant METHOD@FLAG=VALUE, with its method on all seeds that both have; differences are paired."""
    rows = [['variant', 'recipe', 'seeds', *(
        title for metric in ACCURACY[:2] for title in (metric.title, 'its method', 'minus that (p)'))]]
    for (recipe, method), own in frame.groupby(['recipe', 'method'], sort=False):
        base = frame[(frame.recipe == recipe) & (frame.method == method.partition('@')[0])]
        both = on_shared_seeds(pd.concat([own, base]))
        own, base = of_method(both, method), both[both.method != method]
        if '@' in method and len(base):
            rows.append([entry_of(method).label, recipe, seeds_of(own), *(
                text for metric in ACCURACY[:2]
                for text in (metric.cell(own), metric.cell(base), metric.difference_cell(own, base)))])
    return rows


class Regimes:
    """One metric of every method in every regime, from a frame of all results.

    The regimes are those of `benchmarks.recipes.REGIMES` or, if there are none of their recipes, all recipes; the
    methods those with results in half of them.
    """

    def __init__(self, frame: pd.DataFrame, metric: Metric):
        self.metric = metric
        names = {recipe: regime for regime, recipe in REGIMES.items() if recipe in set(frame.recipe)}
        names = names or {recipe: recipe for recipe in frame.recipe}
        self.runs = {regime: frame[frame.recipe == recipe] for recipe, regime in names.items()}
        regimes = pd.concat(self.runs.values())
        counts = regimes.groupby('method').recipe.nunique()
        self.methods = [
            method for method in methods_of(frame)
            if '@' not in method and counts.get(method, 0) >= max(len(self.runs) / 2., 1)]
        self.shared = {
            regime: on_shared_seeds(runs[runs.method.isin(self.methods)]) for regime, runs in self.runs.items()}
        self.complete = set.intersection(*(set(self.means(regime)) for regime in self.runs))

    def own(self, regime: str, method: str) -> pd.DataFrame:
        """The method's rows, of the seeds that all methods of the regime share."""
        return of_method(self.shared[regime], method)

    def difference(self, regime: str, method: str) -> Optional[float]:
        """Mean difference from plain training on the same seeds."""
        found = self.metric.difference(self.own(regime, method), self.own(regime, 'plain'))
        return None if found is None else found[0]

    def means(self, regime: str) -> Dict[str, float]:
        """Means by method, the best first; methods without a number for some seed are left out."""
        means = {
            method: mean for method in self.methods if (mean := self.metric.mean(self.own(regime, method))) is not None}
        return dict(sorted(means.items(), key=lambda item: item[1], reverse=self.metric.higher))

    def rank(self, regime: str, method: str) -> Optional[int]:
        """Rank among the methods that have a mean in every regime, 1 for the best; equal means share a rank."""
        means = {name: mean for name, mean in self.means(regime).items() if name in self.complete}
        return 1 + list(means.values()).index(means[method]) if method in means else None

    def row(self, method: str) -> List[str]:
        """Return the table row of a method: a cell for each regime, mean rank, worst difference."""
        ranks = [self.rank(regime, method) for regime in self.runs]
        differences = [found for regime in self.runs if (found := self.difference(regime, method)) is not None]
        row = [entry_of(method).label, *(self.metric.cell(self.own(regime, method)) for regime in self.runs)]
        if None in ranks or not differences:
            return [*row, '', '']
        worst = (min if self.metric.higher else max)(differences)
        return [*row, f'{statistics.fmean(ranks):.1f}', f'{worst:+.{self.metric.digits}f}']

    def table(self) -> Rows:
        """A header and a row per method."""
        header = [self.metric.title, *self.runs, 'mean rank', 'worst difference from plain']
        return [header, *map(self.row, self.methods)]

    def best_three(self) -> Rows:
        """A row per regime: the best three methods of its table, on all seeds that the three share.

        First is the best on those seeds. Differences are paired by seed, with the p-value of a t-test.
        """
        rows = [[
            f'best three, {self.metric.title}', 'seeds', 'first', 'second', 'third', 'first minus second (p)',
            'first minus third (p)']]
        for regime, runs in self.runs.items():
            three = list(self.means(regime))[:3]
            shared = on_shared_seeds(runs[runs.method.isin(three)])
            means = {method: self.metric.mean(of_method(shared, method)) for method in three}
            order = sorted(three, key=lambda method: (
                means[method] is None, (means[method] or 0.) * (-1. if self.metric.higher else 1.)))
            found = [of_method(shared, method) for method in order]
            cells = [f'{entry_of(method).label}: {self.metric.cell(own)}' for method, own in zip(order, found)]
            differences = [self.metric.difference_cell(found[0], own) for own in found[1:]]
            rows.append([
                regime, seeds_of(found[0]) if found else '', *cells, *[''] * (3 - len(cells)), *differences,
                *[''] * (2 - len(differences))])
        return rows

    def recommendation_vs_baselines(self) -> Rows:
        """A row per regime: the recommended setting minus plain training, and minus the best of `BASELINES`.

        The best is the one that it is least ahead of, on all seeds that the two share.
        """
        metric = self.metric
        label = f'{entry_of(RECOMMENDED).label}, {metric.title}'
        rows = [[label, 'seeds', 'minus plain (p)', 'best baseline', 'minus that (p)']]
        for regime, runs in self.runs.items():
            ahead = {
                name: found[0] for name in BASELINES
                if (found := metric.difference(of_method(runs, RECOMMENDED), of_method(runs, name)))}
            best = (min if metric.higher else max)(ahead, key=ahead.get, default='plain')
            shared = on_shared_seeds(runs[runs.method.isin([RECOMMENDED, 'plain', best])])
            own, plain, usual = (of_method(shared, name) for name in (RECOMMENDED, 'plain', best))
            rows.append([
                regime, seeds_of(own), metric.difference_cell(own, plain),
                entry_of(best).label, metric.difference_cell(own, usual)])
        return rows


def loss_table(record: Dict[str, Any]) -> Rows:
    """A row per size: the literal time, each implementation with its ratio, sampling, and each loss alone."""
    result = record['result']
    timed = result['sizes'][0]['seconds']
    names = [name for name in timed if name not in ('literal', 'sampling') and not name.endswith(' alone')]
    alone = {name: f'{name} alone' for name in names if f'{name} alone' in timed}
    rows = [[
        'b', 'c', 'n', 'r', 'literal', *(f'{name} (times faster)' for name in names), 'sampling',
        *(f'loss alone, {name} (times its floor)' for name in alone)]]
    for row in sorted(result['sizes'], key=lambda row: tuple(row['size'].values())):
        size, seconds = row['size'], row['seconds']
        cells = [f'{size[name]:,}' for name in ('batch_size', 'classes', 'tuples', 'positions')]
        cells.append(_milliseconds(seconds.get('literal')))
        for name in names:
            ratio = row.get('ratio', {}).get(name)
            faster = '' if ratio is None else f' ({ratio[1]:.1f}: {ratio[0]:.1f} to {ratio[2]:.1f})'
            cells.append(_milliseconds(seconds[name]) + faster)
        cells.append(_milliseconds(seconds.get('sampling')))
        for key in alone.values():
            over = '' if key not in seconds else f' ({seconds[key] / row["floor"]:.1f})'
            cells.append(_milliseconds(seconds.get(key)) + over)
        rows.append(cells)
    return rows


def step_table(record: Dict[str, Any]) -> Rows:
    """A row per model, batch size and method: the step, its ratio to plain training, what a teacher adds, memory."""
    rows = [[
        'model', 'batch', 'method', 'step', 'over plain (quartiles)', 'teacher adds, in its passes', 'peak memory']]
    for run in record['result']['runs']:
        plain = run['methods']['plain']['peak_memory']
        for method, row in run['methods'].items():
            peak, teacher = row['peak_memory'], ''
            memory = '' if peak is None else f'{peak / MIB:,.0f} MiB ({100. * (peak / plain - 1.):+.1f} %)'
            if 'teacher_forwards' in row:
                teacher = f'{row["teacher_forwards"]:.2f} ({_range(row["teacher_forwards_quartiles"], 2)})'
            rows.append([
                run['model'], str(run['batch_size']), entry_of(method).label, _milliseconds(row['seconds']),
                f'{row["ratio"]:.3f} ({_range(row["ratio_quartiles"], 3)})', teacher, memory])
    return rows


def timing_tables(paths: Sequence[str]) -> Dict[str, Rows]:
    """The table of each result of benchmarks.timing, by the name of its file."""
    records = {path.rpartition('/')[2].removesuffix('.json').replace('_', '-'): read_record(path) for path in paths}
    kinds = dict(loss=loss_table, step=step_table)
    return {name: kinds[record['benchmark']](record) for name, record in records.items()}


def published(recipe: str) -> str:
    """A sentence with the published top-1 of a recipe's setting; '' without any."""
    entry = RECIPES.get(recipe)
    if not entry or not entry.published:
        return ''
    figures = ', '.join(f'{name} {top1:.2f}' for name, top1 in entry.published.items())
    return f'Published top-1 (%): {figures}. Setting: {entry.source}.'


def origin(frame: pd.DataFrame) -> str:
    """A sentence on where numbers come from: hardware, versions, and commits of the training and the measurement."""
    hardware = frame.gpu.fillna(frame.processor + ', CPU threads: ' + frame.threads.astype(str))
    commits = dict.fromkeys(' '.join(frame.commits).split() + list(frame.commit))
    versions = ', '.join(f'{name} {_each(frame[name])}' for name in ('torch', 'timm', 'timm_multimix'))
    return f'Measured on {_each(hardware)}; {versions}; commits {" ".join(commits)}.'


def to_markdown(rows: Rows) -> str:
    """Format rows as a Markdown table; the first row is the header."""
    header, *rest = rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *rest))


def _each(values: pd.Series) -> str:
    return ' and '.join(dict.fromkeys(map(str, values)))


def _range(quartiles: Sequence[float], digits: int) -> str:
    return f'{quartiles[0]:.{digits}f} to {quartiles[1]:.{digits}f}'


def _milliseconds(seconds: Optional[float]) -> str:
    return '' if seconds is None else f'{seconds * 1e3:,.1f} ms'
