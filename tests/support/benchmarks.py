"""The schema of benchmark results, and a small size for the loss benchmark."""
import math

from benchmarks.evaluate import MEASURES
from benchmarks.records import SCHEMA_VERSION, environment
from benchmarks.timing import Size

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
_LIST, _DICT = (lambda value: isinstance(value, list) and value), (lambda value: isinstance(value, dict) and value)
_SCORES = dict.fromkeys(('auroc', 'aupr_in', 'fpr95'), _SHARE)
_CHECKPOINT = dict(recipe=_TEXT, method=_TEXT, seed=_COUNT, model=_TEXT)
_RESULTS = dict(
    accuracy=dict(top1=_PERCENT, loss=lambda value: value is None or value >= 0.),
    robustness=dict(images=_COUNT, top1=_PERCENT, attacks=_DICT, corruptions=_DICT),
    outliers=dict(images=_COUNT, sets=lambda sets: sets and all(
        _fits(found[score], _SCORES) for found in sets.values() for score in ('msp', 'energy'))),
    embeddings=dict(alignment=_is(float, 0., 4.), uniformity=_is(float, -8., 0.), spread=_is(float, 0., 2.),
                    separation=_is(float, 0., 2.)),
    boxes=dict(images=_COUNT, iou50=_PERCENT),
)
_TIMED = {
    'step': (dict(models=_LIST, seed=_COUNT), dict(runs=_rows(model=_TEXT, batch_size=_COUNT, methods=_DICT))),
    'loss': (dict(repeats=_COUNT, seed=_COUNT), dict(rates=_DICT, sizes=_LIST)),
    'coverage': (dict(commits=_LIST), dict(counts=_DICT)),
}


def check_schema(record):
    """Check that a record has every field that its kind of result must have."""
    assert record['schema'] == SCHEMA_VERSION
    if record['benchmark'] == 'evaluate':
        _check('settings', record['settings'], _CHECKPOINT)
        assert set(record['measures']) <= set(MEASURES) and record['measures']
        for name, measured in record['measures'].items():
            _check(name, measured['result'], _RESULTS[name])
            _check_environment(measured['environment'])
    else:
        settings, result = _TIMED[record['benchmark']]
        _check('settings', record['settings'], settings)
        _check('result', record['result'], result)
        _check_environment(record['environment'])


def _check(part, found, schema):
    wrong = [name for name in schema if not _fits(found, {name: schema[name]})]
    assert not wrong, f'{part}: {wrong}'


def _check_environment(found):
    assert set(found) == set(environment())
    assert all(found[name][0].isdigit() for name in VERSIONS) and found['commit'] and found['processor']
