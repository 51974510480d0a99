"""Flags refused for their value, for what they need or exclude, or in combination; and flags that are warned of."""
import logging

import pytest

from tests.training.cli.support import assert_refused, parse, refusal
from timm_multimix.training.cli.parser import FLAGS

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
        (['--model-dtype', 'int8'], "--model-dtype must be one of 'float32', 'bfloat16', 'float16', got 'int8'"),
        (['--crop-pct', '-1'], '--crop-pct must be > 0, got -1.0'),
        (['--mixup', '1', '--cutmix-minmax', '0.5'], '--cutmix-minmax must be two numbers'),
        (['--stop-epoch', '0'], '--stop-epoch must be >= 1, got 0'),
        (['--train-img-sizes', '32', '0'], '--train-img-sizes must be >= 1, got [32, 0]'),
        (['--train-img-sizes', '32', '64', '--train-size-probs', '-1', '2'], '--train-size-probs must be >= 0'),
        (['--aug-splits', '1'], '--aug-splits must be 0 or at least 2, got 1'),
        (['--workers', '-1'], '--workers must be >= 0, got -1'),
        (['--kd-temperature', '0'], '--kd-temperature must be > 0, got 0.0'),
        (['--head-init-bias', 'nan'], '--head-init-bias must be a finite number, got nan'),
    ])


def test_values_of_our_flags_out_of_range_are_refused(capsys):
    alpha = '--multimix-alpha must be one number > 0, or a range of two, 0 < low <= high, got '
    assert_refused(capsys, [
        ([*MULTIMIX, '--multimix-alpha', '0'], f'{alpha}[0.0]'),
        ([*MULTIMIX, '--multimix-alpha', '-1'], f'{alpha}[-1.0]'),
        ([*MULTIMIX, '--multimix-alpha', '2', '1'], f'{alpha}[2.0, 1.0]'),
        ([*MULTIMIX, '--multimix-alpha', '1', '2', '3'], f'{alpha}[1.0, 2.0, 3.0]'),
        ([*MULTIMIX, '--multimix-clean-weight', '1001'], '--multimix-clean-weight must be in [0, 1000], got 1001.0'),
        ([*MULTIMIX, '--multimix-teacher-decay', '1.5'], '--multimix-teacher-decay must be in [0, 1]'),
        ([*MULTIMIX, *DECAY, '--multimix-gamma', '-1'], '--multimix-gamma must be in [0, 1]'),
        ([*MIXUPE, '--mixupe-eta', '-1'], '--mixupe-eta must be >= 0, got -1.0'),
        ([*MIXUPE, '--mixupe-threshold', 'nan'], '--mixupe-threshold must be a finite number, got nan'),
    ])


def test_unknown_choices_are_refused(capsys):
    assert_refused(capsys, [
        (['--mixup-mode', 'multymix'], "invalid choice: 'multymix'"),
        (['--loss', 'hinge'], "invalid choice: 'hinge'"),
        (['--amp', '--amp-dtype', 'float8'], "--amp-dtype must be one of 'float16', 'bfloat16', got 'float8'"),
        (['--clip-mode', 'soft'], "--clip-mode must be one of 'norm', 'value', 'agc', got 'soft'"),
        (['--remode', 'blue'], '--remode must be one of'),
        (['--train-crop-mode', 'x'], '--train-crop-mode must be one of'),
        (['--interpolation', 'x'], '--interpolation must be one of'),
        (['--interpolation', 'random'], '--interpolation must be one of'),
        (['--lr-base-scale', 'cubic'], "--lr-base-scale must be one of '', 'linear', 'sqrt', got 'cubic'"),
        (['--dist-bn', 'x'], '--dist-bn must be one of'),
        (['--input-img-mode', 'x'], '--input-img-mode must be one of'),
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
        (['--bce-sum'], "--bce-sum needs --bce-loss, the criterion is 'ce'"),
        (['--bce-target-thresh', '0'], "--bce-target-thresh needs --bce-loss, the criterion is 'ce'"),
        (['--loss', 'poly', '--bce-target-thresh', '0.2'],
            "--bce-target-thresh needs --bce-loss, the criterion is 'poly'"),
        (['--jsd-loss'], '--jsd-loss needs --aug-splits of 2 or more, got 0'),
        (['--resume', 'auto'], '--resume auto needs --experiment'),
        (['--log-wandb', '--wandb-resume-id', 'x'], '--wandb-resume-id needs --resume'),
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
        ([*MIXUPE, '--mixupe-exact', '--sync-bn'], '--mixupe-exact does not go with --sync-bn'),
        ([*MIXUPE, '--mixupe-exact', '--train-img-sizes', '32', '64'], 'not go with --train-img-sizes'),
        (['--aug-splits', '2', '--mixup', '1'], '--aug-splits does not go with --mixup'),
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
        ([*MULTIMIX, '--multimix-paper', '--multimix-alpha', '1'],
            '--multimix-alpha is set by --multimix-paper; give one of them'),
        ([*MULTIMIX, '--multimix-paper', '--multimix-clean-weight', '1'],
            '--multimix-clean-weight is set by --multimix-paper; give one of them'),
        ([*MULTIMIX, '--multimix-strength', 'auto', '--task', 'multilabel'],
            '--multimix-strength auto needs --task classification: it follows top-1 accuracy'),
        ([*MULTIMIX, '--multimix-length', '9', '-b', '8'],
            '--multimix-length must be at most the batch size (8), got 9'),
        ([*MULTIMIX, '--multimix-length', '8', '-b', '8', '--train-img-sizes', '32', '--train-batch-sizes', '4'],
            '--multimix-length must be at most the smallest batch (4), got 8'),
        ([*MULTIMIX, *DECAY, '--bce-loss'], '--multimix-teacher-decay needs cross-entropy, got --bce-loss'),
        ([*MULTIMIX, *DECAY, '--loss', 'bce'], '--multimix-teacher-decay needs cross-entropy, got --loss bce'),
        ([*MULTIMIX, *DECAY, '--reprob', '1', '--resplit'], '--resplit does not erase the first of two views'),
        ([*MULTIMIX, *DECAY, '--train-img-sizes', '32'],
            '--train-img-sizes with --multimix-teacher-decay needs --multimix-single-view'),
        ([*MULTIMIX, '--loss', 'asl'], '--loss asl accepts only class indices'),
        ([*MIXUPE, '--bce-loss'], '--mixup-mode mixupe needs cross-entropy, got --bce-loss'),
        ([*MIXUPE, '--task', 'multilabel'], "--mixup-mode mixupe needs --task classification, got 'multilabel'"),
        (['--mixup', '1', '-b', '7'], '--batch-size must be even with --mixup-mode batch, got 7'),
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
        (['--amp', '--model-dtype', 'bfloat16'], "--model-dtype must be float32 with --amp, got 'bfloat16'"),
        (['--loss', 'ce', '--bce-loss'], '--loss and --bce-loss both choose the criterion'),
        (['--task', 'multilabel', '--loss', 'ce'], '--task multilabel needs one of the losses bce'),
        (['--loss', 'db', '--task', 'multilabel'], '--loss db needs the counts of the classes'),
        (['--loss', 'zlpr', '--task', 'multilabel', '--mixup', '1'], '--loss zlpr accepts only labels of 0 and 1'),
        (['--tta', '-1'], '--tta must be from 0 to the validation batch size (128), got -1'),
        (['--tta', '9', '-b', '8'], '--tta must be from 0 to the validation batch size (8), got 9'),
        (['--stop-epoch', '9', '--epochs', '8'], '--stop-epoch must be at most the 8 epochs of the schedule, got 9'),
        (['--save-epochs', '5', '11', '--epochs', '10'], '--save-epochs must be from 1 to the 10 epochs'),
        (['--train-img-sizes', '32', '64', '--train-size-probs', '1'],
            '--train-size-probs must have one value for each'),
        (['--train-img-sizes', '32', '--train-batch-sizes', '7', '--mixup', '1'], '--train-batch-sizes must be even'),
    ])


def test_sizes_that_agree_are_accepted():
    assert parse('--input-size', '3', '32', '32', '--img-size', '32', '--in-chans', '3').img_size == 32


def test_data_must_be_exactly_one_folder(capsys):
    assert '--data-dir' in refusal(capsys, [])
    assert 'two folders of data: a and --data-dir b' in refusal(capsys, ['a', '--data-dir', 'b'])
    assert parse('a', '--data-dir', 'a').data == 'a'


@pytest.mark.parametrize('name', ['needs', 'excludes', 'used_with', 'unused_with'])
def test_declarations_name_existing_flags(name):
    for flag in FLAGS.values():
        declared = getattr(flag, name)
        for condition in declared if isinstance(declared, tuple) else [declared]:
            for other in getattr(condition, 'names', ()):
                assert set(getattr(condition, 'values', ())) <= set(FLAGS[other].choices or condition.values), flag


def warnings(caplog, flags):
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'train'):
        parse(*flags)
    return [record.getMessage() for record in caplog.records]


def test_a_flag_that_has_no_effect_is_warned_of(caplog):
    mixing = 'without --mixup, --cutmix or --cutmix-minmax'
    for flags, message in [
            (['--amp-dtype', 'bfloat16'], '--amp-dtype has no effect without --amp.'),
            (['--model-ema-decay', '0.99'], '--model-ema-decay has no effect without --model-ema.'),
            (['--torchcompile-mode', 'default'], '--torchcompile-mode has no effect without --torchcompile.'),
            (['--kd-temperature', '2'], '--kd-temperature has no effect without --kd-model-name.'),
            (['--train-batch-sizes', '4'], '--train-batch-sizes has no effect without --train-img-sizes.'),
            (['--naflex-max-seq-len', '64'], '--naflex-max-seq-len has no effect without --naflex-loader.'),
            (['--clip-mode', 'agc'], '--clip-mode has no effect without --clip-grad.'),
            (['--mixup-mode', 'mixupe', '--mixup-switch-prob', '0.3'],
             '--mixup-switch-prob has no effect with --mixup-mode mixupe, which has no CutMix.'),
            (['--mixup-prob', '0.5'], f'--mixup-prob has no effect {mixing}.'),
            (['--mixup-mode', 'elem'], f'--mixup-mode has no effect {mixing}.'),
            (['--wandb-project', 'birds'], '--wandb-project has no effect without --log-wandb.'),
            (['--no-resume-opt'], '--no-resume-opt has no effect without --resume.'),
            (['--patience-epochs', '3'], '--patience-epochs has no effect without --sched plateau.'),
            (['--decay-milestones', '3'], '--decay-milestones has no effect without --sched multistep.'),
            (['--lr-noise-std', '3'], '--lr-noise-std has no effect without --lr-noise.'),
            (['--layer-decay-min-scale', '0.1'], '--layer-decay-min-scale has no effect without --layer-decay.'),
            (['--lr', '1', '--lr-base', '0.2'], '--lr-base has no effect with --lr.'),
            (['--no-aug', '--hflip', '0'], '--hflip has no effect with --no-aug.'),
            (['--mixup', '1', '--mixup-switch-prob', '0.3'],
             '--mixup-switch-prob has no effect without both --mixup and --cutmix.'),
            ([*MULTIMIX, '--mixup-switch-prob', '0.3'],
             '--mixup-switch-prob has no effect without both --mixup and --cutmix.'),
    ]:
        assert warnings(caplog, flags) == [message]


def test_flags_with_their_partners_give_no_warning(caplog):
    for flags in (
            ['--amp', '--amp-dtype', 'bfloat16', '--model-ema', '--model-ema-decay', '0.9', '--train-img-sizes', '32'],
            [*MULTIMIX, '--bce-loss', '--bce-target-thresh', '0.2'],
            ['--task', 'multilabel', '--bce-sum'],
            ['--cutmix-minmax', '0.2', '0.5', '--mixup-switch-prob', '0.3', '--mixup', '1'],
            [*MULTIMIX, '--mixup-prob', '0.5', '--mixup-off-epoch', '3'],
            ['--sched', 'plateau', '--patience-epochs', '3', '--reprob', '0.1', '--recount', '2'],
    ):
        assert warnings(caplog, flags) == []


@pytest.mark.parametrize('mode', ['multimix', 'mixupe'])
def test_odd_batches_are_accepted_in_our_modes(mode):
    assert parse('--mixup-mode', mode, '--mixup', '1', '-b', '7').batch_size == 7
