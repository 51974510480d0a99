"""Whole runs with self-distillation."""
import logging
import re

import pytest
import timm
import torch
from timm.utils import ModelEmaV3

import train_timm
from tests.support.training_runs import accuracy, rows_of
from tests.support.training_states import assert_identical, read
from timm_multimix import MultiMixTask
from timm_multimix.tasks.distillation import Teacher
from timm_multimix.training import evaluate

FLAGS = ['--mixup-mode', 'multimix', '--multimix-tuples', '16', '--multimix-teacher-decay', '0.9']


def checkpoint_of(folder):
    return read(folder / 'last.pth.tar')


@pytest.fixture
def inputs(monkeypatch):
    """The inputs of the task, step by step."""
    seen, forward = [], MultiMixTask.forward

    def watched(task, input, target):
        seen.append((task, input, target))
        return forward(task, input, target)

    monkeypatch.setattr(MultiMixTask, 'forward', watched)
    return seen


@pytest.mark.parametrize('more', [['--no-prefetcher', '--channels-last'], ['--workers', '2', '-b', '7']])
def test_the_task_is_given_two_views_that_differ(more, flags, inputs):
    assert train_timm.main([*flags, *FLAGS, '--epochs', '1', *more]) == 0
    assert len(inputs) == 3
    for _, images, target in inputs:
        first, second = images.split(target.shape[0])
        assert first.shape == second.shape and not torch.equal(first, second)


def test_with_a_single_view_the_task_is_given_one(flags, inputs):
    assert train_timm.main([*flags, *FLAGS, '--multimix-single-view', '--epochs', '1']) == 0
    assert all(images.shape[0] == target.shape[0] == 8 for _, images, target in inputs)
    task, *_ = inputs[0]
    assert task.settings.single_view and (task.teacher.ema.decay, task.teacher.ema.use_warmup) == (0.9, False)


def test_a_gamma_of_one_needs_neither_teacher_nor_second_view(flags, inputs, monkeypatch):
    monkeypatch.setattr(Teacher, 'forward', None)
    assert train_timm.main([*flags, *FLAGS, '--multimix-gamma', '1', '--epochs', '1']) == 0
    assert all(images.shape[0] == target.shape[0] == 8 for _, images, target in inputs)


def test_images_per_second_count_an_image_once(flags, caplog):
    with caplog.at_level('INFO', 'train'):
        assert train_timm.main([*flags, *FLAGS, '--epochs', '1']) == 0
    times = re.findall(r'Time: ([\d.]+)s, +([\d.]+)/s', caplog.text)
    assert len(times) == 3
    assert all(5. < float(seconds) * float(speed) < 12. for seconds, speed in times), '8 after rounding, not 16'


def test_teacher_and_average_are_updated_once_per_update(flags, monkeypatch):
    """3 batches, with 2 per update, make two updates an epoch, counted over the epochs."""
    steps, update = [], ModelEmaV3.update

    def watched(ema, model, step=None):
        steps.append(step)
        update(ema, model, step)

    monkeypatch.setattr(ModelEmaV3, 'update', watched)
    assert train_timm.main([*flags, *FLAGS, '--grad-accum-steps', '2', '--model-ema']) == 0
    assert steps == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize('mode', ['multimix', 'dense-multimix'])
def test_the_teacher_is_validated_saved_and_read_by_plain_timm(mode, flags, image_folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert train_timm.main([*flags, *FLAGS, '--mixup-mode', mode, '--epochs', '3']) == 0
    assert 'Test (EMA)' in caplog.text
    checkpoint = checkpoint_of(tmp_path / 'run')
    keys = timm.create_model('test_resnet', num_classes=3).state_dict().keys()
    assert checkpoint['state_dict'].keys() == checkpoint['state_dict_ema'].keys() == keys
    assert_identical(dict(checkpoint['state_dict_ema']), dict(checkpoint['task_state']['teacher']['state_dict']))
    assert not torch.equal(checkpoint['state_dict']['fc.weight'], checkpoint['state_dict_ema']['fc.weight'])

    row = rows_of(tmp_path / 'run')[-1]
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(tmp_path / 'run' / 'last.pth.tar'))
    assert torch.equal(model.fc.weight, checkpoint['state_dict_ema']['fc.weight'])
    assert accuracy(model, image_folder) == pytest.approx(float(row['eval_top1']))
    model.load_state_dict(checkpoint['state_dict'])
    assert accuracy(model, image_folder) == pytest.approx(float(row['eval_student_top1']))


def test_the_accuracy_of_the_model_is_reported_beside_that_of_the_teacher(flags, tmp_path, monkeypatch):
    def validate(training, model, *_, **__):
        return dict(loss=1., top1=20. if model is training.task.get_eval_model() else 30., top5=90.)

    monkeypatch.setattr(evaluate, 'validate', validate)
    assert train_timm.main([*flags, *FLAGS, '--epochs', '1']) == 0
    row, = rows_of(tmp_path / 'run')
    assert (float(row['eval_top1']), float(row['eval_student_top1'])) == (30., 20.)


def test_an_ordinary_average_differs_from_the_teacher(flags, tmp_path):
    assert train_timm.main([*flags, *FLAGS, '--model-ema', '--model-ema-decay', '0.2']) == 0
    checkpoint = checkpoint_of(tmp_path / 'run')
    teacher = checkpoint['task_state']['teacher']['state_dict']
    assert teacher.keys() == checkpoint['state_dict_ema'].keys()
    assert not torch.equal(checkpoint['state_dict_ema']['fc.weight'], teacher['fc.weight'])


@pytest.mark.parametrize('more', [['--model-ema', '--multimix-single-view'], ['--mixup-mode', 'dense-multimix']])
def test_a_resumed_run_restores_the_teacher_bit_for_bit(more, flags, tmp_path, epochs_run):
    flags = [*flags, *FLAGS, *more, '--multimix-teacher-warmup', '--epochs', '3', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 2
    assert train_timm.main([*flags, '--experiment', 'parts']) == 130
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    parts, whole = (checkpoint_of(tmp_path / name) for name in ('parts', 'whole'))
    for key in ('epoch', 'state_dict', 'state_dict_ema', 'optimizer', 'task_state'):
        assert_identical(parts[key], whole[key])


def test_a_run_without_a_teacher_can_be_resumed_with_one(flags, tmp_path, epochs_run):
    assert train_timm.main([*flags, '--mixup-mode', 'multimix', '--model-ema', '--epochs', '1']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    before = rows_of(tmp_path / 'run')
    assert train_timm.main([*flags, *FLAGS, '--epochs', '2', '--resume', path]) == 0
    assert epochs_run == [0, 1]
    first, second = rows_of(tmp_path / 'run')  # the columns are those of both runs
    assert first == {**before[0], 'eval_student_top1': ''} and list(first) == list(second)
    assert all(second.values()) and float(second['lr']) < 1.
    assert train_timm.main([*flags, '--mixup-mode', 'multimix', '--epochs', '3', '--resume', path]) == 0
    *earlier, third = rows_of(tmp_path / 'run')
    assert earlier == [first, second] and third['eval_student_top1'] == '' and float(third['lr']) < 1.


def test_an_average_added_to_a_run_with_a_teacher_begins_as_the_teacher(flags, tmp_path, caplog):
    assert train_timm.main([*flags, *FLAGS, '--epochs', '1']) == 0
    teacher = checkpoint_of(tmp_path / 'run')['task_state']['teacher']['state_dict']
    flags = [*flags, *FLAGS, '--model-ema', '--model-ema-decay', '1', '--resume', str(tmp_path / 'run/last.pth.tar')]
    said = 'The average of --model-ema starts from the teacher'
    with caplog.at_level(logging.INFO):
        assert train_timm.main([*flags, '--epochs', '2']) == 0
        assert caplog.text.count(said) == 1
        assert train_timm.main([*flags, '--epochs', '3']) == 0
        assert caplog.text.count(said) == 1
    assert torch.equal(checkpoint_of(tmp_path / 'run')['state_dict_ema']['fc.weight'], teacher['fc.weight'])


@pytest.mark.parametrize('more', [
    ['--amp', '--amp-dtype', 'bfloat16', '--torchcompile', 'eager'],
    ['--mixup-off-epoch', '1', '--cutmix', '1', '--mixup-prob', '0.7'],
    ['--model-dtype', 'bfloat16', '--multimix-gamma', '0'],
])
def test_flags_of_timm_work_with_a_teacher(more, flags, tmp_path):
    assert train_timm.main([*flags, *FLAGS, *more]) == 0
    assert all(row['eval_student_top1'] for row in rows_of(tmp_path / 'run'))
