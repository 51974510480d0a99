"""Committed results and newly written ones follow the schema."""
import glob
import json
import os

import pytest

from benchmarks.suite.results import to_json, write_result
from tests.support.benchmarks import check_schema

FOLDER = os.path.join(os.path.dirname(__file__), '..', '..', '..', 'benchmarks', 'results')
RESULTS = sorted(glob.glob(os.path.join(FOLDER, '**', '*.json'), recursive=True))


@pytest.mark.parametrize('path', RESULTS, ids=os.path.basename)
def test_committed_results_follow_the_schema(path):
    with open(path, encoding='utf-8') as file:
        record = json.load(file)
    check_schema(record)
    if 'method' in record['settings']:
        kind, recipe, name = os.path.relpath(path, FOLDER).split(os.sep)
        # screening: runs on seeds that the study does not count
        assert record['benchmark'] == dict(screening='accuracy').get(kind, kind)
        assert name == '{method}-{seed}.json'.format(**record['settings'])
        assert recipe.startswith(record['settings']['recipe'])


@pytest.mark.parametrize('change', [
    dict(benchmark='ood'), dict(settings={}), dict(result=dict(anything='x')),
    dict(result=dict(top1=101., loss=1., epochs=[dict(epoch=0.)])), dict(result=dict(top1=70., loss=1., epochs=[]))])
def test_the_schema_rejects_wrong_records(change, tmp_path):
    path = tmp_path / 'result.json'
    settings = dict(recipe='digits', method='plain', seed=0, flags='')
    write_result(str(path), 'accuracy', settings, dict(top1=70., loss=1., epochs=[dict(epoch=0.)]))
    record = json.loads(path.read_text())
    check_schema(record)
    with pytest.raises(AssertionError):
        check_schema({**record, **change})


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_result(str(tmp_path / 'result.json'), 'a_benchmark', {}, dict(ratio=float('nan')))
    assert not os.listdir(tmp_path)


def test_a_result_is_written_with_its_environment(tmp_path):
    path = tmp_path / 'new' / 'result.json'
    settings, result = dict(steps=9, seed=0), dict(methods=dict(plain=1.5))
    write_result(str(path), 'memory_slope', settings, result)
    record = json.loads(path.read_text())
    check_schema(record)
    assert record['settings'] == settings and record['result'] == result


@pytest.mark.parametrize('value, lines', [
    ({}, 1), ([], 1), (None, 1), (dict(a=1, b=[1., 2.]), 1), (list(range(1000)), 1), (dict(a=list(range(100))), 3),
    (dict(a='x' * 80, b=dict(c=['y' * 80, 'z"[]{}' * 20])), 9), ([dict(epoch=0., name='x' * 100)] * 2, 4)])
def test_json_reads_back_and_is_compact(value, lines):
    text = to_json(value)
    assert json.loads(text) == value and len(text.splitlines()) == lines
