"""Whole runs with MixupE."""
import pytest

import train_timm
from tests.training.checkpoints import read
from tests.training.test_resume import assert_identical, final_state
from tests.training.test_train import rows_of
from timm_multimix import MixupETask

FLAGS = ['--mixup-mode', 'mixupe', '--mixupe-eta', '0.1']


@pytest.fixture
def mean_images(monkeypatch):
    """The mean images that are estimated."""
    images, estimate = [], MixupETask.estimate_mean_image

    def watched(task, loader):
        images.append(estimate(task, loader))
        return images[-1]

    monkeypatch.setattr(MixupETask, 'estimate_mean_image', watched)
    return images


@pytest.mark.parametrize('more', [
    [],
    ['--mixup', '0.4', '--mixup-prob', '0.5', '--batch-size', '7', '--model-ema'],
    ['--mixupe-threshold', '0', '--amp', '--amp-dtype', 'bfloat16', '--channels-last'],
    ['--mixupe-exact', '--no-prefetcher', '--amp', '--amp-dtype', 'bfloat16'],
    ['--torchcompile', 'eager', '--grad-accum-steps', '2'],
    ['--model-dtype', 'bfloat16', '--mixupe-exact'],
])
def test_a_run(more, flags, tmp_path):
    assert train_timm.main([*flags, *FLAGS, *more]) == 0
    for row in rows_of(tmp_path / 'run'):
        assert list(row) == ['epoch', 'train_loss', 'train_top1', 'eval_loss', 'eval_top1', 'eval_top5', 'lr']
        assert all(row.values())


def test_eta_of_zero_trains_as_timms_mixup(flags, tmp_path):
    assert train_timm.main([*flags, '--mixup-mode', 'mixupe', '--mixupe-eta', '0', '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--mixup', '1', '--experiment', 'b']) == 0
    a, b = (read(tmp_path / name / 'last.pth.tar') for name in 'ab')
    assert_identical(dict(a['state_dict']), dict(b['state_dict']))
    assert not any(row['train_top1'] for row in rows_of(tmp_path / 'a')), 'mixed images have no accuracy'


def test_at_another_size_the_mean_image_is_estimated_anew(flags, tmp_path, mean_images):
    flags = [*flags, *FLAGS, '--mixupe-exact']
    assert train_timm.main([*flags, '--epochs', '1']) == 0
    path = str(tmp_path / 'run' / 'last.pth.tar')
    assert train_timm.main([*flags, '--epochs', '2', '--input-size', '3', '48', '48', '--resume', path]) == 0
    assert [tuple(image.shape) for image in mean_images] == [(3, 32, 32), (3, 48, 48)]


@pytest.mark.parametrize('more', [[], ['--mixupe-exact']], ids=['fast', 'exact'])
def test_a_resumed_run_is_bit_identical(more, flags, tmp_path, epochs_run, mean_images):
    """Also its mean image, of one pass over augmented images: it is in the checkpoint."""
    flags = [*flags, *FLAGS, *more, '--epochs', '3', '--drop', '0.2', '--model-ema', '--resume', 'auto']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    epochs_run.interrupt = 1
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert epochs_run == [0, 1, 2, 0, 1, 2]
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert len(mean_images) == (2 if more else 0), 'once per run'
    assert all(image.shape == (3, 32, 32) for image in mean_images)
