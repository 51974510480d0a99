"""No code from a file is executed, and the network is not used."""
import os
import socket
import time

import pytest
import safetensors.torch
import timm
import torch

import train_timm
from tests.support.command_line import code_of
from tests.support.training_runs import MODES
from tests.support.training_states import read
from timm_multimix.training.cli.parser import create_parser
from timm_multimix.training.data import datasets


@pytest.fixture
def calls(monkeypatch):
    """The attempts to use the network, which is blocked."""
    calls = []

    class Socket(socket.socket):
        def __init__(self, family=socket.AF_INET, *args, **kwargs):
            if family != socket.AF_UNIX:  # which connect processes of this machine
                calls.append(family)
                raise OSError('no network')
            super().__init__(family, *args, **kwargs)

    def getaddrinfo(*args, **kwargs):
        calls.append(args)
        raise OSError('no network')

    monkeypatch.setattr(socket, 'socket', Socket)
    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    return calls


def test_a_whole_run_needs_no_network(flags, calls):
    flags = [*flags, *MODES['distilled'], '--workers', '1', '--model-ema', '--resume', 'auto']
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    assert train_timm.main([*flags, '--epochs', '2']) == 0
    assert not calls


def test_pretrained_does_ask_for_the_network(flags, calls, tmp_path, monkeypatch):
    """It meets the same block, which shows that the block works."""
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # between attempts
    assert train_timm.main([*flags, '--pretrained']) == 2
    assert calls


def test_no_code_from_the_hub_unless_a_flag_asks(flags, monkeypatch):
    seen = []

    def create_dataset(*args, **kwargs):
        seen.append((kwargs['trust_remote_code'], kwargs['download']))
        return original(*args, **kwargs)

    original = datasets.create_dataset
    monkeypatch.setattr(datasets, 'create_dataset', create_dataset)
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    assert seen == [(False, False)] * 2
    assert create_parser().get_default('dataset_trust_remote_code') is False


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('flag', ['--resume', '--resume auto', '--initial-checkpoint', '--pretrained-path'])
def test_a_checkpoint_cannot_run_code(flag, flags, tmp_path, capsys):
    model = timm.create_model('test_resnet', num_classes=3)
    path, trace = tmp_path / 'run' / 'last.pth.tar', tmp_path / 'trace'
    path.parent.mkdir()
    torch.save(dict(state_dict=model.state_dict(), epoch=0, args=Evil(str(trace))), path)
    assert train_timm.main([*flags, *flag.split(), *([] if 'auto' in flag else [str(path)])]) == 2
    assert 'last.pth.tar' in capsys.readouterr().err and not trace.exists()


def test_a_config_cannot_run_code(tmp_path, capsys):
    trace, config = tmp_path / 'trace', tmp_path / 'config.yaml'
    config.write_text(f'model: !!python/object/apply:os.mkdir [{trace}]\n')
    assert code_of(train_timm.main, ['--config', str(config), '--dataset', 'digits']) == 2
    assert 'config.yaml' in capsys.readouterr().err and not trace.exists()


def test_a_run_can_start_from_safetensors(flags, tmp_path):
    """With --pretrained-path, which is for other classes too, the classifier may be new."""
    model, path = timm.create_model('test_resnet', num_classes=3), str(tmp_path / 'weights.safetensors')
    safetensors.torch.save_file(model.state_dict(), path)
    for flag, new in (('--initial-checkpoint', set()), ('--pretrained-path', {'fc.weight', 'fc.bias'})):
        assert train_timm.main([*flags, '--epochs', '1', '--lr', '0', flag, path, '--experiment', flag[2:]]) == 0
        trained = read(tmp_path / flag[2:] / 'last.pth.tar')['state_dict']
        assert {name for name, value in model.named_parameters() if not torch.equal(value, trained[name])} <= new
