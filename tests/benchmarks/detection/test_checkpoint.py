"""Checkpoints of train_timm.py are read; all else is refused with a reason."""
import argparse
import os
import pickle

import pytest
import torch
from torchvision.models import resnet18

import train_timm
from benchmarks.detection.backbone import create_features
from benchmarks.detection.checkpoint import read_checkpoint


def test_checkpoints_of_train_timm_are_read_with_and_without_ema(image_folder, tmp_path):
    flags = ('--model test_resnet --num-classes 3 --input-size 3 32 32 --epochs 1 --warmup-epochs 0 --batch-size 6 '
             f'--workers 0 --device cpu --mixup-mode multimix --model-ema --mean 0.1 0.2 0.3 --data-dir {image_folder}')
    assert not train_timm.main([*flags.split(), '--output', str(tmp_path), '--experiment', 'run'])
    for name in ('last.pth.tar', 'model_best.pth.tar'):
        path = str(tmp_path / 'run' / name)
        checkpoint = read_checkpoint(path, 'test_resnet')
        assert checkpoint.record['epoch'] == 0 and checkpoint.record['mixup_mode'] == 'multimix'
        averaged = read_checkpoint(path, 'test_resnet', use_ema=True)
        assert averaged.record != checkpoint.record
        weights = [create_features('test_resnet', one)[0].state_dict()['layer1.0.conv1.weight']
                   for one in (checkpoint, averaged)]
        assert torch.equal(weights[0], checkpoint.state_dict['layer1.0.conv1.weight'])
        assert torch.equal(weights[1], averaged.state_dict['layer1.0.conv1.weight'])
        assert not torch.equal(*weights)
        assert create_features('test_resnet', checkpoint)[1]['mean'] == (0.1, 0.2, 0.3)


def test_the_record_identifies_the_checkpoint(save_checkpoint):
    first = read_checkpoint(save_checkpoint(name='a.pth.tar'), 'test_resnet').record
    again = read_checkpoint(save_checkpoint(name='a.pth.tar'), 'test_resnet.r160_in1k').record
    other = read_checkpoint(save_checkpoint(name='b.pth.tar', seed=1), 'test_resnet').record
    assert first == again and first['sha256'] != other['sha256']


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match='--checkpoint .*nothing.pth.tar: no such file'):
        read_checkpoint(str(tmp_path / 'nothing.pth.tar'), 'test_resnet')


class Foreign:
    def __reduce__(self):
        return os.mkdir, ('must_not_be_made',)


def write_keras(path):
    path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(100))


def write_pickle(path):
    path.write_bytes(pickle.dumps(dict(state_dict=Foreign(), arch='test_resnet'), protocol=2))


def write_foreign(path):
    torch.save(dict(state_dict=Foreign(), arch='test_resnet'), path)


@pytest.mark.parametrize('write', [write_keras, write_pickle, write_foreign])
def test_a_file_of_another_framework_is_refused_and_runs_no_code(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'model.h5')
    with pytest.raises(ValueError, match=r'--checkpoint .*model.h5: not a checkpoint of train_timm.py \('):
        read_checkpoint(str(tmp_path / 'model.h5'), 'test_resnet')
    assert os.listdir(tmp_path) == ['model.h5']  # no code in it was run


@pytest.mark.parametrize('content, shown', [
    (resnet18().state_dict(), 'bn1.bias, '),
    (dict(model=resnet18().state_dict(), optimizer={}, args=argparse.Namespace()), 'args, model, optimizer'),
    ([1, 2], 'list'),
])
def test_weights_in_another_format_are_refused(content, shown, tmp_path):
    torch.save(content, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match=f'holds arch and state_dict, this one holds {shown}'):
        read_checkpoint(str(tmp_path / 'model.pth'), 'test_resnet')


def test_another_architecture_is_refused(save_checkpoint):
    path = save_checkpoint('test_efficientnet')
    with pytest.raises(ValueError, match='the checkpoint is of test_efficientnet, not of test_resnet'):
        read_checkpoint(path, 'test_resnet')


def test_ema_is_refused_without_a_moving_average(save_checkpoint):
    with pytest.raises(ValueError, match='--ema: .* holds no moving average'):
        read_checkpoint(save_checkpoint(), 'test_resnet', use_ema=True)


def test_weights_that_do_not_fit_are_refused(save_checkpoint):
    checkpoint = read_checkpoint(save_checkpoint(), 'test_resnet')
    weights = dict(checkpoint.state_dict)
    renamed = {f'module.{name}': value for name, value in weights.items()}
    left_out = {name: value for name, value in weights.items() if name != 'layer2.0.conv1.weight'}
    wider = dict(weights, **{'layer2.0.conv1.weight': torch.zeros(7, 7, 3, 3)})
    every = len(weights)
    for state_dict, wrong in ((renamed, f'{2 * every} of {every}: conv1'), (left_out, '1 of .*: layer2.0.conv1'),
                              (wider, f'1 of {every}: layer2.0.conv1.weight$')):
        with pytest.raises(ValueError, match=f'--checkpoint .*: its weights are not those of test_resnet; .* {wrong}'):
            create_features('test_resnet', checkpoint._replace(state_dict=state_dict))
