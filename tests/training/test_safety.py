"""No code from a file is executed, and the network is not used."""
import argparse
import os
import socket
import time

import pytest
import timm
import torch

import train_timm
from tests.support.command_line import code_of
from tests.support.training_runs import MODES
from tests.support.training_states import assert_identical, read
from timm_multimix import UsageError
from timm_multimix.export import export
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


@pytest.mark.parametrize('flag', ['--resume', '--initial-checkpoint', '--pretrained-path'])
def test_a_checkpoint_cannot_run_code(flag, flags, tmp_path, capsys):
    model = timm.create_model('test_resnet', num_classes=3)
    path, trace = tmp_path / 'evil.pth.tar', tmp_path / 'trace'
    torch.save(dict(state_dict=model.state_dict(), epoch=0, args=Evil(str(trace))), path)
    assert train_timm.main([*flags, flag, str(path)]) == 2
    assert str(path) in capsys.readouterr().err and not trace.exists()


def test_resume_auto_cannot_run_code_either(flags, tmp_path, capsys):
    trace = tmp_path / 'trace'
    (tmp_path / 'run').mkdir()
    torch.save(dict(epoch=0, saver=Evil(str(trace))), tmp_path / 'run' / 'last.pth.tar')
    assert train_timm.main([*flags, '--resume', 'auto']) == 2
    assert 'last.pth.tar' in capsys.readouterr().err and not trace.exists()


def test_a_checkpoint_holds_tensors_plain_values_and_the_flags(flags, tmp_path):
    assert train_timm.main([*flags, *MODES['distilled'], '--epochs', '1', '--model-ema']) == 0
    path = tmp_path / 'run' / 'last.pth.tar'
    assert isinstance(read(path)['args'], argparse.Namespace)  # read() refuses any other object


def test_neither_an_export_nor_a_config_can_run_code(tmp_path, capsys):
    trace, path, config = (tmp_path / name for name in ('trace', 'evil.pth.tar', 'config.yaml'))
    torch.save(dict(state_dict={'weight': torch.zeros(1)}, epoch=0, args=Evil(str(trace))), path)
    with pytest.raises(UsageError, match='evil.pth.tar'):
        export(str(path), str(tmp_path / 'out.safetensors'))
    config.write_text(f'model: !!python/object/apply:os.mkdir [{trace}]\n')
    assert code_of(train_timm.main, ['--config', str(config), '--dataset', 'digits']) == 2
    assert 'config.yaml' in capsys.readouterr().err and not trace.exists()


def test_a_run_can_start_from_safetensors(flags, tmp_path, monkeypatch):
    assert train_timm.main([*flags, *MODES['multimix']]) == 0
    best, out = tmp_path / 'run' / 'model_best.pth.tar', tmp_path / 'best.safetensors'
    export(str(best), str(out))
    started = []

    def create_train_model(*args):
        model, config = original(*args)
        started.append({name: value.clone() for name, value in model.state_dict().items()})
        return model, config

    original = train_timm.create_train_model
    monkeypatch.setattr(train_timm, 'create_train_model', create_train_model)
    for flag in ('--initial-checkpoint', '--pretrained-path'):
        assert train_timm.main([*flags, '--epochs', '1', flag, str(out), '--experiment', 'next']) == 0
    expected = read(best)['state_dict']
    assert_identical(started[0], dict(expected))
    for state in started:  # --pretrained-path is for other classes: timm starts with a new classifier
        for name in ('fc.weight', 'fc.bias'):
            state.pop(name)
            expected.pop(name, None)
    assert_identical(started[1], dict(expected))
