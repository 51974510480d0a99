"""Any kind of file, given to any flag that takes a checkpoint, works, or one line names both."""
import argparse
import os

import pytest
import safetensors.torch
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import CheckpointSaver

import train_timm
from tests.support.command_line import code_of, only_line
from timm_multimix.__main__ import main as launch

FLAGS = ('--resume', '--initial-checkpoint', '--pretrained-path')
WEIGHTS = ('--initial-checkpoint', '--pretrained-path')
FILES = {  # each with the flags that accept it
    'a run': FLAGS,
    'another optimizer': WEIGHTS,
    'another class count': ('--pretrained-path',),
    'another architecture': (),
    'weights alone': FLAGS,
    'a.safetensors': WEIGHTS,
    'safetensors by another name': (),
    'truncated': (),
    'empty': (),
    'text': (),
    'a folder': (),
    'a pickled module': (),
    'a tensor': (),
    'a list': (),
    'other numbers': (),
}
ADVICE = {
    ('--resume', 'another optimizer'): 'its optimizer is adamw, that of this run is sgd; give --opt adamw, or ',
    ('--initial-checkpoint', 'another class count'):
        'does not fit this model with 3 classes; --pretrained-path accepts another',
}


class Begun(BaseException):
    """Raised when the run has got past reading the files."""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder with all of FILES."""
    folder = tmp_path_factory.mktemp('files')

    def of_run(file, name='test_resnet', num_classes=3, opt='sgd'):
        model = timm.create_model(name, num_classes=num_classes)
        task = ClassificationTask(model, verbose=False)
        args = argparse.Namespace(model=name, opt=opt)
        optimizer = create_optimizer_v2(model, opt, weight_decay=2e-5)
        CheckpointSaver(model, optimizer, args, task=task)._save(str(folder / file), 0)
        return model

    model = of_run('a run')
    of_run('another optimizer', opt='adamw')
    of_run('another class count', num_classes=5)
    of_run('another architecture', 'test_efficientnet')
    torch.save(model.state_dict(), folder / 'weights alone')
    for name in ('a.safetensors', 'safetensors by another name'):
        safetensors.torch.save_file(model.state_dict(), folder / name)
    (folder / 'truncated').write_bytes((folder / 'a run').read_bytes()[:50_000])
    (folder / 'empty').write_bytes(b'')
    (folder / 'text').write_text('no checkpoint')
    (folder / 'a folder').mkdir()
    torch.save(model, folder / 'a pickled module')
    torch.save(torch.zeros(3), folder / 'a tensor')
    torch.save([1, 2], folder / 'a list')
    torch.save(dict(lr=0.1, step=3), folder / 'other numbers')
    assert set(os.listdir(folder)) == set(FILES)
    return folder


@pytest.fixture
def run(flags, launched, monkeypatch, capsys):
    """A function that runs train_timm.py or the launcher up to the first epoch; None, or the line that refuses."""
    def begin(*args, **kwargs):
        raise Begun

    monkeypatch.setattr(train_timm, 'prepare_mixing', begin)
    monkeypatch.setattr('timm.scheduler.create_scheduler_v2', begin)

    def run(main, *more):
        argv = launched if main is launch else flags
        try:
            assert code_of(main, [*argv, '--mixup-mode', 'multimix', *more]) == 2
        except Begun:
            return None
        return only_line(capsys)
    return run


@pytest.mark.parametrize('main, flag', [*((train_timm.main, flag) for flag in FLAGS), (launch, '--resume')], ids=[
    *FLAGS, 'launcher --resume'])
@pytest.mark.parametrize('name', FILES)
def test_a_file_works_or_is_refused_by_flag_and_path(main, name, flag, files, run):
    path = str(files / name)
    line = run(main, flag, path)
    if flag in FILES[name]:
        assert line is None
    elif line is not None or (flag, name) != ('--resume', 'a.safetensors'):  # which newer versions of torch read
        assert f'{flag} {path}' in line and ADVICE.get((flag, name), '') in line


def test_a_checkpoint_of_another_optimizer_works_without_its_state(files, run):
    for main in (train_timm.main, launch):
        assert run(main, '--resume', str(files / 'another optimizer'), '--no-resume-opt') is None
