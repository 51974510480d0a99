"""The fields of benchmark results, and a small size for the loss benchmark."""
from benchmarks.evaluate import MEASURES
from benchmarks.records import SCHEMA_VERSION, environment
from benchmarks.timing.loss import Size

SMALL = Size(batch_size=4, width=16, classes=5, tuples=32, positions=3)
FIELDS = dict(
    accuracy='top1 loss', robustness='images top1 attacks corruptions', outliers='images sets',
    embeddings='alignment uniformity spread separation', boxes='images iou50',
    step='runs', loss='rates sizes', coverage='counts')
SETTINGS = dict(evaluate='recipe method seed model', step='models seed', loss='repeats seed', coverage='commits')
RANGES = dict(
    top1=(0., 100.), iou50=(0., 100.), alignment=(0., 4.), uniformity=(-8., 0.), spread=(0., 2.), separation=(0., 2.))


def check_schema(record):
    """Check that a record has every field that its kind of result must have, and percentages that are possible."""
    assert record['schema'] == SCHEMA_VERSION
    kind = record['benchmark']
    assert record['settings'].keys() >= {*SETTINGS[kind].split()}
    parts = record['measures'] if kind == 'evaluate' else {kind: record}
    assert parts and parts.keys() <= {*MEASURES, kind}
    for name, part in parts.items():
        result = part['result']
        assert result.keys() >= {*FIELDS[name].split()}, name
        for field, (low, high) in RANGES.items():
            assert low <= result.get(field, low) <= high, (name, field)
        for scores in result.get('sets', {}).values():
            for score in (scores['msp'], scores['energy']):
                assert all(0. <= score[field] <= 1. for field in ('auroc', 'aupr_in', 'fpr95')), name
        assert part['environment'].keys() == environment().keys() and part['environment']['commit']
