"""Whole runs of train_timm.py, in process, on a tiny image folder; also with self-distillation and with MixupE."""
import json
import logging
import os
import re
import sys

import pytest
import safetensors.torch
import timm
import torch
import yaml
from timm.utils import ModelEmaV3

import train_timm
from tests.support.training_runs import MODES, accuracy, rows_of
from tests.support.training_states import assert_identical, read
from timm_multimix import MixupETask
from timm_multimix.tasks.distillation import Teacher
from timm_multimix.training import evaluate


@pytest.mark.parametrize('mode', MODES)
def test_a_run_writes_what_timm_writes(mode, flags, tmp_path, capsys):
    assert train_timm.main([*flags, *MODES[mode]]) == 0
    folder = tmp_path / 'run'
    rows = rows_of(folder)
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert {'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'lr'} <= set(rows[0])
    assert ('train_top1' in rows[0]) == (mode not in ('mixup', 'cutmix'))
    assert {'last.pth.tar', 'model_best.pth.tar', 'checkpoint-0.pth.tar', 'args.yaml'} <= set(os.listdir(folder))
    assert yaml.safe_load((folder / 'args.yaml').read_text())['model'] == 'test_resnet'

    out = capsys.readouterr().out
    results = json.loads(out.split('--result\n')[1])
    best = max(float(row['eval_top1']) for row in rows)
    assert results[-1]['validation']['top1'] == pytest.approx(best)
    assert {result['epoch'] for result in results} == {0, 1}


def test_it_learns_the_colours(flags, tmp_path):
    flags += ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '16', '--epochs', '20', '--color-jitter', '0',
              '--val-interval', '20']
    assert train_timm.main(flags) == 0
    rows = rows_of(tmp_path / 'run')
    assert float(rows[-1]['eval_top1']) == 100.
    assert float(rows[-1]['train_top1']) > 90.


def test_plain_timm_loads_the_checkpoint(flags, image_folder, tmp_path, monkeypatch):
    assert train_timm.main([*flags, *MODES['dense']]) == 0
    folder = tmp_path / 'run'
    best = max(float(row['eval_top1']) for row in rows_of(folder))
    state = read(folder / 'model_best.pth.tar')['state_dict']
    safetensors.torch.save_file(state, folder / 'model_best.safetensors')
    for name in [name for name in sys.modules if name.split('.')[0] == 'timm_multimix']:
        monkeypatch.setitem(sys.modules, name, None)  # so that nothing can import the package
    paths = [folder / 'model_best.pth.tar', folder / 'model_best.safetensors']
    for path in paths:
        model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path))
        assert accuracy(model, image_folder) == pytest.approx(best)


@pytest.mark.parametrize('mode, more', [
    ('mixup', ['--workers', '1', '--use-multi-epochs-loader']), ('dense', []), ('mixupe', [])])
def test_mixup_off_epoch_ends_mixing(mode, more, flags, steps):
    """From that epoch on, also with persistent workers, the loss is that of the clean batch with hard labels, smoothed.
    """
    assert train_timm.main([*flags, *MODES[mode], '--mixup-off-epoch', '1', '--smoothing', '0.1', *more]) == 0
    seen = []
    for step in steps:
        target = step.target if step.target.ndim == 1 else step.target.argmax(dim=1)
        smooth = torch.nn.functional.cross_entropy(step.result['output'], target, label_smoothing=0.1)
        seen.append(torch.allclose(step.result['loss'], smooth, atol=1e-6))
    assert seen == [False] * 3 + [True] * 3


@pytest.mark.parametrize('mode, more', [
    ('dense', '--amp --amp-dtype bfloat16'),
    ('dense', '--channels-last --grad-accum-steps 2 --clip-grad 1'),
    ('dense', '--no-prefetcher --opt adamw --clip-grad 0.1 --clip-mode agc'),
    ('dense', '--batch-size 7 --model-ema --model-ema-warmup --recovery-interval 2'),
    ('dense', '--multimix-strength auto --model-ema'),
    pytest.param('dense', '--torchcompile eager --model-ema', marks=pytest.mark.slow),
    ('dense', '--model test_vit --input-size 3 64 64 --img-size 64 --drop 0.1 --drop-path 0.1'),
    ('distilled', '--amp --amp-dtype bfloat16'),
    pytest.param('distilled', '--torchcompile eager', marks=pytest.mark.slow),
    ('distilled', '--mixup-off-epoch 1 --epochs 2 --cutmix 1 --mixup-prob 0.7'),
    ('distilled', '--model-dtype bfloat16 --multimix-gamma 0'),
    ('mixupe', '--mixup 0.4 --mixup-prob 0.5 --batch-size 7 --model-ema'),
    ('mixupe', '--mixupe-threshold 0 --mixupe-residual-grad --amp --amp-dtype bfloat16 --channels-last'),
    ('mixupe', '--mixupe-exact --no-prefetcher --model-dtype bfloat16'),
    pytest.param('mixupe', '--torchcompile eager --grad-accum-steps 2', marks=pytest.mark.slow),
])
def test_flags_of_timm_work_in_every_mode(mode, more, flags, tmp_path):
    assert train_timm.main([*flags, *MODES[mode], '--epochs', '1', *more.split()]) == 0
    for row in rows_of(tmp_path / 'run'):
        assert row['train_loss'] and row['eval_top1'] and bool(row.get('eval_student_top1')) == (mode == 'distilled')


@pytest.mark.parametrize('more', [
    ['--mixup-off-epoch', '1', '--val-interval', '2'], ['--mixup-prob', '0.5', '--cutmix', '1']])
def test_every_row_of_the_summary_has_the_same_columns(more, flags, tmp_path):
    assert train_timm.main([*flags, *MODES['multimix'], '--epochs', '4', *more]) == 0
    table = rows_of(tmp_path / 'run')
    assert len(table) == 4
    for row in table:
        assert {*row} == {'epoch', 'train_loss', 'train_mixed_loss', 'train_clean_loss', 'train_top1', 'eval_loss',
                          'eval_top1', 'eval_top5', 'lr'} and None not in row.values()
        assert ([*row][0], [*row][-1]) == ('epoch', 'lr') and 0. < float(row['lr']) <= 0.01
    if '--mixup-off-epoch' in more:
        assert [bool(row['train_mixed_loss']) for row in table] == [True, False, False, False]
        assert [bool(row['eval_top1']) for row in table] == [False, True, False, True]


def test_the_summary_has_the_strength_while_it_is_in_force(flags, tmp_path):
    more = ['--epochs', '2', '--mixup-off-epoch', '1', '--multimix-strength', 'auto']
    assert train_timm.main([*flags, *MODES['multimix'], *more]) == 0
    assert [row['train_strength'] for row in rows_of(tmp_path / 'run')] == ['0.0', '']


TAUGHT = ['--mixup-mode', 'multimix', '--multimix-tuples', '16', '--multimix-teacher-decay', '0.9']


def checkpoint_of(folder):
    return read(folder / 'last.pth.tar')


@pytest.mark.parametrize('more, count', [
    ('--no-prefetcher --channels-last', 2), ('--workers 2 -b 7', 2), ('--multimix-single-view', 1),
    ('--multimix-gamma 1', 1)])
def test_the_task_is_given_as_many_views_as_it_needs(more, count, flags, steps, monkeypatch):
    """They differ; with a gamma of 1 the teacher is not asked."""
    if 'gamma' in more:
        monkeypatch.setattr(Teacher, 'forward', None)
    assert train_timm.main([*flags, *TAUGHT, '--epochs', '1', *more.split()]) == 0
    assert len(steps) == 3
    for step in steps:
        views = step.input.split(len(step.target))
        assert len(views) == count and all(len(view) == len(step.target) for view in views)
        assert torch.equal(views[0], views[-1]) == (count == 1)
    ema = steps[0].task.teacher.ema
    assert (ema.decay, ema.use_warmup) == (0.9, False)


def test_images_per_second_count_an_image_once(flags, caplog):
    with caplog.at_level('INFO', 'train'):
        assert train_timm.main([*flags, *TAUGHT, '--epochs', '1']) == 0
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
    assert train_timm.main([*flags, *TAUGHT, '--grad-accum-steps', '2', '--model-ema']) == 0
    assert steps == [1, 1, 2, 2, 3, 3, 4, 4]


def test_the_teacher_is_validated_saved_and_read_by_plain_timm(flags, tmp_path, monkeypatch):
    """The accuracy of the model is reported beside that of the teacher."""
    def validate(training, model, *_, **__):
        return dict(loss=1., top1=20. if model is training.task.get_eval_model() else 30., top5=90.)

    monkeypatch.setattr(evaluate, 'validate', validate)
    assert train_timm.main([*flags, *TAUGHT, '--epochs', '2']) == 0
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
    assert train_timm.main([*flags, *TAUGHT, '--epochs', '2', '--resume', path]) == 0
    assert epochs_run == [0, 1]
    first, second = rows_of(tmp_path / 'run')  # the columns are those of both runs
    assert first == {**before[0], 'eval_student_top1': ''} and list(first) == list(second)
    assert all(second.values()) and float(second['lr']) < 1.
    assert train_timm.main([*flags, '--mixup-mode', 'multimix', '--epochs', '3', '--resume', path]) == 0
    *earlier, third = rows_of(tmp_path / 'run')
    assert earlier == [first, second] and third['eval_student_top1'] == '' and float(third['lr']) < 1.


def test_an_average_added_to_a_run_with_a_teacher_begins_as_the_teacher(flags, tmp_path, caplog):
    assert train_timm.main([*flags, *TAUGHT, '--epochs', '1']) == 0
    teacher = checkpoint_of(tmp_path / 'run')['task_state']['teacher']['state_dict']
    flags = [*flags, *TAUGHT, '--model-ema', '--model-ema-decay', '1', '--resume', str(tmp_path / 'run/last.pth.tar')]
    said = 'The average of --model-ema starts from the teacher'
    with caplog.at_level(logging.INFO):
        assert train_timm.main([*flags, '--epochs', '2']) == 0
        assert caplog.text.count(said) == 1
        assert train_timm.main([*flags, '--epochs', '3']) == 0
        assert caplog.text.count(said) == 1
    assert torch.equal(checkpoint_of(tmp_path / 'run')['state_dict_ema']['fc.weight'], teacher['fc.weight'])


@pytest.fixture
def mean_images(monkeypatch):
    """The mean images that are estimated."""
    images, estimate = [], MixupETask.estimate_mean_image

    def watched(task, *args):
        images.append(estimate(task, *args))
        return images[-1]

    monkeypatch.setattr(MixupETask, 'estimate_mean_image', watched)
    return images


@pytest.mark.parametrize('change, old', [
    (['--input-size', '3', '48', '48'], '24 images of [3, 32, 32]'),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (['--mean', '0', '0', '0', '--std', '1', '1', '1'], 'mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]'),
        (['--train-split', 'validation', '--batch-size', '6'], '24 images'))),
], ids=lambda value: value[0] if isinstance(value, list) else '')
def test_the_mean_image_is_estimated_anew_for_other_images_alone(change, old, flags, tmp_path, mean_images, caplog):
    flags = [*flags, *MODES['exact mixupe']]
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    for more in ([], change):
        assert train_timm.main([*flags, '--epochs', '2', *more, '--resume', path, '--experiment', 'next']) == 0
    first, second = mean_images
    assert first.shape == (3, 32, 32)
    assert first.shape != second.shape or not torch.equal(first, second)
    warning, = [record.message for record in caplog.records if 'mean image of the checkpoint' in record.message]
    assert old in warning


def test_eta_of_zero_needs_no_mean_image(flags, mean_images):
    assert train_timm.main([*flags, '--mixup-mode', 'mixupe', '--mixupe-eta', '0', '--mixupe-exact']) == 0
    assert not mean_images


def test_probability_zero_trains_as_without_mixupe(flags, tmp_path):
    assert train_timm.main([*flags, *MODES['mixupe'], '--mixup-prob', '0', '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--experiment', 'b']) == 0
    a, b = (read(tmp_path / name / 'last.pth.tar')['state_dict'] for name in 'ab')
    torch.testing.assert_close(dict(a), dict(b), rtol=1e-4, atol=1e-6)
