"""Whole runs with self-distillation."""
import logging
import re

import pytest
import timm
import torch
from timm.utils import ModelEmaV3

import train_timm
from tests.support.training_runs import rows_of
from tests.support.training_states import assert_identical, read
from timm_multimix.tasks.distillation import Teacher
from timm_multimix.training import evaluate

FLAGS = ['--mixup-mode', 'multimix', '--multimix-tuples', '16', '--multimix-teacher-decay', '0.9']


def checkpoint_of(folder):
    return read(folder / 'last.pth.tar')


@pytest.mark.parametrize('more, count', [
    ('--no-prefetcher --channels-last', 2), ('--workers 2 -b 7', 2), ('--multimix-single-view', 1),
    ('--multimix-gamma 1', 1)])
def test_the_task_is_given_as_many_views_as_it_needs(more, count, flags, steps, monkeypatch):
    """They differ; with a gamma of 1 the teacher is not asked."""
    if 'gamma' in more:
        monkeypatch.setattr(Teacher, 'forward', None)
    assert train_timm.main([*flags, *FLAGS, '--epochs', '1', *more.split()]) == 0
    assert len(steps) == 3
    for step in steps:
        views = step.input.split(len(step.target))
        assert len(views) == count and all(len(view) == len(step.target) for view in views)
        assert torch.equal(views[0], views[-1]) == (count == 1)
    ema = steps[0].task.teacher.ema
    assert (ema.decay, ema.use_warmup) == (0.9, False)


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


def test_the_teacher_is_validated_saved_and_read_by_plain_timm(flags, tmp_path, monkeypatch):
    """The accuracy of the model is reported beside that of the teacher."""
    def validate(training, model, *_, **__):
        return dict(loss=1., top1=20. if model is training.task.get_eval_model() else 30., top5=90.)

    monkeypatch.setattr(evaluate, 'validate', validate)
    assert train_timm.main([*flags, *FLAGS, '--epochs', '2']) == 0
    row = rows_of(tmp_path / 'run')[-1]
    assert (float(row['eval_top1']), float(row['eval_student_top1'])) == (30., 20.)
    checkpoint = checkpoint_of(tmp_path / 'run')
    assert checkpoint['state_dict'].keys() == checkpoint['state_dict_ema'].keys()
    assert_identical(dict(checkpoint['state_dict_ema']), dict(checkpoint['task_state']['teacher']['state_dict']))
    assert not torch.equal(checkpoint['state_dict']['fc.weight'], checkpoint['state_dict_ema']['fc.weight'])
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(tmp_path / 'run' / 'last.pth.tar'))
    assert torch.equal(model.fc.weight, checkpoint['state_dict_ema']['fc.weight'])


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
