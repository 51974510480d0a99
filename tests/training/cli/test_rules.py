"""Flags refused for their value, for what they need or exclude, or in combination; and flags that are warned of."""
import logging

import pytest

from tests.training.cli.support import assert_refused, parse, refusal

MULTIMIX = ('--mixup-mode', 'multimix')
MIXUPE = ('--mixup-mode', 'mixupe')
DECAY = ('--multimix-teacher-decay', '0.9')


def test_values_out_of_range_are_refused(capsys):
    assert_refused(capsys, [
        (['--batch-size', '0'], '--batch-size must be >= 1, got 0'),
        (['--epochs', '0'], '--epochs must be >= 1'),
        (['--mixup-prob', '1.5'], '--mixup-prob must be in [0, 1], got 1.5'),
        (['--smoothing', '-0.1'], '--smoothing must be in [0, 1]'),
        (['--mixup', '-1'], '--mixup must be >= 0, got -1.0'),
        (['--num-classes', '0'], '--num-classes must be >= 1, got 0'),
        (['--num-classes', '1'], '--num-classes: cross-entropy needs at least 2 classes'),
        (['--num-classes', '1', '--loss', 'poly'], 'for one class use binary cross-entropy: --bce-loss'),
        (['--lr-base-size', '0'], '--lr-base-size must be >= 1, got 0'),
        (['--drop-path', '2'], '--drop-path must be in [0, 1), got 2.0'),
        (['--model-ema-decay', '2'], '--model-ema-decay must be in [0, 1], got 2.0'),
        (['--hflip', '2'], '--hflip must be in [0, 1], got 2.0'),
        (['--lr', 'nan'], '--lr must be >= 0, got nan'),
        (['--scale', '1', '0.5'], '--scale must be two numbers, 0 < low <= high, got [1.0, 0.5]'),
        (['--ratio', '2'], '--ratio must be two numbers'),
        (['--seed', '-1'], '--seed must be from 0'),
        (['--crop-pct', '-1'], '--crop-pct must be > 0, got -1.0'),
        (['--mixup', '1', '--cutmix-minmax', '0.5'], '--cutmix-minmax must be two numbers'),
        (['--train-img-sizes', '32', '0'], '--train-img-sizes must be >= 1, got [32, 0]'),
        (['--train-img-sizes', '32', '64', '--train-size-probs', '-1', '2'], '--train-size-probs must be >= 0'),
        (['--aug-splits', '1'], '--aug-splits must be 0 or at least 2, got 1'),
        (['--workers', '-1'], '--workers must be >= 0, got -1'),
        (['--kd-temperature', '0'], '--kd-temperature must be > 0, got 0.0'),
        (['--head-init-bias', 'nan'], '--head-init-bias must be a finite number, got nan'),
    ])


def test_values_of_our_flags_out_of_range_are_refused(capsys):
    """By the library, whose messages then name the flag."""
    assert_refused(capsys, [
        ([*MULTIMIX, '--multimix-alpha', '0'], '--multimix-alpha must be > 0, got 0.0'),
        ([*MULTIMIX, '--multimix-alpha', '2', '1'], '--multimix-alpha must be a number > 0 or a range (low, high)'),
        ([*MULTIMIX, '--multimix-alpha', '0', '1'], '--multimix-alpha must be > 0, got 0.0'),
        ([*MULTIMIX, '--multimix-alpha', '1', '2', '3'], 'got (1.0, 2.0, 3.0)'),
        ([*MULTIMIX, '--multimix-tuples', '0'], '--multimix-tuples must be >= 1, got 0'),
        ([*MULTIMIX, '--multimix-clean-weight', '1001'], '--multimix-clean-weight must be >= 0 and <= 1000, got 1001'),
        ([*MULTIMIX, '--multimix-teacher-decay', '1.5'], '--multimix-teacher-decay must be >= 0 and <= 1, got 1.5'),
        ([*MULTIMIX, '--multimix-strength', '-1'], '--multimix-strength must be >= 0 and <= 1, got -1.0'),
        ([*MULTIMIX, '--multimix-strength', 'auto', '--task', 'multilabel'], '--multimix-strength must be a number'),
        ([*MIXUPE, '--mixupe-eta', '-1'], '--mixupe-eta must be >= 0, got -1.0'),
        ([*MIXUPE, '--mixupe-threshold', 'nan'], '--mixupe-threshold must be a finite number, got nan'),
    ])


def test_unknown_choices_are_refused(capsys):
    assert_refused(capsys, [
        (['--mixup-mode', 'x'], "argument --mixup-mode: invalid choice: 'x' (choose from "),
        (['--input-img-mode', 'P'], "argument --input-img-mode: invalid choice: 'P' (choose from "),
        (['--val-split', ''], "--val-split must name a split to validate on, got ''"),
        (['--eval-metric', 'top3'],
            "--eval-metric must be one of 'loss', 'top1', 'top5' with --task classification, got 'top3'"),
        (['--task', 'multilabel', '--eval-metric', 'top5'], "--eval-metric must be one of 'loss', 'map'"),
    ])


def test_a_flag_without_what_it_needs_is_refused(capsys):
    dense = "needs --mixup-mode dense-multimix, got 'multimix'"
    assert_refused(capsys, [
        (['--multimix-tuples', '10'], "--multimix-tuples needs --mixup-mode multimix or dense-multimix, got 'batch'"),
        ([*MULTIMIX, '--multimix-attention', 'cam'], f'--multimix-attention {dense}'),
        ([*MULTIMIX, '--multimix-activation', 'relu'], f'--multimix-activation {dense}'),
        (DECAY, '--multimix-teacher-decay needs --mixup-mode multimix'),
        (['--multimix-single-view'], '--multimix-single-view needs --mixup-mode multimix'),
        ([*MULTIMIX, '--multimix-gamma', '0'], '--multimix-gamma needs --multimix-teacher-decay, which turns'),
        ([*MULTIMIX, '--multimix-single-view'], '--multimix-single-view needs --multimix-teacher-decay'),
        ([*MULTIMIX, '--multimix-teacher-warmup'], '--multimix-teacher-warmup needs --multimix-teacher-'),
        ([*MULTIMIX, '--multimix-input-prob', '0.2'],
            '--multimix-input-prob needs --mixup, --cutmix or --cutmix-minmax, which mix the images'),
        ([*MULTIMIX, *DECAY, '--task', 'multilabel'], "--multimix-teacher-decay needs --task classification, got 'mul"),
        (['--mixupe-eta', '0.1'], "--mixupe-eta needs --mixup-mode mixupe, got 'batch'"),
        ([*MULTIMIX, '--mixupe-exact'], "--mixupe-exact needs --mixup-mode mixupe, got 'multimix'"),
        ([*MULTIMIX, '--mixupe-threshold', '0'], "--mixupe-threshold needs --mixup-mode mixupe, got 'multimix'"),
        ([*MIXUPE, *DECAY], '--multimix-teacher-decay needs --mixup-mode'),
        (['--task', 'multilabel', '--kd-model-name', 'resnet18'], '--kd-model-name needs --task classification'),
        (['--target-format', 'multihot'], "--target-format multihot needs --task multilabel, got 'classification'"),
        (['--split-bn'], '--split-bn needs --aug-splits or --resplit'),
        (['--jsd-loss'], '--jsd-loss needs --aug-splits of 2 or more, got 0'),
        (['--resume', 'auto'], '--resume auto needs --experiment'),
        (['--wandb-resume-id', 'x'], '--wandb-resume-id needs --resume, because it belongs to the resumed run'),
    ])


def test_flags_that_exclude_each_other_are_refused(capsys):
    assert_refused(capsys, [
        ([*MULTIMIX, '--naflex-loader'], '--naflex-loader does not go with --mixup-mode multimix: its batches'),
        ([*MULTIMIX, '--aug-splits', '3'], '--aug-splits does not go with --mixup-mode multimix'),
        ([*MULTIMIX, '--torchscript'], '--torchscript does not go with --mixup-mode multimix'),
        ([*MULTIMIX, '--kd-model-name', 'resnet18'], '--kd-model-name does not go with --mixup-mode multimix'),
        ([*MULTIMIX, '--jsd-loss'], '--jsd-loss does not go with --mixup-mode multimix'),
        ([*MULTIMIX, '--split-bn', '--resplit'], '--split-bn does not go with --mixup-mode multimix'),
        ([*MIXUPE, '--cutmix', '1'], '--cutmix does not go with --mixup-mode mixupe: it has no CutMix'),
        ([*MIXUPE, '--cutmix-minmax', '0.2', '0.5'], '--cutmix-minmax does not go with --mixup-mode mixupe'),
        ([*MIXUPE, '--mixupe-exact', '--torchcompile'], '--mixupe-exact does not go with --torchcompile'),
        ([*MIXUPE, '--mixupe-exact', '--grad-checkpointing'], 'does not go with --grad-checkpointing'),
        ([*MIXUPE, '--mixupe-residual-grad', '--mixupe-exact'], 'does not go with --mixupe-exact'),
        ([*MIXUPE, '--mixupe-exact', '--sync-bn'], '--mixupe-exact does not go with --sync-bn'),
        ([*MIXUPE, '--mixupe-exact', '--train-img-sizes', '32', '64'], 'not go with --train-img-sizes'),
        ([*MULTIMIX, '--multimix-paper', '--multimix-clean-weight', '1'],
            '--multimix-paper does not go with --multimix-clean-weight: it sets that'),
        (['--amp', '--model-dtype', 'bfloat16'], '--amp does not go with --model-dtype bfloat16: it needs weights of'),
        (['--loss', 'ce', '--bce-loss'], '--bce-loss does not go with --loss: both choose the criterion'),
        (['--opt', 'adahessian', '--sync-bn'], '--sync-bn does not go with --opt adahessian'),
        ([*MIXUPE, '--opt', 'adahessian', '--mixupe-exact'], '--mixupe-exact does not go with --opt adahessian'),
        ([*MULTIMIX, '--opt', 'adahessian', '--multimix-implementation', 'chunked'],
            '--multimix-implementation must be reference with --opt adahessian, which needs second derivatives, got '),
        (['--aug-splits', '2', '--mixup', '1'], '--aug-splits does not go with --mixup'),
        (['--no-aug', '--aug-splits', '2'], '--no-aug does not go with --aug-splits'),
        (['--aug-splits', '2', '--no-prefetcher'], '--aug-splits does not go with --no-prefetcher'),
        (['--split-bn', '--resplit', '--sync-bn'], '--split-bn does not go with --sync-bn'),
        (['--torchscript', '--torchcompile'], '--torchscript does not go with --torchcompile'),
        (['--torchscript', '--sync-bn'], '--torchscript does not go with --sync-bn'),
        (['--torchscript', '--grad-checkpointing'], '--torchscript does not go with --grad-checkpointing'),
        (['--kd-model-name', 'resnet18', '--naflex-loader'], '--kd-model-name does not go with --naflex-loader'),
        (['--kd-model-name', 'resnet18', '--aug-splits', '2'], '--kd-model-name does not go with --aug-splits'),
        (['--train-img-sizes', '32', '--naflex-loader'], '--train-img-sizes does not go with --naflex-loader'),
        (['--train-img-sizes', '32', '--aug-repeats', '2'], '--train-img-sizes does not go with --aug-repeats'),
        (['--naflex-loader', '--channels-last'], '--naflex-loader does not go with --channels-last'),
        (['--naflex-loader', '--cutmix-minmax', '0.2', '0.5'], '--naflex-loader does not go with --cutmix-minmax'),
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


def test_sizes_that_agree_are_accepted():
    assert parse('--input-size', '3', '32', '32', '--img-size', '32', '--in-chans', '3').img_size == 32


def test_data_must_be_exactly_one_folder(capsys):
    assert '--data-dir' in refusal(capsys, [])
    assert 'two folders of data: a and --data-dir b' in refusal(capsys, ['a', '--data-dir', 'b'])
    assert parse('a', '--data-dir', 'a').data == 'a'


def warnings(caplog, flags):
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'train'):
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


@pytest.mark.parametrize('mode', ['multimix', 'mixupe'])
def test_odd_batches_are_accepted_in_our_modes(mode):
    assert parse('--mixup-mode', mode, '--mixup', '1', '-b', '7').batch_size == 7
