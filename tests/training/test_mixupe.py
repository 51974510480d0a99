"""Whole runs with MixupE."""
import pytest
import torch

import train_timm
from tests.support.training_states import read
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


@pytest.mark.parametrize('change, old', [
    (['--input-size', '3', '48', '48'], '24 images of [3, 32, 32]'),
    (['--mean', '0', '0', '0', '--std', '1', '1', '1'], 'mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]'),
    (['--train-split', 'validation', '--batch-size', '6'], '24 images'),
], ids=lambda value: value[0] if isinstance(value, list) else '')
def test_the_mean_image_is_estimated_anew_for_other_images_alone(change, old, flags, tmp_path, mean_images, caplog):
    flags = [*flags, *FLAGS, '--mixupe-exact']
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
    assert train_timm.main([*flags, *FLAGS, '--mixup-prob', '0', '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--experiment', 'b']) == 0
    a, b = (read(tmp_path / name / 'last.pth.tar')['state_dict'] for name in 'ab')
    torch.testing.assert_close(dict(a), dict(b), rtol=1e-4, atol=1e-6)
