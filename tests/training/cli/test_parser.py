"""From a command line to arguments; the flags agree with those of timm's script (August 2026)."""
import json
import os

import pytest

from tests.training.cli.support import assert_refused, parse
from timm_multimix.training.cli.flags import FLAGS
from timm_multimix.training.cli.parser import create_parser, parse_args
from timm_multimix.training.schedule import scaled_learning_rate


def test_malformed_flags_are_refused_in_one_line(capsys):
    assert_refused(capsys, [
        (['--unknown-flag'], 'unrecognized arguments: --unknown-flag (--help lists the flags)'),
        (['--epochs', 'many'], "argument --epochs: invalid int value: 'many' (--help lists the flags)"),
        (['--lr'], 'argument --lr: expected one argument'),
        (['--config'], 'argument -c/--config: expected one argument'),
        (['--input-size', '3', '32'], 'argument --input-size: expected 3 arguments'),
        (['--model-kwargs', 'a'], "must be key=value, got 'a'"),
        (['--opt-kwargs', '=1'], "must be key=value, got '=1'"),
        (['folder', 'other'], 'unrecognized arguments: other'),
    ])


def test_help_begins_with_examples_and_our_flags(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_args(['--help'])
    assert exit_info.value.code == 0
    before, after = capsys.readouterr().out.split('MultiMix parameters:\n')
    examples = [line for line in before.splitlines() if 'train_timm.py -' in line]
    assert len(examples) == 3 and len(before.splitlines()) < 12
    assert after.index('--multimix-alpha') < after.index('--batch-size')


def test_every_flag_has_help_that_shows_its_default():
    text = ''.join(create_parser().format_help().split())
    for flag in FLAGS.values():
        assert flag.help and flag.help.replace(' ', '') in text
    for shown in ('batch size, per process (default: 128)', 'area of the random crop (default: 0.08 1)',
                  'weight of the plain cross-entropy (default: 3)', 'from 32 to 1000: 167 at 49 positions, 42 at 196)'):
        assert shown.replace(' ', '') in text


def test_multilabel_runs_are_ranked_by_mean_average_precision():
    assert parse('--task', 'multilabel').eval_metric == 'map'
    assert parse('--task', 'multilabel', '--eval-metric', 'loss').eval_metric == 'loss'
    assert parse().eval_metric == 'top1'
    assert parse('--eval-metr', 'loss').eval_metric == 'loss'  # abbreviated as in timm


@pytest.mark.parametrize('flags, lr', [
    (['--lr', '0.5'], 0.5),
    (['--lr-base', '0.1', '-b', '512'], 0.2),
    (['--opt', 'adamw', '--lr-base', '0.1', '-b', '1024'], 0.2),
    (['--opt', 'adamw', '--lr-base', '0.1', '-b', '1024', '--lr-base-scale', 'linear'], 0.4),
    (['--lr-base', '0.1', '-b', '128', '--grad-accum-steps', '4'], 0.2),
])
def test_learning_rate_scales_with_the_global_batch(flags, lr):
    assert scaled_learning_rate(parse(*flags), world_size=1) == pytest.approx(lr)


with open(os.path.join(os.path.dirname(__file__), 'upstream_flags.json'), encoding='utf-8') as file:
    UPSTREAM = json.load(file)
NEWER = ('--stop-epoch', '--save-epochs', '--loss', '--task', '--target-format')  # of timm 1.0.31


def test_flags_agree_with_upstreams():
    actions = {name: action for action in create_parser()._actions for name in action.option_strings}
    for flag in UPSTREAM:
        for name in flag['flags']:
            action = actions[name]
            assert action.dest == flag['dest'], name
            if name != '--smoothing':  # depends on the mode
                assert action.default == flag['default'], name
            assert getattr(action.type, '__name__', action.type) == flag['type'], name
            assert action.nargs == flag['nargs'], name
            if flag['choices'] is not None:  # upstream takes any name in some places
                assert list(action.choices) == flag['choices'], name


def test_every_other_flag_is_ours_or_newer():
    upstream = {name for flag in UPSTREAM for name in flag['flags']}
    ours = {name for action in create_parser()._actions for name in action.option_strings} - upstream
    others = {name for name in ours if not name.startswith(('--multimix-', '--mixupe-'))}
    assert others == {'-h', '--help', '--log-tensorboard', '--max-bad-steps', *NEWER}
