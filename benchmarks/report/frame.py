"""Results as one pandas frame, and comparisons of its rows: means, spreads, paired tests."""
import fnmatch
import statistics
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import pandas as pd
from scipy.stats import ttest_ind, ttest_rel

from timm_multimix import UsageError

from ..methods import METHODS, Method, find
from ..records import read_record

_KEYS = ['recipe', 'method', 'seed']


def read_results(paths: Iterable[str]) -> pd.DataFrame:
    """Read all results of benchmarks.evaluate among these files, a row for each, in order of recipe and seed.

    Columns are recipe, method, seed, path, commits, the environment, and every number, such as 'accuracy.top1' or
    'robustness.attacks.fgsm.2'.

    Raises:
        UsageError: If a file is not a result, two are of the same run, or two of a recipe measured with other settings.
    """
    rows, settings = [], {}
    for path in paths:
        record = read_record(path)
        if record['benchmark'] != 'evaluate':
            continue
        for name, measured in record['measures'].items():
            for key, value in measured['settings'].items():
                place = (record['settings']['recipe'], name, key)
                before, first = settings.get(place, (None, ''))
                if before is None:
                    settings[place] = value, path
                elif value not in (None, before) and key != 'precision':  # older results lack some settings
                    raise UsageError(f'{path} has {name} with {key} {value!r}, but {first} with {before!r}')
        rows.append({**_row(record), 'path': path})
    frame = pd.DataFrame(rows)
    twice = frame[frame.duplicated(_KEYS, keep=False)]
    if len(twice):
        raise UsageError(f'{" and ".join(twice.path[:2])} are of the same run')
    return frame.sort_values(['recipe', 'seed', 'method'], ignore_index=True)


def _row(record: Dict[str, Any]) -> Dict[str, Any]:
    row = {name: record['settings'][name] for name in _KEYS}
    row['commits'] = ' '.join(record['training'].get('commits', ()))
    for name, measured in record['measures'].items():
        row.update(measured['environment'])
        row.update(_numbers(name, measured['result']))
    return row


def _numbers(name: str, value: Any) -> Iterator[Tuple[str, Optional[float]]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(f'{name}.{key}', each)
    else:
        yield name, value


@dataclass(frozen=True)
class Metric:
    """One number of a row: its column, or the mean of a pattern of columns, times a factor such as 100 for percent.

    `higher` says whether higher is better, `digits` is the number of decimals in tables.
    """
    name: str
    column: str
    higher: bool = True
    digits: int = 2
    scale: float = 1.

    @property
    def title(self) -> str:
        """Name, with an arrow to where it is better."""
        return f'{self.name} {"↑" if self.higher else "↓"}'

    def of(self, frame: pd.DataFrame) -> Dict[int, Optional[float]]:
        """Values by seed; None where a number is missing."""
        columns = fnmatch.filter(frame.columns, self.column)
        values = frame[columns].astype(float).to_numpy() if columns else [[]] * len(frame)
        return {
            seed: None if not len(row) or any(x != x for x in row) else self.scale * statistics.fmean(row)
            for seed, row in zip(frame.seed, values)}

    def cell(self, frame: pd.DataFrame) -> str:
        """Mean, with the standard deviation if there are several seeds; without some numbers, their count."""
        values = list(self.of(frame).values())
        without = values.count(None)
        if without:
            return '' if without == len(values) else f'{without} of {len(values)} diverged'
        if not values:
            return ''
        spread = f' ± {statistics.stdev(values):.{self.digits}f}' if len(values) > 1 else ''
        return f'{statistics.fmean(values):.{self.digits}f}{spread}'

    def mean(self, frame: pd.DataFrame) -> Optional[float]:
        """Mean over the rows; None without rows, or if one lacks the number."""
        values = list(self.of(frame).values())
        return None if not values or None in values else statistics.fmean(values)

    def difference(self, frame: pd.DataFrame, others: pd.DataFrame) -> Optional[Tuple[float, Optional[float]]]:
        """Compare with other rows on the seeds that both have, which share their images.

        Returns:
            The mean difference, and the p-value of a paired t-test (None below three pairs); None instead of both
            without a pair, or if a number is missing.
        """
        values, other = self.of(frame), self.of(others)
        pairs = [(values[seed], other[seed]) for seed in values if seed in other]
        if not pairs or None in (x for pair in pairs for x in pair):
            return None
        p = float(ttest_rel(*zip(*pairs)).pvalue) if len(pairs) > 2 else None
        return statistics.fmean(a - b for a, b in pairs), p

    def difference_cell(self, frame: pd.DataFrame, others: pd.DataFrame) -> str:
        """The mean difference with its p-value; '' without any, or of the same rows."""
        found = None if frame.index.equals(others.index) else self.difference(frame, others)
        if found is None:
            return ''
        return f'{found[0]:+.{self.digits}f}' + ('' if found[1] is None else f' ({found[1]:.2g})')

    def differs(self, frame: pd.DataFrame, others: pd.DataFrame) -> bool:
        """Return whether p < 0.05 in Welch's t-test of three seeds or more, which does not pair them."""
        values, other = (list(self.of(rows).values()) for rows in (frame, others))
        if None in (*values, *other) or min(len(values), len(other)) < 3:
            return False
        return bool(statistics.variance(values) + statistics.variance(other) > 0. and ttest_ind(
            values, other, equal_var=False).pvalue < 0.05)


def of_method(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    return frame[frame.method == method]


def on_shared_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the seeds that all methods share."""
    seeds = [set(rows.seed) for _, rows in frame.groupby('method')]
    return frame[frame.seed.isin(set.intersection(*seeds))] if seeds else frame


def seeds_of(frame: pd.DataFrame) -> str:
    return ', '.join(map(str, frame.seed))


def entry_of(method: str) -> Method:
    """Return a method's entry; a name from elsewhere, such as that of a folder, becomes a grey label."""
    try:
        return find(method)
    except UsageError:
        return Method(method, '', '#999999', line=':')


def methods_of(frame: pd.DataFrame) -> List[str]:
    """The methods in the order of `METHODS`, each before its variants; others come last."""
    order = list(METHODS)

    def rank(name: str) -> Tuple[int, str]:
        base = name.partition('@')[0]
        return order.index(base) if base in METHODS else len(order), name

    return sorted(set(frame.method), key=rank)
