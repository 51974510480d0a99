"""At every stage, a user's mistake is one line and exit code 2, and an error of the program keeps its traceback."""
import os

import pytest

import train_timm
from tests.support.command_line import code_of, only_line
from timm_multimix import UsageError
from timm_multimix.__main__ import main as launch

MULTIMIX = ['--mixup-mode', 'multimix', '--multimix-tuples', '8']
STAGES = {  # for each stage, the function that is made to fail
    'train_timm.py': [
        'train_timm.create_runtime', 'train_timm.create_train_model', 'train_timm.create_loaders',
        'timm_multimix.training.data.loaders.create_datasets', 'train_timm.create_task', 'train_timm.create_optimizer',
        'train_timm.resume', 'timm_multimix.training.schedule.scheduler_kwargs', 'train_timm.Output',
        'train_timm.train_one_epoch', 'timm_multimix.loss.MultiMixLoss.terms', 'train_timm.validate_all',
        'timm_multimix.training.output.Output.add_epoch'],
    'timm_multimix': [
        'timm.data.create_dataset', 'timm_multimix.__main__.multimix_kwargs', 'timm.data.create_loader',
        'timm_multimix.loss.MultiMixLoss.terms', 'timm_multimix.tasks.multimix.MultiMixTask.update_ema'],
}
each_stage = pytest.mark.parametrize(
    'program, where', [(program, where) for program, stages in STAGES.items() for where in stages])
LIBRARY = {  # calls that may fail on a user's value, and the beginning of their message
    'timm_multimix.training.model.create_model': '--model test_resnet: ',
    'timm_multimix.training.data.datasets.create_dataset': 'train split of ',
    'timm_multimix.training.task.create_optimizer_v2': '--opt sgd: ',
    'timm_multimix.training.schedule.create_scheduler_v2': '--sched cosine: ',
}


@pytest.fixture
def start(flags, launched):
    """A function that runs train_timm.py, or a stock script under the launcher."""
    return lambda program: (
        train_timm.main([*flags, *MULTIMIX]) if program == 'train_timm.py' else launch([*launched, *MULTIMIX]))


@pytest.fixture
def fail(monkeypatch):
    """Make a function fail, wherever it is called."""
    def fail(where, error):
        def failing(*args, **kwargs):
            raise error
        monkeypatch.setattr(where, failing)
        return error
    return fail


@each_stage
def test_a_mistake_is_one_line(program, where, start, fail, capsys, caplog):
    """The traceback is in the debug log of the script."""
    fail(where, UsageError('--flag must be 1, got 2'))
    with caplog.at_level('DEBUG', 'train'):
        assert start(program) == 2
    line = only_line(capsys)
    assert line.startswith(f'{program}: error: ') and line.endswith('--flag must be 1, got 2')
    assert 'UsageError: --flag must be 1, got 2' in caplog.text or program == 'timm_multimix'


@each_stage
def test_an_error_of_the_program_keeps_its_traceback(program, where, start, fail):
    for kind in [TypeError] if where == 'timm.data.create_dataset' else [RuntimeError, ValueError]:
        error = fail(where, kind('of the program'))
        with pytest.raises(kind) as raised:
            start(program)
        assert raised.value is error


@pytest.mark.parametrize('where', LIBRARY)
def test_a_librarys_message_comes_after_the_flag(where, flags, fail, capsys):
    fail(where, ValueError('several\nlines'))
    assert train_timm.main(flags) == 2
    line = only_line(capsys)
    assert line.startswith(f'train_timm.py: error: {LIBRARY[where]}') and line.endswith('several lines (ValueError)')
    known = 'optim' in where or 'sched' in where
    for kind in (AttributeError, TypeError, *((KeyError, RuntimeError) if known else ())):
        fail(where, kind('unsupported operand'))
        with pytest.raises(kind, match='unsupported operand'):
            train_timm.main(flags)


MISTAKES = [
    (['--num-classes', '2'],
     '--num-classes must be at least the 3 classes of the data, got 2; the data has cat, dog, owl'),
    (['--model', 'resnet_of_dreams'], '--model resnet_of_dreams: Unknown model (resnet_of_dreams) (RuntimeError)'),
    (['--model', 'test_resnett'],
     '--model test_resnett: Unknown model (test_resnett) (RuntimeError); did you mean '
     'test_resnet?'),
    (['--model', 'Resnet_50'],
     '--model Resnet_50: Unknown model (Resnet_50) (RuntimeError); did you mean resnet50, '),
    (['--model', 'test_resnet.r160_in2k'],
     '--model test_resnet.r160_in2k: Invalid pretrained tag (r160_in2k) for test_resnet. (RuntimeError); did you mean '
     'test_resnet.r160_in1k?'),
    (['--gp', 'nosuch'], '--model test_resnet: '),
    (['--mixup-mode', 'dense-multimix', '--model', 'crossvit_9_240', '--input-size', '3', '240', '240'],
     'crossvit_9_240: forward_features returns a list'),
    (['--data-dir', '/does/not/exist'], '--data-dir /does/not/exist: no such folder'),
    (['--dataset', 'cifar10'], "--dataset must be digits or start with one of "),
    (['--val-split', 'nosuch'], '--val-split nosuch: no such folder in '),
    (['--val-split', 'train/cat'], '--train-split train and --val-split train/cat read the same images '),
    (['--opt', 'nosuch'], '--opt nosuch: '),
    (['--sched', 'nosuch'], '--sched nosuch: '),
    (['--aa', 'nosuch'], '--aa nosuch: Unknown AA policy nosuch'),
    (['--device', 'warp'], '--device warp: '),
    (['--output', os.devnull + '/x'], f'--output {os.devnull}/x: '),
    (['--resume', '/does/not/exist'], '--resume /does/not/exist: no such file'),
    (['--initial-checkpoint', '/does/not/exist'], '--initial-checkpoint /does/not/exist: no such file'),
    (['--pretrained-path', '/does/not/exist'], '--pretrained-path /does/not/exist: no such file'),
    (['--batch-size', '1'], '--batch-size, --train-batch-sizes or --input-size is too small for the normalisation'),
    (['--batch-size', '100'], '--batch-size must be at most the 24 training images per process, got 100'),
    (['--multimix-implementation', 'triton'], "implementation='triton' needs "),
    (['--multimix-alpha', '-1'], '--multimix-alpha must be '),
    (['--config', '/does/not/exist'], '--config /does/not/exist: '),
    (['--kd-model-name', 'resnet18'], '--kd-model-name does not go with --mixup-mode multimix'),
    (['--mixup-mode', 'nosuch'], 'argument --mixup-mode: invalid choice: '),
]


OF_THE_SCRIPT = (  # flags whose values the launcher leaves to the script
    '--gp', '--device', '--initial-checkpoint', '--pretrained-path')
OF_OTHER_MODES = [
    (['--task', 'multilabel'], '--task multilabel needs lists of class indices'),
    (['--naflex-loader'], '--naflex-loader needs a naflexvit or gemma4_vit model, got ResNet'),
    # one layer for its class and one for its distillation token
    (['--model', 'levit_128s', '--head-init-scale', '0.1'],
     '--head-init-scale needs a model whose classifier is one layer with a weight, got a tuple'),
    (['--model', 'levit_128s', '--head-init-bias', '0.1'],
     '--head-init-bias needs a model whose classifier is one layer with a bias, got a tuple'),
    (['--device-modules', 'no_such_module'], '--device-modules no_such_module: '),
    (['--amp'], 'needs --amp-dtype bfloat16'),
    (['--opt-kwargs', 'foo=1'], '--opt sgd: '),
    (['--torchcompile', 'nosuch'], '--torchcompile nosuch: '),
    (['--input-img-mode', 'L'], '--input-img-mode L does not give the 3 channels of the input size'),
    (['--input-size', '4', '32', '32'], '--input-img-mode RGB does not give the 4 channels of the input size'),
    (['--aug-repeats', '3'], '--aug-repeats needs several processes (torchrun), got 3.0 in one'),
]


@pytest.mark.parametrize('more, message', MISTAKES, ids=[' '.join(more) for more, _ in MISTAKES])
def test_mistakes_and_how_the_launcher_reports_them(more, message, flags, launched, capsys):
    assert code_of(train_timm.main, [*flags, *MULTIMIX, *more]) == 2
    line = only_line(capsys).removeprefix('train_timm.py: ')
    assert line.startswith(f'error: {message}')
    if more[0] not in OF_THE_SCRIPT:
        assert code_of(launch, [*launched, *MULTIMIX, *more]) == 2
        assert only_line(capsys).removeprefix('timm_multimix: ') == line


@pytest.mark.parametrize('more, message', OF_OTHER_MODES, ids=[' '.join(more) for more, _ in OF_OTHER_MODES])
def test_mistakes_found_while_building(more, message, flags, capsys):
    assert train_timm.main([*flags, *more]) == 2
    assert message in only_line(capsys)
