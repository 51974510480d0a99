"""What the flags make of the task, and the warning of a run that does not learn."""
import argparse
import logging

import pytest

import train_timm
from timm_multimix.training.task import warn_if_at_chance, warn_if_teacher_lags


def args_of(**kwargs):
    return argparse.Namespace(**{**dict(mixup_mode='multimix', warmup_epochs=5, num_classes=10), **kwargs})


@pytest.mark.parametrize('top1, epoch, kwargs, warns', [
    (10.1, 5, {}, True),
    (9.0, 50, {}, True),
    (10.1, 4, {}, False),  # still in the warm-up
    (12.0, 5, {}, False),
    (10.1, 5, dict(mixup_mode='batch'), False),
    (0.11, 5, dict(num_classes=1000), True),
    (1.0, 5, dict(num_classes=1000), False),
])
def test_warning_at_chance(top1, epoch, kwargs, warns, caplog):
    assert warn_if_at_chance(args_of(**kwargs), epoch, dict(top1=top1), 50_000) == warns
    assert ('--multimix-alpha' in caplog.text) == warns


@pytest.mark.parametrize('decay, warmup, updates, warns', [
    (0.999, None, 1_000, True),
    (0.999, True, 1_000, False),
    (0.99, None, 1_560, False),
    (0.999, None, 100_000, False),
    (1., None, 10 ** 6, True),
    (None, None, 10, False),
])
def test_warning_of_a_teacher_that_lags(decay, warmup, updates, warns, caplog):
    args = args_of(multimix_teacher_decay=decay, multimix_teacher_warmup=warmup)
    assert warn_if_teacher_lags(args, updates) == warns
    assert ('--multimix-teacher-warmup' in caplog.text) == warns


def test_a_short_run_with_a_teacher_warns(flags, caplog):
    more = ['--mixup-mode', 'multimix', '--multimix-tuples', '8', '--multimix-teacher-decay', '0.9']
    assert train_timm.main([*flags, *more]) == 0
    assert 'of the 6 that this run has' in caplog.text


def test_a_run_that_cannot_learn_warns(flags, caplog):
    """With a learning rate of zero nothing is learnt, and on 3 classes of random guesses it is seen."""
    with caplog.at_level(logging.WARNING):
        assert train_timm.main([*flags, '--mixup-mode', 'multimix', '--multimix-tuples', '8', '--lr', '0']) == 0
    assert 'Not learning: clean train accuracy' in caplog.text
