"""At every stage, a user's mistake is one line and exit code 2, and an error of the program keeps its traceback."""
import os

import pytest

import train_timm
from tests.support.command_line import SCRIPT, code_of, only_line
from tests.support.training_states import read
from timm_multimix import UsageError
from timm_multimix.__main__ import main as launch

MULTIMIX = ['--mixup-mode', 'multimix', '--multimix-tuples', '8']
OF_THE_PROGRAM = [RuntimeError, ValueError]
STAGES = dict(  # for each stage, the function that is made to fail
    device='train_timm.create_runtime',
    model='train_timm.create_train_model',
    data='train_timm.create_loaders',
    datasets='timm_multimix.training.data.loaders.create_datasets',
    task='train_timm.create_task',
    optimizer='train_timm.create_optimizer',
    resume='train_timm.resume',
    scheduler='timm_multimix.training.schedule.scheduler_kwargs',
    output='train_timm.Output',
    training='train_timm.train_one_epoch',
    step='timm_multimix.loss.MultiMixLoss.terms',
    validation='train_timm.validate_all',
    summary='timm_multimix.training.output.Output.add_epoch',
)
LAUNCHED = dict(
    dataset='timm.data.create_dataset',
    task='timm_multimix.__main__.multimix_kwargs',
    loader='timm.data.create_loader',
    step='timm_multimix.loss.MultiMixLoss.terms',
    update='timm_multimix.tasks.multimix.MultiMixTask.update_ema',
)
LIBRARY = {  # calls that may fail on a user's value, and the beginning of their message
    'timm_multimix.training.model.create_model': '--model test_resnet: ',
    'timm_multimix.training.data.datasets.create_dataset': 'train split of ',
    'timm_multimix.training.task.create_optimizer_v2': '--opt sgd: ',
    'timm_multimix.training.schedule.create_scheduler_v2': '--sched cosine: ',
}


@pytest.fixture
def launched(image_folder, tmp_path):
    """The arguments of the same run under the launcher."""
    return [
        SCRIPT, '--data-dir', str(image_folder), '--model', 'test_resnet', '--num-classes', '3',
        '--input-size', '3', '32', '32', '--record', str(tmp_path / 'log.json'), *MULTIMIX]


@pytest.fixture
def fail(monkeypatch):
    """Make a function fail, wherever it is called."""
    def fail(where, error):
        def failing(*args, **kwargs):
            raise error
        monkeypatch.setattr(where, failing)
        return error
    return fail


@pytest.mark.parametrize('stage', STAGES)
def test_a_mistake_is_one_line(stage, flags, fail, capsys):
    fail(STAGES[stage], UsageError('--flag must be 1, got 2'))
    assert train_timm.main([*flags, *MULTIMIX]) == 2
    assert only_line(capsys) == 'train_timm.py: error: --flag must be 1, got 2'


def test_the_debug_log_has_the_traceback(flags, fail, caplog):
    fail(STAGES['model'], UsageError('--flag must be 1, got 2'))
    with caplog.at_level('DEBUG', 'train'):
        assert train_timm.main([*flags, *MULTIMIX]) == 2
    assert 'UsageError: --flag must be 1, got 2' in caplog.text


@pytest.mark.parametrize('stage', STAGES)
def test_an_error_of_the_program_keeps_its_traceback(stage, flags, fail):
    for kind in OF_THE_PROGRAM:
        error = fail(STAGES[stage], kind('of the program'))
        with pytest.raises(kind) as raised:
            train_timm.main([*flags, *MULTIMIX])
        assert raised.value is error


@pytest.mark.parametrize('stage', LAUNCHED)
def test_a_mistake_under_the_launcher(stage, launched, fail, capsys):
    fail(LAUNCHED[stage], UsageError('--flag must be 1, got 2'))
    assert launch(launched) == 2
    line = only_line(capsys)
    assert line.startswith('timm_multimix: error: ') and line.endswith('--flag must be 1, got 2')


@pytest.mark.parametrize('stage', LAUNCHED)
def test_an_error_of_the_program_under_the_launcher(stage, launched, fail):
    for kind in [TypeError] if stage == 'dataset' else OF_THE_PROGRAM:
        error = fail(LAUNCHED[stage], kind('of the program'))
        with pytest.raises(kind) as raised:
            launch(launched)
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
    (['--data-dir', '/does/not/exist'], '--data-dir /does/not/exist: no such folder'),
    (['--dataset', 'foo/bar'], "--dataset must be digits or start with one of "),
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
    (['--no-such-flag'], 'unrecognized arguments: --no-such-flag'),
    (['--config', '/does/not/exist'], '--config /does/not/exist: '),
    (['--kd-model-name', 'resnet18'], '--kd-model-name does not go with --mixup-mode multimix'),
    (['--mixup-mode', 'nosuch'], 'argument --mixup-mode: invalid choice: '),
]


OF_THE_SCRIPT = (  # flags whose values the launcher leaves to the script
    '--gp', '--device', '--initial-checkpoint', '--pretrained-path', '--no-such-flag')


@pytest.mark.parametrize('more, message', MISTAKES, ids=[' '.join(more) for more, _ in MISTAKES])
def test_mistakes_and_how_the_launcher_reports_them(more, message, flags, launched, capsys):
    assert code_of(train_timm.main, [*flags, *MULTIMIX, *more]) == 2
    line = only_line(capsys).removeprefix('train_timm.py: ')
    assert line.startswith(f'error: {message}')
    if more[0] not in OF_THE_SCRIPT:
        assert code_of(launch, [*launched, *more]) == 2
        assert only_line(capsys).removeprefix('timm_multimix: ') == line


def test_a_checkpoint_of_another_number_of_classes_is_refused_with_advice(flags, tmp_path, capsys):
    assert train_timm.main([*flags, '--epochs', '1', '--num-classes', '5']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    more = ['--epochs', '1', '--experiment', 'next']
    assert train_timm.main([*flags, *more, '--initial-checkpoint', path]) == 2
    line = only_line(capsys)
    assert (f'--initial-checkpoint {path} does not fit this model with 3 classes; '
            f'--pretrained-path accepts another') in line
    assert 'size mismatch for fc.weight' in line
    assert train_timm.main([*flags, *more, '--pretrained-path', path]) == 0, 'the flag that the message suggests works'


def test_a_checkpoint_of_another_optimizer_is_refused_with_advice(flags, tmp_path, capsys):
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    assert read(path)['args'].opt == 'sgd'
    assert train_timm.main([*flags, '--opt', 'adamw', '--resume', path]) == 2
    assert f'--resume {path}: its optimizer is sgd, that of this run is adamw; give --opt sgd, or ' in only_line(capsys)
    assert train_timm.main([*flags, '--opt', 'adamw', '--resume', path, '--no-resume-opt']) == 0
