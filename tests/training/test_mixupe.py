"""Whole runs with MixupE."""
import pytest
import torch

import train_timm
from tests.support.training_runs import rows_of
from tests.support.training_states import assert_identical, final_state, read
from timm_multimix import MixupETask

FLAGS = ['--mixup-mode', 'mixupe', '--mixupe-eta', '0.1']


@pytest.fixture
def mean_images(monkeypatch):
    """The mean images that are estimated."""
    images, estimate = [], MixupETask.estimate_mean_image

    def watched(task, *args):
        images.append(estimate(task, *args))
        return images[-1]

    monkeypatch.setattr(MixupETask, 'estimate_mean_image', watched)
    return images


@pytest.mark.parametrize('more', [
    ['--mixup', '0.4', '--mixup-prob', '0.5', '--batch-size', '7', '--model-ema'],
    ['--mixupe-threshold', '0', '--mixupe-residual-grad', '--amp', '--amp-dtype', 'bfloat16', '--channels-last'],
    ['--mixupe-exact', '--no-prefetcher', '--model-dtype', 'bfloat16'],
    ['--torchcompile', 'eager', '--grad-accum-steps', '2'],
])
def test_a_run_writes_its_summary(more, flags, tmp_path):
    assert train_timm.main([*flags, *FLAGS, *more]) == 0
    for row in rows_of(tmp_path / 'run'):
        assert list(row) == ['epoch', 'train_loss', 'train_top1', 'eval_loss', 'eval_top1', 'eval_top5', 'lr']
        assert all(row.values())


def test_eta_of_zero_trains_as_mixup(flags, tmp_path):
    flags = [*flags, '--mixup', '1', '--smoothing', '0']
    assert train_timm.main([*flags, '--mixup-mode', 'mixupe', '--mixupe-eta', '0', '--experiment', 'a']) == 0
    images_alone = ['--mixup-mode', 'multimix', '--multimix-input-prob', '1']
    assert train_timm.main([*flags, *images_alone, '--experiment', 'b']) == 0
    a, b = (read(tmp_path / name / 'last.pth.tar') for name in 'ab')
    assert_identical(dict(a['state_dict']), dict(b['state_dict']))
    assert not any(row.get('train_top1') for row in rows_of(tmp_path / 'a')), 'mixed images have no accuracy'


@pytest.mark.parametrize('change, old', [
    (['--input-size', '3', '48', '48'], '24 images of [3, 32, 32]'),
    (['--mean', '0', '0', '0', '--std', '1', '1', '1'], 'mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]'),
    (['--train-split', 'validation', '--batch-size', '6'], '24 images'),
], ids=lambda value: value[0] if isinstance(value, list) else '')
def test_the_mean_image_is_estimated_anew_for_other_images(change, old, flags, tmp_path, mean_images, caplog):
    flags = [*flags, *FLAGS, '--mixupe-exact']
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    assert train_timm.main([*flags, '--epochs', '2', *change, '--resume', path]) == 0
    first, second = mean_images
    assert first.shape != second.shape or not torch.equal(first, second)
    warning, = [record.message for record in caplog.records if 'mean image of the checkpoint' in record.message]
    assert old in warning


def test_eta_of_zero_needs_no_mean_image(flags, mean_images):
    assert train_timm.main([*flags, '--mixup-mode', 'mixupe', '--mixupe-eta', '0', '--mixupe-exact']) == 0
    assert not mean_images


def test_probability_zero_trains_as_without_mixupe(flags, tmp_path):
    assert train_timm.main([*flags, *FLAGS, '--mixup-prob', '0', '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--experiment', 'b']) == 0
    a, b = (read(tmp_path / name / 'last.pth.tar')['state_dict'] for name in 'ab')
    torch.testing.assert_close(dict(a), dict(b), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('more', [[], ['--mixupe-exact']], ids=['fast', 'exact'])
def test_a_resumed_run_is_bit_identical(more, flags, tmp_path, epochs_run, mean_images):
    """So is its mean image, from one pass over augmented images, because it is in the checkpoint."""
    flags = [*flags, *FLAGS, *more, '--epochs', '3', '--drop', '0.2', '--model-ema', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 1
    assert train_timm.main([*flags, '--experiment', 'parts']) == 130
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert len(mean_images) == (2 if more else 0), 'once per run'
    assert all(image.shape == (3, 32, 32) for image in mean_images)
