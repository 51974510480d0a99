"""`benchmarks.loss_time`: what it counts, what it compares, and what it writes."""
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loss_time
from benchmarks.loss_time import Problem, Size
from benchmarks.suite import timing
from benchmarks.suite.memory import RETURN_FREED, run_apart
from tests.support.benchmarks import SMALL, check_schema

CPU = torch.device('cpu')


def test_flops_are_those_that_torch_counts():
    problem = Problem(SMALL, CPU, seed=0)
    with FlopCounterMode(display=False) as counter:
        problem.run('literal')
    small = 2. * 3 * 32 * 4 * 5  # mixed targets, not counted
    assert counter.get_total_flops() == SMALL.literal_flops + small
    linear = 6. * 4 * 3 * 16 * 5  # ordinary logits and their backward
    with FlopCounterMode(display=False) as counter:
        problem.run('chunked')
    in_place = 3 * 32 * (2. * 4 * 5 + 2. * 4 * 4)  # Λᵀ softmax and ΛᵀΛ, which torch does not count
    assert counter.get_total_flops() == linear + SMALL.flops - in_place


def test_implementations_see_the_same_tuples():
    problem = Problem(SMALL, CPU, seed=3)
    torch.testing.assert_close(problem.run('literal'), problem.run('chunked'), rtol=1e-4, atol=1e-6)


def test_the_loss_alone_is_the_same_loss():
    problem = Problem(SMALL, CPU, seed=3)
    expected, (*_, bias_grad) = problem.run('literal')
    loss, (grad,) = problem.alone('chunked')()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad.sum(dim=(0, 1)), bias_grad, rtol=1e-4, atol=1e-6)


def test_bytes_and_slope():
    assert SMALL.bytes == 4. * (3 * 32 * 4 + 2 * 4 * 3 * 5)
    rows = [dict(size=dict(tuples=n), seconds=dict(chunked=0.01 * n ** 1.5)) for n in (10, 100, 1000)]
    assert loss_time.slope(rows, 'tuples', 'chunked') == pytest.approx(1.5)


def test_rates_are_positive_and_finite():
    for rate in (timing.peak_flops, timing.peak_bandwidth):
        assert 1e6 < rate(CPU, repeats=1) < 1e16


def test_a_result_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_time, 'BASE', dict(cpu=SMALL))
    monkeypatch.setattr(loss_time, 'SWEEPS', dict(tuples=(8, 32), positions=(1, 3)))
    monkeypatch.setattr(loss_time, 'peak_flops', lambda device: 1e9)
    monkeypatch.setattr(loss_time, 'peak_bandwidth', lambda device: 1e9)
    path = tmp_path / 'loss_time.json'
    flags = ['--device', 'cpu', '--repeats', '2', '--no-memory', '--sweeps', 'tuples', 'positions']
    limit = SMALL._replace(tuples=20).literal_flops / 1e12
    assert loss_time.main([*flags, '--max-literal-tflop', str(limit), '--output', str(path)]) == 0
    record = json.loads(path.read_text())
    check_schema(record)
    rows = record['result']['sizes']
    # each size once; the literal equations only below the limit
    assert [(row['size']['tuples'], row['size']['positions']) for row in rows] == [(32, 3), (8, 3), (32, 1)]
    assert ['literal' in row['seconds'] for row in rows] == [False, True, True]
    for row in rows:
        assert row['floor'] == max(Size(**row['size']).flops, Size(**row['size']).bytes) / 1e9
        assert set(row['seconds']) >= {'chunked', 'sampling', 'chunked alone'} and min(row['seconds'].values()) > 0.
        if 'ratio' in row:
            low, median, high = row['ratio']['chunked']
            assert low <= median <= high and row['max_relative_gradient_difference']['chunked'] < 1e-4
    assert set(record['result']['slopes']) == {'tuples', 'positions'}
    assert set(record['result']['slopes']['tuples']) == {'chunked', 'sampling', 'chunked alone'}
    assert 'times faster' in capsys.readouterr().out


def test_memory_of_a_size():
    """It includes the gradient of the logits, but not the logits."""
    logits = 8 * 4 * 20_000 * 4 / 2 ** 20
    extra = run_apart(loss_time.measure_memory, Size(8, 1, 20_000, 10, 4), 'cpu', **RETURN_FREED)
    assert logits < extra < 6. * logits
