"""`benchmarks.step_time` at a small size."""
import argparse
import json

import pytest
import torch

from benchmarks import step_time
from benchmarks.methods import find
from tests.support.benchmarks import check_schema


def test_every_method_is_measured_and_written(tmp_path, capsys):
    path = tmp_path / 'step_time.json'
    assert step_time.main([
        '--device', 'cpu', '--models', 'test_resnet', '--batch-size', '4', '--image-size', '32', '--num-classes', '5',
        '--tuples', '8', '--rounds', '2', '--output', str(path)]) == 0
    record = json.loads(path.read_text())
    check_schema(record)
    run, = record['result']['runs']
    assert set(run['methods']) == set(step_time.DEFAULT_METHODS)
    for method, row in run['methods'].items():
        assert row['flags'] == find(method).flags
        low, high = row['ratio_quartiles']
        assert row['seconds'] > 0. and low <= row['ratio'] <= high and row['peak_memory'] is None
    assert run['methods']['plain']['ratio'] == 1.
    out = capsys.readouterr().out
    assert 'test_resnet 4 dense-multimix: ' in out and out.count('of its forward passes') == 2
    for method in ('multimix-distilled', 'dense-multimix-distilled'):
        row = run['methods'][method]
        low, high = row['teacher_forwards_quartiles']
        assert low <= row['teacher_forwards'] <= high and row['teacher_forward_seconds'] > 0.


@pytest.mark.parametrize('method', step_time.DEFAULT_METHODS)
def test_a_step_trains(method):
    args = argparse.Namespace(
        seed=0, device='cpu', num_classes=5, channels_last=False, amp=False, tuples=8, methods=[method])
    stepper = step_time.Stepper('test_resnet', 4, 32, args)
    model, images = stepper.methods[method].task.get_eval_model(), stepper.images.clone()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    stepper.step(method, *stepper.batches(method, 1))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert torch.equal(stepper.images, images)  # the next method sees the same


@pytest.mark.parametrize('flags, message', [
    (['--methods', 'multimix'], '--methods must include plain'),
    (['--rounds', '1'], '--rounds must be >= 2, got 1'),
    (['--steps', '0'], '--steps must be >= 1, got 0'),
    (['--batch-size', '4', '0'], '--batch-size must be >= 1, got [4, 0]'),
    (['--models', 'nosuch'], "--models must be models of timm, got ['nosuch']"),
    (['--device', 'gpu'], "--device: must be a device torch can use here, got 'gpu'"),
])
def test_mistakes_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        step_time.main(flags)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err
