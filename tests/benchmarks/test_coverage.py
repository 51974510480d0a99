"""timm's models, one of every architecture: `python -m benchmarks.coverage` checks them all."""
import csv
import os

import pytest

from benchmarks.coverage import build, check_model, write_tables

_RESULTS = os.path.join(os.path.dirname(__file__), '..', '..', 'benchmarks', 'results', 'coverage_models.csv')

# served by neither mode: they have no classifier
ENCODERS = ('qwen3_vit_88m_enc', 'mobilenetv5_300m_enc')


@pytest.mark.parametrize('name, dense', [
    ('test_resnet', 'served'), ('test_vit', 'served'),
    pytest.param('crossvit_tiny_240', 'refused', marks=pytest.mark.slow)])
def test_a_model_is_served_or_refused(name, dense):
    row = check_model(name)
    assert (row['pooled'], row['dense']) == ('served', dense), row


@pytest.mark.slow
@pytest.mark.parametrize('name', ENCODERS)
def test_encoders_are_refused(name):
    row = check_model(name)
    assert (row['pooled'], row['dense']) == ('refused', 'refused'), row
    assert 'num_classes=0' in row['dense_reason']


def one_per_architecture():
    """The first name of each class of model, with its row of the committed table."""
    with open(_RESULTS, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    first = {}
    for row in rows:
        if row['stepped'] == 'True':
            first.setdefault(row['architecture'], (row['name'], row))
    return [pytest.param(*first[architecture], id=first[architecture][0]) for architecture in sorted(first)]


@pytest.fixture(scope='module')
def table():
    """Rows to be written as output/coverage_architectures.csv when the sweep is over."""
    rows = []
    yield rows
    if rows:
        os.makedirs('output', exist_ok=True)
        write_tables(rows, 'output')


@pytest.mark.slow
@pytest.mark.parametrize('name, known', one_per_architecture())
def test_one_model_of_every_architecture(name, known, table):
    """Every model is served or refused as in the committed table; none is wrong and none crashes."""
    row = check_model(name)
    table.append(row)
    assert {row['pooled'], row['dense']} <= {'served', 'refused'}, row
    assert row['pooled'] == 'served' or 'num_classes=0' in row['pooled_reason'], row
    for column in ('pooled', 'dense', 'layout', 'positions', 'mean_is_pooled'):
        assert str(row.get(column, '')) == known[column], column


def test_large_models_are_built_with_fewer_blocks():
    model, kwargs = build('vit_huge_patch14_224')
    assert kwargs == dict(depth=2, embed_dim=192, num_heads=3) and len(model.blocks) == 2
    assert build('test_vit')[1] == {}


def test_the_tables_of_models_and_architectures(tmp_path):
    rows = [
        dict(name='b', architecture='B', pooled='served', dense='served', layout='NCHW', shrunk={}, commit='c'),
        dict(name='a2', architecture='A', pooled='served', dense='refused', dense_reason='a2: a list', shrunk={}),
        dict(name='a1', architecture='A', pooled='served', dense='served', layout='NLC', shrunk=dict(depth=2)),
    ]
    write_tables(rows, str(tmp_path))
    with open(tmp_path / 'coverage_models.csv', newline='') as file:
        models = list(csv.DictReader(file))
    assert [row['name'] for row in models] == ['a1', 'a2', 'b']
    assert models[1]['reason'] == 'a2: a list' and models[0]['shrunk'] == "{'depth': 2}"
    assert (tmp_path / 'coverage_architectures.csv').read_text().splitlines() == [
        'architecture,names,pooled,dense,layout,reason', 'A,2,2,1,NLC,a list', 'B,1,1,1,NCHW,']
