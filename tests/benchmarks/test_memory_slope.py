"""`benchmarks.memory_slope` at a small size: it finds a leak, and the methods have none."""
import json
import mmap

import numpy as np
import pytest

from benchmarks import memory_slope
from benchmarks.step_time import DEFAULT_METHODS
from tests.support.benchmarks import check_schema


def test_the_slope_is_that_of_the_line():
    rng = np.random.default_rng(0)
    steps = list(range(0, 1000, 10))
    exact = memory_slope.summary(steps, [100. + 0.003 * step for step in steps])
    assert exact['mib_per_1000_steps'] == pytest.approx(3.) and exact['standard_error'] < 1e-9
    noisy = memory_slope.summary(steps, [100. + noise for noise in rng.normal(size=100)])
    assert abs(noisy['mib_per_1000_steps']) < 3. * noisy['standard_error'] < 2.
    assert (noisy['readings'], noisy['first_mib'] != noisy['last_mib']) == (100, True)


def test_kept_memory_is_measured():
    with mmap.mmap(-1, 64 << 20) as kept:  # new memory, not what the process holds unused
        before = memory_slope.resident_set()
        kept.write(b'x' * (64 << 20))
        assert 60 << 20 < memory_slope.resident_set() - before


def test_a_result_is_written(tmp_path, capsys):
    path = tmp_path / 'memory_slope.json'
    assert memory_slope.main([
        '--device', 'cpu', '--methods', 'multimix', '--steps', '6', '--warmup', '2', '--interval', '1', '--batch-size',
        '2', '--output', str(path)]) == 0
    record = json.loads(path.read_text())
    check_schema(record)
    row = record['result']['methods']['multimix']
    assert row['cuda'] is None and row['resident']['readings'] == 5 and row['resident']['first_mib'] > 100.
    assert 'multimix resident: ' in capsys.readouterr().out


def test_too_few_steps_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        memory_slope.main(['--steps', '10', '--warmup', '10'])
    assert exit_info.value.code == 2 and '--steps must be at least' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('method', DEFAULT_METHODS)
def test_memory_does_not_grow(method, tmp_path):
    """If every step kept just its batch of images, 96 KiB, 1,000 steps would add 94 MiB."""
    path = tmp_path / 'memory_slope.json'
    assert memory_slope.main([
        '--device', 'cpu', '--methods', method, '--steps', '400', '--warmup', '150', '--interval', '10',
        '--output', str(path)]) == 0
    row = json.loads(path.read_text())['result']['methods'][method]['resident']
    assert row['mib_per_1000_steps'] < 10. + 3. * row['standard_error']
