"""`benchmarks.timing`: what it counts, what it compares, what it writes, and that memory does not grow."""
import argparse
import json
import math
import mmap

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.methods import find
from benchmarks.timing import loss, resources, steps
from benchmarks.timing.__main__ import main
from benchmarks.timing.loss import Problem, Size
from benchmarks.timing.resources import MIB
from benchmarks.timing.steps import DROP_IN, STEPPED, Stepper
from tests.support.benchmarks import SMALL, check_schema
from timm_multimix import MultiMixTask, Settings

CPU = torch.device('cpu')
SMALL_STEPS = ['--device', 'cpu', '--models', 'test_resnet', '--batch-size', '4', '--image-size', '32']


def test_flops_are_those_that_torch_counts_and_rates_are_possible():
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
    assert SMALL.bytes == 4. * (3 * 32 * 4 + 2 * 4 * 3 * 5)
    assert all(1e6 < rate < 1e16 for rate in resources.peak_rates(CPU, repeats=2).values())


def test_implementations_see_the_same_tuples_and_the_loss_alone_is_the_same():
    problem = Problem(SMALL, CPU, seed=3)
    torch.testing.assert_close(problem.run('literal'), problem.run('chunked'), rtol=1e-4, atol=1e-6)
    expected, (*_, bias_grad) = problem.run('literal')
    alone, (grad,) = problem.alone('chunked')()
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad.sum(dim=(0, 1)), bias_grad, rtol=1e-4, atol=1e-6)


def test_the_times_of_the_loss_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loss, 'BASE', dict(cpu=SMALL))
    monkeypatch.setattr(loss, 'SWEEPS', dict(tuples=(8, 32), positions=(1, 3)))
    monkeypatch.setattr(loss, 'peak_rates', lambda device: dict(flops=1e9, bandwidth=1e9))
    path, limit = tmp_path / 'loss.json', SMALL._replace(tuples=20).literal_flops / 1e12
    assert main([
        'loss', '--device', 'cpu', '--repeats', '2', '--no-memory', '--sweeps', 'tuples', 'positions',
        '--max-literal-tflop', str(limit), '--output', str(path)]) == 0
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
    slopes, (small, large) = record['result']['slopes']['tuples'], (rows[1], rows[0])
    assert set(slopes) == {'chunked', 'sampling', 'chunked alone'}
    for name, slope in slopes.items():
        assert slope == pytest.approx(math.log(large['seconds'][name] / small['seconds'][name], 4))


@pytest.mark.slow
def test_memory_of_the_loss():
    """It includes the gradient of the logits, but not the logits."""
    logits = 8 * 4 * 20_000 * 4
    extra = resources.run_apart(loss.loss_memory, Size(8, 1, 20_000, 10, 4), 'cpu')
    assert logits < extra < 6. * logits


def stepper(*names, **changes):
    args = dict(seed=0, device='cpu', num_classes=5, image_size=32, tuples=None, threads=1, methods=list(names))
    return Stepper('test_resnet', 4, argparse.Namespace(**{**args, **changes}))


@pytest.mark.parametrize('name', [*STEPPED, DROP_IN])
def test_a_method_is_timed_as_it_is_trained(name):
    at = stepper(name, tuples=8)
    timed, images = at.methods[name], at.images.clone()
    model = timed.task.get_eval_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    at.step(name, *at.batches(name, 1))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert torch.equal(at.images, images)  # the next method sees the same
    assert timed.two_views == ('distilled' in name)  # as in training, where two views are the default
    if isinstance(timed.task, MultiMixTask):
        assert timed.task.settings.mixes_images == ('mixup' in name.split('+')[0] or name == 'strength')
    assert (timed.mix is not None) == (name == DROP_IN or name.split('@')[0] in (
        'mixup', 'cutmix', 'mixup-cutmix', 'mixup-half'))


def test_the_number_of_tuples_is_the_methods_the_flags_or_the_librarys():
    for name, given, tuples in (('multimix', 9, 9), ('last-layer-pairs', 9, 128), ('multimix@tuples=64', 9, 64)):
        assert stepper(name, tuples=given).methods[name].task.settings.num_tuples == tuples
    task = stepper('dense-multimix').methods['dense-multimix'].task
    positions = task.trainable_module.head.dense.example_positions
    assert task.settings.num_tuples == Settings().tuples(positions)


def test_the_drop_in_mixes_on_a_model_of_its_own():
    at = stepper('plain', DROP_IN)
    models = {name: at.methods[name].task.get_eval_model() for name in ('plain', DROP_IN)}
    seen = {name: [] for name in models}
    for name, model in models.items():
        model.fc.register_forward_hook(lambda module, inputs, output, name=name: seen[name].append(len(output)))
        at.step(name, *at.batches(name, 1))
    assert seen['plain'] == [4] and sum(seen[DROP_IN]) > 4  # the dense form also sees every position


@pytest.mark.slow
def test_the_times_of_steps_are_written(tmp_path, capsys, monkeypatch):
    run_apart = resources.run_apart  # takes seconds, so for one method alone
    monkeypatch.setattr(steps, 'run_apart', lambda *call: run_apart(*call) if call[-1] == 'plain' else 3 * MIB)
    path = tmp_path / 'step.json'
    assert main([
        'step', *SMALL_STEPS, '--num-classes', '1000', '--tuples', '8', '--rounds', '2', '--methods', 'plain',
        'multimix', 'multimix-distilled', '--drop-in', '--memory', '--output', str(path)]) == 0
    record = json.loads(path.read_text())
    check_schema(record)
    run, = record['result']['runs']
    assert list(run['methods']) == ['plain', 'multimix', 'multimix-distilled', DROP_IN]
    for row in run['methods'].values():
        low, high = row['ratio_quartiles']
        assert row['seconds'] > 0. and low <= row['ratio'] <= high and row['peak_memory'] > 0
    assert run['methods']['plain']['ratio'] == 1. and run['methods']['multimix']['flags'] == find('multimix').flags
    row = run['methods']['multimix-distilled']
    low, high = row['teacher_forwards_quartiles']
    assert low <= row['teacher_forwards'] <= high and row['teacher_forward_seconds'] > 0.
    assert 'test_resnet 4 multimix: ' in capsys.readouterr().out


@pytest.mark.parametrize('flags, message', [
    (['--methods', 'multimix'], '--methods must include plain'),
    (['--rounds', '1'], '--rounds must be >= 2, got 1'),
    (['--batch-size', '4', '0'], '--batch-size must be >= 1, got [4, 0]'),
    (['--models', 'nosuch'], "--models must be models of timm, got ['nosuch']"),
    (['--device', 'gpu'], "--device: must be a device torch can use here, got 'gpu'"),
    (['--methods', 'plain', 'manifold', *SMALL_STEPS], '--methods manifold changes the script, which is not timed'),
])
def test_mistakes_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['step', *flags])
    assert message in capsys.readouterr().err


def test_kept_memory_is_seen():
    with mmap.mmap(-1, 64 << 20) as kept:  # new memory, not what the process holds unused
        before = resources.resident_set()
        kept.write(b'x' * (64 << 20))
        assert 60 << 20 < resources.resident_set() - before


def memory_slope(method, num_steps=400, warmup=150, interval=10):
    """Fit a line to the resident set over steps on new images; return MiB per 1,000 steps and its standard error."""
    torch.set_num_threads(1)
    at = stepper(method, tuples=100, num_classes=10)
    readings = []
    for step in range(num_steps):
        at.step(method, torch.randn(8, 3, 32, 32)[:4])
        if step >= warmup and step % interval == 0:
            readings.append((step, resources.resident_set() / MIB))
    (slope, _), covariance = np.polyfit(*zip(*readings), 1, cov=True)
    return 1000. * slope, 1000. * covariance[0, 0] ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize('method', [*STEPPED, DROP_IN])
def test_memory_does_not_grow(method):
    """In a process of its own. If every step kept just its batch of images, 1,000 steps would add 47 MiB."""
    slope, error = resources.run_apart(memory_slope, method)
    assert slope < 10. + 3. * error
