"""Warnings of runs that do not learn and of averages that lag."""
import argparse

import numpy as np
import pytest
from timm.data import create_dataset
from torch.utils.data import IterableDataset

import train_timm
from tests.training.cli.support import parse
from timm_multimix.training.data.digits import Digits
from timm_multimix.training.data.sample_seeds import SeededSamples
from timm_multimix.training.diagnostics import chance_level, gradient_kept, warn_if_at_chance, warn_if_averages_lag


def args_of(**kwargs):
    return argparse.Namespace(**{**vars(parse('--mixup-mode', 'multimix', '--batch-size', '128')), **kwargs})


@pytest.mark.parametrize('top1, epoch, kwargs, num_images, chance, warns', [
    (10.1, 5, {}, 50_000, 0.1, True),
    (9.0, 50, {}, 50_000, 0.1, True),
    (10.1, 4, {}, 50_000, 0.1, False),  # still in the warm-up
    (12.0, 5, {}, 50_000, 0.1, False),
    (10.1, 5, dict(mixup_mode='batch'), 50_000, 0.1, False),
    (0.11, 5, {}, 50_000, 0.001, True),
    (1.0, 5, {}, 50_000, 0.001, False),
    (43.75, 0, dict(warmup_epochs=0), 32, 1 / 3, False),  # a mean that includes the very beginning
    (49., 1, dict(warmup_epochs=0), 32, 1 / 3, True),  # within what chance gives on so few images
    (51., 1, dict(warmup_epochs=0), 32, 1 / 3, False),
    (60.0, 5, {}, 50_000, 0.6, True),  # always the most frequent of 3 classes
    (64.0, 5, {}, 50_000, 0.6, False),
])
def test_warning_at_chance(top1, epoch, kwargs, num_images, chance, warns, caplog):
    assert warn_if_at_chance(args_of(**kwargs), epoch, top1, num_images, lambda: chance) == warns
    assert ('83.3 % of the gradient' in caplog.text) == warns


@pytest.mark.parametrize('kwargs, kept, advice', [
    (dict(multimix_paper=True), 1 / 161, '--multimix-clean-weight'),  # 128 examples of 0.5 to 2
    (dict(multimix_clean_weight=0.), 1 / 3, '--multimix-clean-weight'),
    (dict(multimix_concentration='example', multimix_length=2), (1 / 5 + 3) / 4, '--mixup-mode batch'),
    (dict(multimix_strength='auto', multimix_paper=True), 1., '--mixup-mode batch'),
])
def test_mixing_is_blamed_only_where_plain_training_would_learn(kwargs, kept, advice, caplog):
    args = args_of(**kwargs)
    assert gradient_kept(args) == pytest.approx(kept)
    assert warn_if_at_chance(args, 5, 10., 50_000, lambda: 0.1)
    assert advice in caplog.text


@pytest.mark.parametrize('decay, warmup, updates, warns', [
    (0.999, None, 1_000, True),
    (0.999, True, 1_000, False),
    (0.99, None, 1_560, False),
    (0.999, None, 100_000, False),
    (1., None, 10 ** 6, True),
    (None, None, 10, False),
])
def test_warning_of_averages_that_lag(decay, warmup, updates, warns, caplog):
    args = args_of(multimix_teacher_decay=decay, multimix_teacher_warmup=warmup)
    assert warn_if_averages_lag(args, updates) == warns
    assert ('--multimix-teacher-warmup' in caplog.text) == warns
    if decay is not None:
        caplog.clear()
        args = args_of(model_ema=True, model_ema_decay=decay, model_ema_warmup=bool(warmup))
        assert warn_if_averages_lag(args, updates) == warns
        assert ('Give --model-ema-warmup, or a lower --model-ema-decay' in caplog.text) == warns


def test_chance_is_the_share_of_the_most_frequent_class(image_folder):
    dataset = create_dataset('', root=str(image_folder), split='train')
    assert chance_level(dataset, 3) == pytest.approx(1 / 3)
    samples = dataset.reader.samples
    dataset.reader.samples = samples + [sample for sample in samples if sample[1] == 2] * 2
    assert chance_level(SeededSamples(dataset, 0), 3) == pytest.approx(3 / 5)
    assert chance_level(Digits('train'), 10) == pytest.approx(np.bincount(Digits('train').targets).max() / 1198)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    assert chance_level(Stream(), 4) == 0.25
    dataset.reader.samples = [('image', [0, 1]), ('image', [1])]
    assert chance_level(dataset, 4) == 0.25


def test_a_run_that_cannot_learn_or_has_averages_that_lag_warns(flags, caplog):
    """With a learning rate of zero nothing is learnt, which shows even against chance on 3 classes."""
    more = ['--mixup-mode', 'multimix', '--multimix-tuples', '8', '--multimix-teacher-decay', '0.9', '--model-ema']
    assert train_timm.main([*flags, *more, '--lr', '0']) == 0
    assert 'Not learning: clean train accuracy' in caplog.text
    assert 'The teacher spans about 1 / (1 - 0.9) updates, but this run has 6: ' in caplog.text
    assert 'The average of --model-ema spans about 1 / (1 - 0.9998) updates, but this run has 6: ' in caplog.text
