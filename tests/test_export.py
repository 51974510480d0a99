"""Checkpoints as safetensors."""
import os

import pytest
import safetensors
import timm
import torch

from timm_multimix.export import export, main


@pytest.fixture
def checkpoint(tmp_path):
    path = str(tmp_path / 'model_best.pth.tar')
    model, average = (timm.create_model('test_resnet', num_classes=3) for _ in range(2))
    torch.save(dict(
        arch='test_resnet', epoch=4, metric=75., state_dict=model.state_dict(),
        state_dict_ema={f'module.{name}': value for name, value in average.state_dict().items()}), path)
    return path, model.state_dict(), average.state_dict()


@pytest.mark.parametrize('use_ema', [True, False])
def test_timm_loads_what_was_written(use_ema, checkpoint, tmp_path, capsys):
    path, model, average = checkpoint
    out = str(tmp_path / 'weights.safetensors')
    assert main([path, out, *([] if use_ema else ['--no-use-ema'])]) == 0
    expected = average if use_ema else model
    assert f'{len(expected)} tensors' in capsys.readouterr().out
    read = timm.create_model('test_resnet', num_classes=3, checkpoint_path=out).state_dict()
    assert read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in read)
    with safetensors.safe_open(out, 'pt') as file:
        assert file.metadata() == dict(arch='test_resnet', epoch='4', metric='75.0', format='pt')


def test_weights_that_share_memory_are_written_twice(tmp_path):
    weight = torch.randn(3, 4)
    torch.save(dict(state_dict=dict(a=weight, b=weight, c=weight.t())), tmp_path / 'tied.pth.tar')
    tensors = export(str(tmp_path / 'tied.pth.tar'), str(tmp_path / 'tied.safetensors'))
    assert torch.equal(tensors['a'], tensors['b']) and torch.equal(tensors['c'], weight.t())


class Evil:
    def __reduce__(self):
        return os.mkdir, ('evil',)


@pytest.mark.parametrize('content, message', [
    (None, 'no such file'),
    ('text', 'cannot be read'),
    (dict(state_dict=dict(weight=Evil())), 'cannot be read'),
    (dict(state_dict=dict(epoch=3)), 'epoch is not a tensor'),
])
def test_a_file_that_is_not_a_checkpoint_is_refused(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, str):
        (tmp_path / 'file').write_text(content)
    elif content is not None:
        torch.save(content, tmp_path / 'file')
    with pytest.raises(SystemExit) as end:
        main(['file', 'out.safetensors'])
    assert end.value.code == 2 and f'checkpoint file: {message}' in capsys.readouterr().err
    assert not (tmp_path / 'evil').exists() and not (tmp_path / 'out.safetensors').exists()


@pytest.mark.parametrize('out, message', [
    ('out.bin', 'path must end in .safetensors, got out.bin'),
    ('nowhere/out.safetensors', 'nowhere/out.safetensors: cannot be written'),
])
def test_a_path_that_cannot_be_written_is_refused(out, message, checkpoint):
    with pytest.raises(ValueError, match=message):
        export(checkpoint[0], out)
