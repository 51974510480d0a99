"""Runs, and their result files as they are read again."""
import glob
import hashlib
import json
import os
import statistics
from dataclasses import dataclass
from typing import Any, Callable, Container, Dict, Iterable, List, Optional, Tuple

from .methods import KNOBS, METHODS

Runs = Dict[str, List[Dict[str, Any]]]
"""Result records by method, in order of seed."""
DIGEST_LENGTH = 12
"""Of the checkpoints' sha256, what results keep to tell one from another."""


@dataclass(frozen=True)
class Run:
    """A trained model of `benchmarks.accuracy` and the folder that train_timm.py left."""
    recipe: str
    method: str
    seed: int
    folder: str

    @property
    def checkpoint(self) -> str:
        return os.path.join(self.folder, 'last.pth.tar')

    def result_in(self, folder: str) -> str:
        """Path of a result file; `folder` is that of one kind of them."""
        return os.path.join(folder, self.recipe, f'{self.method}-{self.seed}.json')

    def checksum(self) -> str:
        """Of the checkpoint, so that a result tells which weights it is of."""
        return sha256_of(self.checkpoint)[:DIGEST_LENGTH]


def run_of(output: str, recipe: str, method: str, seed: int) -> Run:
    """Where it is, or will be, in the folder `output`."""
    return Run(recipe, method, seed, os.path.join(output, recipe, f'{method}-{seed}'))


def sha256_of(path: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_result(path: str) -> Dict[str, Any]:
    """A file of `benchmarks.results`."""
    with open(path, encoding='utf-8') as file:
        try:
            record = json.load(file)
        except ValueError as error:
            raise ValueError(f'{path} is no result ({error}): delete it') from error
    if not isinstance(record, dict) or not {'settings', 'environment', 'result'} <= record.keys():
        raise ValueError(f'{path} is no result, which has settings, environment and result: delete it')
    return record


def existing_settings(path: str) -> Optional[Dict[str, Any]]:
    """Settings of the result in this file; None where there is none yet."""
    return read_result(path)['settings'] if os.path.exists(path) else None


def read_runs(recipe: str, results: str, methods: Optional[Container[str]] = None) -> Runs:
    """The records in the recipe's folder in `results`, of these methods or all, in order."""
    records = []
    for path in glob.glob(os.path.join(results, recipe, '*.json')):
        records.append(read_result(path))
        name = '{recipe}/{method}-{seed}.json'.format(**records[-1]['settings'])
        if name != os.path.join(recipe, os.path.basename(path)):
            raise ValueError(f'{path} must be a result of that name, got one of {name}')
    return by_method(records, [method for method in [*METHODS, *KNOBS] if methods is None or method in methods])


def by_method(records: Iterable[Dict[str, Any]], methods: Iterable[str]) -> Runs:
    """The records of these methods, in their order."""
    runs: Runs = {}
    for record in sorted(records, key=lambda record: record['settings']['seed']):
        runs.setdefault(record['settings']['method'], []).append(record)
    return {method: runs[method] for method in methods if method in runs}


def all_records(runs: Runs) -> List[Dict[str, Any]]:
    """Method by method."""
    return [record for records in runs.values() for record in records]


def seeds_of(records: List[Dict[str, Any]]) -> str:
    """As a table has them."""
    return ', '.join(str(record['settings']['seed']) for record in records)


def mean_and_spread(values: List[float]) -> Tuple[float, Optional[float]]:
    """Mean, and standard deviation over the seeds; None for a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def cell(values: List[Optional[float]], digits: int) -> str:
    """Of a table: the mean, with the standard deviation over the seeds where there are several.

    Empty where no seed has a number; where some have none, no mean of the others, but how many.
    """
    without = values.count(None)
    if without == len(values):
        return ''
    if without:
        return f'{without} of {len(values)} diverged'
    mean, spread = mean_and_spread(values)
    return f'{mean:.{digits}f}' + ('' if spread is None else f' ± {spread:.{digits}f}')


def paired_difference(
        records: List[Dict[str, Any]], others: List[Dict[str, Any]], value: Callable[[Dict[str, Any]], Optional[float]],
) -> Optional[Tuple[float, Optional[float]]]:
    """How far the `value` of results is above that of others, on the seeds that both have: these share their images.

    Returns:
        The mean difference, and the p of a paired t-test where there are several seeds; None where there is no pair, or
        one has not that number.
    """
    values = [{record['settings']['seed']: value(record['result']) for record in each} for each in (records, others)]
    pairs = [(values[0][seed], values[1][seed]) for seed in values[0] if seed in values[1]]
    if not pairs or None in (x for pair in pairs for x in pair):
        return None
    difference = statistics.fmean(a - b for a, b in pairs)
    if len(pairs) == 1:
        return difference, None
    from scipy.stats import ttest_rel  # tables without a comparison do without scipy

    return difference, float(ttest_rel(*zip(*pairs)).pvalue)
