"""The schema of benchmark results, and a small size for the loss benchmark."""
import math

from benchmarks.loss_time import Size
from benchmarks.methods import KNOBS, METHODS
from benchmarks.suite.results import SCHEMA_VERSION, environment

SMALL = Size(batch_size=4, width=16, classes=5, tuples=32, positions=3)
VERSIONS = ('python', 'torch', 'torchvision', 'timm', 'numpy', 'timm_multimix')


def _is(kind, low=-math.inf, high=math.inf):
    return lambda value: isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high


def _rows(**schema):
    return lambda rows: isinstance(rows, list) and rows and all(_fits(row, schema) for row in rows)


def _fits(found, schema):
    return all(name in found and fits(found[name]) for name, fits in schema.items())


_TEXT, _COUNT, _NUMBER = (lambda value: isinstance(value, str)), _is(int, 0), _is((int, float))
_PERCENT, _SHARE = _is((int, float), 0., 100.), _is(float, 0., 1.)
_RUN = dict(recipe=_TEXT, method=lambda value: value.split('-lr-')[0] in {*METHODS, *KNOBS, 'scratch'}, seed=_COUNT)
_SCORES = dict.fromkeys(('auroc', 'aupr', 'fpr95'), _SHARE)
_LIST, _DICT = (lambda value: isinstance(value, list) and value), (lambda value: isinstance(value, dict) and value)
SCHEMAS = {
    'accuracy': (
        dict(_RUN, flags=_TEXT),
        dict(top1=_PERCENT, loss=lambda value: value is None or value >= 0., epochs=_rows(epoch=_NUMBER))),
    'robustness': (dict(_RUN, checkpoint=_TEXT, images=_COUNT, steps=_COUNT), dict(
        images=_COUNT, top1=_PERCENT, attacks=_rows(attack=_TEXT, eps_255=_COUNT, steps=_COUNT, top1=_PERCENT),
        corruptions=_rows(corruption=_TEXT, level=_COUNT, strength=_NUMBER, top1=_PERCENT))),
    'ood': (dict(_RUN, checkpoint=_TEXT, images=_COUNT, folders=lambda value: isinstance(value, list)), dict(
        images=_COUNT, top1=_PERCENT, ece=_SHARE, sets=lambda sets: sets and all(
            _fits(found[score], _SCORES) for found in sets.values() for score in ('msp', 'energy')))),
    'embedding_space': (dict(_RUN, checkpoint=_TEXT, images=_COUNT, projection=_TEXT), dict(
        alignment=_is(float, 0., 4.), uniformity=_is(float, -8., 0.), spread=_is(float, 0., 2.),
        separation=_is(float, 0., 2.), spread_per_class=_LIST)),
    'attention': (dict(_RUN, checkpoint=_TEXT), dict(
        classes=_LIST, labels=_LIST, images=_LIST, attention=_LIST, weights=_LIST)),
    'detection': (dict(_RUN, budget=_DICT), dict(ap=_PERCENT, ap50=_PERCENT, ap75=_PERCENT, epochs=_LIST)),
    'step_time': (dict(models=_LIST, seed=_COUNT), dict(runs=_rows(model=_TEXT, batch_size=_COUNT, methods=_DICT))),
    'loss_time': (dict(repeats=_COUNT, seed=_COUNT), dict(rates=_DICT, sizes=_LIST)),
    'drop_in_cost': (dict(model=_TEXT, seed=_COUNT), dict(peak_mib=_DICT, extra_mib=_NUMBER, ratio=_NUMBER)),
    'memory_slope': (dict(steps=_COUNT, seed=_COUNT), dict(methods=_DICT)),
    'coverage': (dict(commits=_LIST), dict(counts=_DICT)),
}
"""For each kind of result, the fields that its settings and its measurements must have."""


def check_schema(record):
    assert set(record) == {'schema', 'benchmark', 'settings', 'environment', 'result'}
    assert record['schema'] == SCHEMA_VERSION
    for part, schema in zip(('settings', 'result'), SCHEMAS[record['benchmark']], strict=True):
        wrong = [name for name in schema if not _fits(record[part], {name: schema[name]})]
        assert not wrong, f'{part}: {wrong}'
    assert set(record['environment']) == set(environment())
    for name in VERSIONS:
        assert record['environment'][name][0].isdigit(), name
    assert record['environment']['commit'] and record['environment']['processor']
