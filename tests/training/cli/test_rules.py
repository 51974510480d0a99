"""Flags refused for their value or its form, for what they need or exclude, or in combination; and warnings."""
import itertools

import pytest

from tests.training.cli.support import assert_refused, parse, refusal
from timm_multimix.training.cli.flags import FLAGS, SHARE

MULTIMIX = ('--mixup-mode', 'multimix')
MIXUPE = ('--mixup-mode', 'mixupe')
DECAY = ('--multimix-teacher-decay', '0.9')


def test_values_out_of_range_are_refused(capsys):
    assert_refused(capsys, [
        (['--batch-size', '0'], '--batch-size must be >= 1, got 0'),
        (['--mixup-prob', '1.5'], '--mixup-prob must be in [0, 1], got 1.5'),
        (['--smoothing', '-0.1'], '--smoothing must be in [0, 1]'),
        (['--mixup', '-1'], '--mixup must be >= 0, got -1.0'),
        (['--num-classes', '1'], '--num-classes: cross-entropy needs at least 2 classes'),
        (['--num-classes', '1', '--loss', 'poly'], 'for one class use binary cross-entropy: --bce-loss'),
        (['--drop-path', '2'], '--drop-path must be in [0, 1), got 2.0'),
        (['--scale', '1', '0.5'], '--scale must be two numbers, 0 < low <= high, got [1.0, 0.5]'),
        (['--ratio', '2'], '--ratio must be two numbers'),
        (['--seed', '-1'], '--seed must be from 0'),
        (['--crop-pct', '-1'], '--crop-pct must be > 0, got -1.0'),
        (['--mixup', '1', '--cutmix-minmax', '0.5'], '--cutmix-minmax must be two numbers'),
        (['--train-img-sizes', '32', '0'], '--train-img-sizes must be >= 1, got [32, 0]'),
        (['--train-img-sizes', '32', '64', '--train-size-probs', '-1', '2'], '--train-size-probs must be >= 0'),
        (['--aug-splits', '1'], '--aug-splits must be 0 or at least 2, got 1'),
        (['--workers', '-1'], '--workers must be >= 0, got -1'),
    ])


def test_values_of_our_flags_out_of_range_are_refused(capsys):
    """By the library, whose messages then name the flag."""
    assert_refused(capsys, [
        ([*MULTIMIX, '--multimix-alpha', '0'], '--multimix-alpha must be > 0, got 0.0'),
        ([*MULTIMIX, '--multimix-alpha', '2', '1'], '--multimix-alpha must be a number > 0 or a range (low, high)'),
        ([*MULTIMIX, '--multimix-alpha', '1', '2', '3'], 'got (1.0, 2.0, 3.0)'),
        ([*MULTIMIX, '--multimix-tuples', '0'], '--multimix-tuples must be >= 1, got 0'),
        ([*MULTIMIX, '--multimix-teacher-decay', '1.5'], '--multimix-teacher-decay must be >= 0 and <= 1, got 1.5'),
        ([*MULTIMIX, '--multimix-strength', 'auto', '--task', 'multilabel'], '--multimix-strength must be a number'),
        ([*MULTIMIX, '--multimix-strength', 'on'], "--multimix-strength: must be a number from 0 to 1 or 'auto', got"),
        ([*MIXUPE, '--mixupe-eta', '-1'], '--mixupe-eta must be >= 0, got -1.0'),
    ])


def test_unknown_choices_are_refused(capsys):
    assert_refused(capsys, [
        (['--val-split', ''], "--val-split must name a split to validate on, got ''"),
        (['--eval-metric', 'top3'],
            "--eval-metric must be one of 'loss', 'top1', 'top5' with --task classification, got 'top3'"),
        (['--task', 'multilabel', '--eval-metric', 'top5'], "--eval-metric must be one of 'loss', 'map'"),
    ])


def test_flags_without_what_they_need_are_refused(capsys):
    """One of every form; every flag of the table is tried below."""
    assert_refused(capsys, [
        (['--multimix-tuples', '10'], "--multimix-tuples needs --mixup-mode multimix or dense-multimix, got 'batch'"),
        ([*MULTIMIX, '--multimix-gamma', '0'], '--multimix-gamma needs --multimix-teacher-decay, which turns'),
        ([*MULTIMIX, '--multimix-input-prob', '0.2'],
            '--multimix-input-prob needs --mixup, --cutmix or --cutmix-minmax, which mix the images'),
        ([*MULTIMIX, *DECAY, '--task', 'multilabel'], "--multimix-teacher-decay needs --task classification, got 'mul"),
        (['--task', 'multilabel', '--kd-model-name', 'resnet18'], '--kd-model-name needs --task classification'),
        (['--target-format', 'multihot'], "--target-format multihot needs --task multilabel, got 'classification'"),
        (['--jsd-loss'], '--jsd-loss needs --aug-splits of 2 or more, got 0'),
        (['--resume', 'auto'], '--resume auto needs --experiment'),
        (['--wandb-resume-id', 'x'], '--wandb-resume-id needs --resume, because it belongs to the resumed run'),
    ])


def test_flags_that_exclude_each_other_are_refused(capsys):
    """One of every form; every flag of the table is tried below."""
    assert_refused(capsys, [
        ([*MULTIMIX, '--naflex-loader'], '--naflex-loader does not go with --mixup-mode multimix: its batches'),
        ([*MULTIMIX, '--multimix-paper', '--multimix-clean-weight', '1'],
            '--multimix-paper does not go with --multimix-clean-weight: it sets that'),
        (['--amp', '--model-dtype', 'bfloat16'], '--amp does not go with --model-dtype bfloat16: it needs weights of'),
        (['--opt', 'adahessian', '--sync-bn'], '--sync-bn does not go with --opt adahessian'),
        ([*MIXUPE, '--opt', 'adahessian', '--mixupe-exact'], '--mixupe-exact does not go with --opt adahessian'),
        ([*MULTIMIX, '--opt', 'adahessian', '--multimix-implementation', 'chunked'],
            '--multimix-implementation must be reference with --opt adahessian, which needs second derivatives, got '),
        (['--aug-splits', '2', '--mixup', '1'], '--aug-splits does not go with --mixup'),
    ])


def test_our_flags_that_do_not_fit_together_are_refused(capsys):
    assert_refused(capsys, [
        ([*MULTIMIX, '--multimix-length', '9', '-b', '8'],
            '--multimix-length must be at most the batch size (8), got 9'),
        ([*MULTIMIX, '--multimix-length', '8', '-b', '8', '--train-img-sizes', '32', '--train-batch-sizes', '4'],
            '--multimix-length must be at most the batch size (4), got 8'),
        ([*MULTIMIX, *DECAY, '--loss', 'bce'], '--multimix-teacher-decay needs cross-entropy, got --loss bce'),
        ([*MULTIMIX, *DECAY, '--reprob', '1', '--resplit'], '--resplit does not erase the first of two views'),
        ([*MULTIMIX, *DECAY, '--train-img-sizes', '32'],
            '--train-img-sizes with --multimix-teacher-decay needs --multimix-single-view'),
        ([*MULTIMIX, '--loss', 'asl'], '--loss asl accepts only class indices'),
        ([*MIXUPE, '--bce-loss'], '--mixup-mode mixupe needs cross-entropy, got --loss bce'),
        ([*MIXUPE, '--task', 'multilabel'], '--mixup-mode mixupe needs cross-entropy, got --loss bce'),
        (['--mixup', '1', '-b', '7'], '--batch-size must be even with --mixup-mode batch, got [7]'),
    ])


def test_timms_flags_that_do_not_fit_together_are_refused(capsys):
    assert_refused(capsys, [
        (['--in-chans', '1', '--input-size', '3', '32', '32'], '--in-chans must match --input-size (3), got 1'),
        (['--input-size', '3', '32', '32', '--img-size', '48'],
            '--img-size must match --input-size (32 x 32), got 48'),
        (['--input-size', '3', '32', '48', '--img-size', '32'],
            '--img-size must match --input-size (32 x 48), got 32'),
        (['--mean', '0.5', '0.5'], '--mean must be 1 or 3 numbers'),
        (['--std', '0', '0', '0'], 'std > 0'),
        (['--task', 'multilabel', '--loss', 'ce'], '--task multilabel needs one of the losses bce'),
        (['--loss', 'db', '--task', 'multilabel'], '--loss db needs the counts of the classes'),
        (['--loss', 'zlpr', '--task', 'multilabel', '--mixup', '1'], '--loss zlpr accepts only labels of 0 and 1'),
        (['--tta', '-1'], '--tta must be from 0 to the validation batch size (128), got -1'),
        (['--tta', '9', '-b', '8'], '--tta must be from 0 to the validation batch size (8), got 9'),
        (['--train-img-sizes', '32', '64', '--train-size-probs', '1'],
            '--train-size-probs must have one value for each'),
        (['--train-img-sizes', '32', '64', '--train-batch-sizes', '8', '7', '--mixup', '1'],
            '--train-batch-sizes must be even'),
    ])


def test_data_must_be_exactly_one_folder(capsys):
    assert '--data-dir' in refusal(capsys, [])
    assert 'two folders of data: a and --data-dir b' in refusal(capsys, ['a', '--data-dir', 'b'])
    assert parse('a', '--data-dir', 'a').data == 'a'


def warnings(caplog, flags):
    caplog.clear()
    parse(*flags)
    return [record.getMessage() for record in caplog.records]


def test_a_mixing_flag_that_has_no_effect_is_warned_of(caplog):
    without, both = 'without --mixup, --cutmix or --cutmix-minmax', 'without both --mixup and --cutmix'
    for flags, message in [
            (['--mixup-prob', '0.5'], f'--mixup-prob has no effect {without}.'),
            (['--mixup-mode', 'elem'], f'--mixup-mode has no effect {without}.'),
            (['--mixup', '1', '--mixup-switch-prob', '0.3'], f'--mixup-switch-prob has no effect {both}.'),
            ([*MULTIMIX, '--mixup-switch-prob', '0.3'], f'--mixup-switch-prob has no effect {both}.'),
            ([*MIXUPE, '--mixup-switch-prob', '0.3'], f'--mixup-switch-prob has no effect {both}.'),
    ]:
        assert warnings(caplog, flags) == [message]
    assert warnings(caplog, ['--cutmix-minmax', '0.2', '0.5', '--mixup-switch-prob', '0.3', '--mixup', '1']) == []
    assert warnings(caplog, [*MULTIMIX, '--mixup-prob', '0.5', '--mixup-off-epoch', '3']) == []


def given(flag, value=None):
    """Give a flag, with a value that differs from its default."""
    if flag.is_switch:
        return [flag.name]
    if value is None:
        value = flag.choices[-1] if flag.choices else 0.5 if flag.allowed is SHARE else 2
    return [flag.name, '0.2', '0.5'] if flag.dest == 'cutmix_minmax' else [flag.name, str(value)]


def fulfilled(flag):
    """Give what a flag needs."""
    needed = [(FLAGS[need.names[-1]], need.values[0] if need.values else None) for need in flag.needs]
    return [word for other, value in needed for word in [*fulfilled(other), *given(other, value)]]


@pytest.mark.parametrize('flag', ids=lambda f: f.dest, argvalues=[
    flag for flag in FLAGS.values()
    if any(FLAGS[condition.names[0]].default not in condition.values for condition in flag.needs)])
def test_a_flag_without_what_it_needs_is_refused(flag, capsys):
    line = refusal(capsys, ['--dataset', 'digits', *given(flag)])
    assert flag.name in line and (' needs ' in line or ' must ' in line)


@pytest.mark.parametrize('flag', [flag for flag in FLAGS.values() if flag.excludes], ids=lambda f: f.dest)
def test_a_flag_with_one_that_it_excludes_is_refused(flag, capsys):
    for condition in flag.excludes:
        for other, value in itertools.product(map(FLAGS.get, condition.names), condition.values or [None]):
            argv = [*fulfilled(flag), *given(flag), *fulfilled(other), *given(other, value)]
            assert f'{flag.name} does not go with {other.name}' in refusal(capsys, ['--dataset', 'digits', *argv]), argv


@pytest.mark.parametrize('flag', [f for f in FLAGS.values() if not f.is_positional], ids=lambda f: f.dest)
def test_a_value_of_another_form_is_refused(flag, capsys):
    values = {
        'a number': (['x'], flag.type in (int, float) or flag.dest == 'multimix_strength'),
        'a choice': (['x'], flag.choices),
        'key=value': (['x'], flag.takes_names),
        'nothing': ([], not flag.is_switch and flag.nargs not in ('?', '*')),
        'a value after a switch': (['x', 'y'], flag.is_switch),  # a single one would be the folder
        'two values': (['1', '2', 'x', 'y'], flag.nargs is None and not flag.is_switch and flag.dest != 'config'),
    }
    for wrong, is_wrong in values.values():
        if is_wrong:
            assert '--help lists the flags' in refusal(capsys, [flag.name, *wrong])
