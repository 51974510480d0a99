"""`benchmarks.drop_in_cost` at a small size."""
import json

import pytest
import timm
import torch

from benchmarks import drop_in_cost
from tests.support.benchmarks import check_schema

SMALL = ['--device', 'cpu', '--model', 'test_resnet', '--batch-size', '4', '--image-size', '64', '--rounds', '2']


def test_a_result_is_written(tmp_path, capsys):
    path = tmp_path / 'result.json'
    assert drop_in_cost.main([*SMALL, '--num-classes', '1000', '--output', str(path)]) == 0
    record = json.loads(path.read_text())
    check_schema(record)
    result = record['result']
    low, high = result['ratio_quartiles']
    assert low <= result['ratio'] <= high and set(result['seconds']) == set(drop_in_cost.KINDS)
    # several copies of thousands of rows of 1,000 classes
    assert 10. < result['extra_mib'] == result['peak_mib']['drop-in'] - result['peak_mib']['plain']
    assert ' MiB over a plain step, ' in capsys.readouterr().out


def test_the_drop_in_mixes_and_the_plain_step_does_not():
    images, target = torch.randn(2, 3, 64, 64), torch.tensor([0, 2])
    for kind in drop_in_cost.KINDS:
        outputs = []
        model = timm.create_model('test_resnet', num_classes=3).train()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        step = drop_in_cost.create_step(kind, model, images, target, 'dense-multimix')
        model.fc.register_forward_hook(lambda module, inputs, output, seen=outputs: seen.append(output))
        step()
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
        # the classifier sees every position of the dense form
        assert (sum(len(output) for output in outputs) > 2) == (kind == 'drop-in')


def test_too_few_rounds_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        drop_in_cost.main(['--rounds', '1'])
    assert exit_info.value.code == 2 and '--rounds must be >= 2, got 1' in capsys.readouterr().err
