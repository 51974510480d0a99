"""Committed results keep the schema, and what writes them."""
import glob
import json
import os

import pytest

from benchmarks.results import SCHEMA_VERSION, environment, write_result

FOLDER = os.path.join(os.path.dirname(__file__), '..', 'benchmarks', 'results')
RESULTS = sorted(glob.glob(os.path.join(FOLDER, '**', '*.json'), recursive=True))
VERSIONS = ('python', 'torch', 'torchvision', 'timm', 'numpy', 'timm_multimix')


def check_schema(record):
    assert set(record) == {'schema', 'benchmark', 'settings', 'environment', 'result'}
    assert record['schema'] == SCHEMA_VERSION
    assert isinstance(record['benchmark'], str) and record['benchmark']
    assert isinstance(record['settings'], dict) and isinstance(record['result'], dict) and record['result']
    assert set(record['environment']) == set(environment())
    for name in VERSIONS:
        assert record['environment'][name][0].isdigit(), name
    assert record['environment']['commit'] and record['environment']['processor']


@pytest.mark.parametrize('path', RESULTS, ids=os.path.basename)
def test_committed_results(path):
    with open(path, encoding='utf-8') as file:
        check_schema(json.load(file))


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_result(str(tmp_path / 'result.json'), 'a_benchmark', {}, dict(ratio=float('nan')))
    assert not os.listdir(tmp_path)


def test_a_result_is_written_with_its_environment(tmp_path):
    path = tmp_path / 'new' / 'result.json'
    write_result(str(path), 'a_benchmark', dict(seed=0), dict(ratio=1.5))
    record = json.loads(path.read_text())
    check_schema(record)
    assert record['settings'] == dict(seed=0) and record['result'] == dict(ratio=1.5)
