"""Flags that exclude each other, and flags that have no effect alone."""
import logging

import pytest

from timm_multimix.training.cli.parser import parse_args


def parse(*flags):
    return parse_args(['--dataset', 'digits', *flags])[0]


MULTIMIX = ('--mixup-mode', 'multimix')


@pytest.mark.parametrize('flags, message', [
    ([*MULTIMIX, '--naflex-loader'], '--naflex-loader does not go with --mixup-mode multimix'),
    ([*MULTIMIX, '--aug-splits', '3'], '--aug-splits does not go with --mixup-mode multimix'),
    ([*MULTIMIX, '--torchscript'], '--torchscript does not go with --mixup-mode multimix'),
    ([*MULTIMIX, '--kd-model-name', 'resnet18'], '--kd-model-name does not go with --mixup-mode multimix'),
    ([*MULTIMIX, '--loss', 'asl'], '--loss asl takes class indices alone'),
    (['--loss', 'hinge'], "invalid choice: 'hinge'"),
    (['--loss', 'ce', '--bce-loss'], '--loss and --bce-loss both choose the criterion'),
    (['--bce-sum'], "--bce-sum needs --bce-loss, the criterion is 'ce'"),
    (['--loss', 'poly', '--bce-target-thresh', '0.2'], "--bce-target-thresh needs --bce-loss, the criterion is 'poly'"),
    (['--task', 'multilabel', '--loss', 'ce'], '--task multilabel needs one of the losses bce'),
    (['--task', 'multilabel', '--eval-metric', 'top5'], "--eval-metric must be one of 'loss', 'map'"),
    (['--task', 'multilabel', '--kd-model-name', 'resnet18'], '--kd-model-name needs --task classification'),
    (['--target-format', 'multihot'], '--target-format multihot needs --task multilabel, got classification'),
    (['--jsd-loss'], '--jsd-loss needs --aug-splits of 2 or more, got 0'),
    (['--aug-splits', '1'], '--aug-splits must be 0 or at least 2, got 1'),
    (['--aug-splits', '2', '--mixup', '1'], '--aug-splits does not go with --mixup'),
    (['--aug-splits', '2', '--no-prefetcher'], '--aug-splits does not go with --no-prefetcher'),
    (['--split-bn'], '--split-bn needs --aug-splits or --resplit'),
    (['--split-bn', '--resplit', '--sync-bn'], '--split-bn does not go with --sync-bn'),
    (['--torchscript', '--torchcompile'], '--torchscript does not go with --torchcompile'),
    (['--tta', '-1'], '--tta must be from 0 to the validation batch size (128), got -1'),
    (['--stop-epoch', '0'], '--stop-epoch must be >= 1, got 0'),
    (['--save-epochs', '5', '11', '--epochs', '10'], '--save-epochs must be from 1 to the 10 epochs'),
    (['--train-img-sizes', '32', '64', '--train-size-probs', '1'], '--train-size-probs must have one value for each'),
    (['--train-img-sizes', '32', '0'], '--train-img-sizes must be >= 1, got [32, 0]'),
    (['--train-img-sizes', '32', '--naflex-loader'], '--train-img-sizes does not go with --naflex-loader'),
    (['--train-img-sizes', '32', '--train-batch-sizes', '7', '--mixup', '1'], '--train-batch-sizes must be even'),
    ([*MULTIMIX, '--multimix-length', '8', '-b', '8', '--train-img-sizes', '32', '--train-batch-sizes', '4'],
        '--multimix-length must be at most the smallest batch (4), got 8'),
    (['--stop-epoch', '9', '--epochs', '8'], '--stop-epoch must be at most the 8 epochs of the schedule, got 9'),
    (['--tta', '9', '-b', '8'], '--tta must be from 0 to the validation batch size (8), got 9'),
    (['--loss', 'db', '--task', 'multilabel'], '--loss db needs the counts of each class'),
    (['--loss', 'zlpr', '--task', 'multilabel', '--mixup', '1'], '--loss zlpr takes labels of 0 and 1 alone'),
    (['--train-img-sizes', '32', '64', '--train-size-probs', '-1', '2'], '--train-size-probs must be >= 0'),
    (['--log-wandb', '--wandb-resume-id', 'x'], '--wandb-resume-id needs --resume'),
    (['--naflex-loader', '--channels-last'], '--naflex-loader does not go with --channels-last'),
])
def test_what_excludes_each_other_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(*flags)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('flags, message', [
    (['--amp-dtype', 'bfloat16'], '--amp-dtype has no effect without --amp.'),
    (['--model-ema-decay', '0.99'], '--model-ema-decay has no effect without --model-ema.'),
    (['--torchcompile-mode', 'default'], '--torchcompile-mode has no effect without --torchcompile.'),
    (['--kd-temperature', '2'], '--kd-temperature has no effect without --kd-model-name.'),
    (['--train-batch-sizes', '4'], '--train-batch-sizes has no effect without --train-img-sizes.'),
    (['--naflex-max-seq-len', '64'], '--naflex-max-seq-len has no effect without --naflex-loader.'),
    (['--clip-mode', 'agc'], '--clip-mode has no effect without --clip-grad.'),
    (['--mixup-mode', 'mixupe', '--mixup-switch-prob', '0.3'],
     '--mixup-switch-prob has no effect with --mixup-mode mixupe, which is Mixup alone.'),
    (['--mixup-prob', '0.5'], '--mixup-prob has no effect without --mixup, --cutmix or --cutmix-minmax.'),
    (['--mixup-mode', 'elem'], '--mixup-mode has no effect without --mixup, --cutmix or --cutmix-minmax.'),
    (['--wandb-project', 'birds'], '--wandb-project has no effect without --log-wandb.'),
])
def test_a_flag_without_its_partner_is_said_to_have_no_effect(flags, message, caplog):
    with caplog.at_level(logging.WARNING, 'train'):
        parse(*flags)
    assert [record.getMessage() for record in caplog.records] == [message]


def test_flags_with_their_partners_are_taken_in_silence(caplog):
    with caplog.at_level(logging.WARNING, 'train'):
        parse('--amp', '--amp-dtype', 'bfloat16', '--model-ema', '--model-ema-decay', '0.9', '--train-img-sizes', '32')
        parse(*MULTIMIX, '--bce-loss', '--bce-target-thresh', '0.2')
        parse('--task', 'multilabel', '--bce-sum')
        parse('--cutmix-minmax', '0.2', '0.5', '--mixup-switch-prob', '0.3', '--mixup', '1')
    assert not caplog.records


def test_multilabel_runs_are_ranked_by_mean_average_precision():
    assert parse('--task', 'multilabel').eval_metric == 'map'
    assert parse('--task', 'multilabel', '--eval-metric', 'loss').eval_metric == 'loss'
    assert parse().eval_metric == 'top1'
