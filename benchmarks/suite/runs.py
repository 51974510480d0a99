"""Runs, and reading their result files."""
import glob
import hashlib
import json
import os
import statistics
from dataclasses import dataclass
from typing import Any, Callable, Container, Dict, Iterable, List, Optional, Tuple

from ..methods import KNOBS, METHODS

Runs = Dict[str, List[Dict[str, Any]]]
"""Result records by method, in order of seed."""
DIGEST_LENGTH = 12
"""Digits of a checkpoint's sha256 that results keep to identify it."""


@dataclass(frozen=True)
class Run:
    """A trained model of `benchmarks.accuracy`, and the folder that train_timm.py wrote."""
    recipe: str
    method: str
    seed: int
    folder: str

    @property
    def checkpoint(self) -> str:
        return os.path.join(self.folder, 'last.pth.tar')

    def result_in(self, folder: str) -> str:
        """Path of its result file in `folder`, which has one kind of results."""
        return os.path.join(folder, self.recipe, f'{self.method}-{self.seed}.json')

    def checksum(self) -> str:
        """Start of the checkpoint's sha256, so that a result identifies its weights."""
        return sha256_of(self.checkpoint)[:DIGEST_LENGTH]


def run_of(output: str, recipe: str, method: str, seed: int) -> Run:
    """Return the run whose folder is, or will be, in `output`."""
    return Run(recipe, method, seed, os.path.join(output, recipe, f'{method}-{seed}'))


def sha256_of(path: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_result(path: str) -> Dict[str, Any]:
    """Read a result file."""
    with open(path, encoding='utf-8') as file:
        try:
            record = json.load(file)
        except ValueError as error:
            raise ValueError(f'{path} is not a result ({error}): delete it') from error
    if not isinstance(record, dict) or not {'settings', 'environment', 'result'} <= record.keys():
        raise ValueError(f'{path} is not a result, which has settings, environment and result: delete it')
    return record


def existing_settings(path: str) -> Optional[Dict[str, Any]]:
    """Return the settings of the result in this file; None if it does not exist."""
    return read_result(path)['settings'] if os.path.exists(path) else None


def read_runs(recipe: str, results: str, methods: Optional[Container[str]] = None) -> Runs:
    """Read the records in the recipe's folder in `results`, of these methods or of all, in order."""
    records = []
    for path in glob.glob(os.path.join(results, recipe, '*.json')):
        records.append(read_result(path))
        name = '{recipe}/{method}-{seed}.json'.format(**records[-1]['settings'])
        if name != os.path.join(recipe, os.path.basename(path)):
            raise ValueError(f'{path} must be a result of that name, got one of {name}')
    return by_method(records, [method for method in [*METHODS, *KNOBS] if methods is None or method in methods])


def by_method(records: Iterable[Dict[str, Any]], methods: Iterable[str]) -> Runs:
    """Group the records of these methods by method, in the order of `methods`."""
    runs: Runs = {}
    for record in sorted(records, key=lambda record: record['settings']['seed']):
        runs.setdefault(record['settings']['method'], []).append(record)
    return {method: runs[method] for method in methods if method in runs}


def all_records(runs: Runs) -> List[Dict[str, Any]]:
    """Return all records, method by method."""
    return [record for records in runs.values() for record in records]


def on_shared_seeds(runs: Runs, methods: Container[str]) -> Runs:
    """Keep the runs of `methods`, of the seeds that all of these methods that have runs share."""
    runs = {method: records for method, records in runs.items() if method in methods}
    seeds = [{record['settings']['seed'] for record in records} for records in runs.values()]
    shared = set.intersection(*seeds) if seeds else set()
    return {
        method: [record for record in records if record['settings']['seed'] in shared]
        for method, records in runs.items()}


def seeds_of(records: List[Dict[str, Any]]) -> str:
    """List the seeds for a table."""
    return ', '.join(str(record['settings']['seed']) for record in records)


def mean_and_spread(values: List[float]) -> Tuple[float, Optional[float]]:
    """Mean, and standard deviation over the seeds; the latter is None for a single seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def cell(values: List[Optional[float]], digits: int) -> str:
    """Format a table cell: the mean, with the standard deviation if there are several seeds.

    Without any number it is empty. If some seeds lack a number, it gives their count instead of a mean of the others.
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
    """Compare the `value` of results with that of others, on the seeds that both have, which share their images.

    Returns:
        The mean difference, and the p-value of a paired t-test (None for one pair); None instead of both without a
        pair, or if a value is missing.
    """
    values = [{record['settings']['seed']: value(record['result']) for record in each} for each in (records, others)]
    pairs = [(values[0][seed], values[1][seed]) for seed in values[0] if seed in values[1]]
    if not pairs or None in (x for pair in pairs for x in pair):
        return None
    difference = statistics.fmean(a - b for a, b in pairs)
    if len(pairs) == 1:
        return difference, None
    from scipy.stats import ttest_rel  # not needed by tables without a comparison

    return difference, float(ttest_rel(*zip(*pairs)).pvalue)
