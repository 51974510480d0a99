"""From a command line or a YAML file to arguments of the tasks; the flags agree with timm's script (August 2026)."""
import json
import os

import pytest
import yaml

from tests.training.cli.support import assert_refused, parse, refusal
from timm_multimix.settings import PAPER
from timm_multimix.training.cli.flags import FLAGS
from timm_multimix.training.cli.multimix import mixupe_kwargs, multimix_kwargs
from timm_multimix.training.cli.parser import create_parser, parse_args
from timm_multimix.training.schedule import scaled_learning_rate


def test_malformed_flags_are_refused_in_one_line(capsys):
    assert_refused(capsys, [
        (['--unknown-flag'], 'unrecognized arguments: --unknown-flag (--help lists the flags)'),
        (['--multimix-aplha', '2'], '--multimix-aplha (did you mean --multimix-alpha? --help lists the flags)'),
        (['--epochs', 'many'], "argument --epochs: invalid int value: 'many' (--help lists the flags)"),
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


@pytest.fixture
def config(tmp_path):
    """A function that writes a file and returns its path."""
    def write(text):
        path = tmp_path / 'config.yaml'
        path.write_text(text)
        return str(path)
    return write


def test_config_sets_defaults_and_flags_override_it(config):
    path = config('model: resnet18\nlr: 0.3\nepochs: 7\n')
    for name in ('--config', '-c', '--conf'):
        args, text = parse_args([name, path, '--dataset', 'digits', '--epochs', '9'])
        assert (args.model, args.lr, args.epochs) == ('resnet18', 0.3, 9)
        assert yaml.safe_load(text)['epochs'] == 9


def test_config_values_are_converted_like_flags(config):
    args = parse('--config', config(
        'mixup_mode: multimix\nmultimix_alpha: 2\nlr: 3e-4\namp: true\namp_dtype: bfloat16\nscale: [0.5, 1]\n'
        'model_kwargs: {a: 1, b: "1", c: [x, 2.5], d: {e: null}}\ntorchcompile: inductor\nlr_noise: [-0.0, 1.0]\n'
        'data: folder\nno_aug: false\nmultimix_gather: false\n'))
    assert (args.multimix_alpha, args.lr, args.amp, args.scale) == ([2.], 3e-4, True, [0.5, 1.])
    assert args.model_kwargs == {'a': 1, 'b': '1', 'c': ['x', 2.5], 'd': {'e': None}}
    assert (args.torchcompile, args.lr_noise, args.data) == ('inductor', [0., 1.], 'folder')
    assert args.no_aug is False and args.multimix_gather is None


def test_the_arguments_of_a_run_give_the_same_run(config):
    args, text = parse_args([
        '--dataset', 'digits', '--mixup-mode', 'multimix', '--multimix-alpha', '0.5', '2', '--opt-kwargs',
        'nesterov=True', '--lr', '3e-4', '--amp', '--experiment=-x', '--wandb-tags', 'a', 'b', '--multimix-gather'])
    again = parse_args(['--config', config(text)])[1]
    assert again == text and args.experiment == '-x'


def test_every_default_can_be_given_in_a_config(config):
    defaults = vars(parse())
    text = yaml.safe_dump({name: value for name, value in defaults.items() if name != 'config'})
    assert {**vars(parse('--config', config(text))), 'config': ''} == defaults
    assert set(defaults) == {*FLAGS, 'pretrained_cfg_overlay'}


def test_mistakes_in_a_config_are_refused(config, capsys):
    for text, message in [
            ('- a\n- b\n', 'must hold "name: value" lines'),
            ('a: [1\n', 'config.yaml'),
            ('a: 2026-13-45\n', 'config.yaml: month must be in 1..12'),
            ('mixup_mode: multi-mix\n', "argument --mixup-mode: invalid choice: 'multi-mix' (choose from "),
            ('epochs: null\n', 'epochs must be one text or number, got None'),
            ('epochs: many\n', "argument --epochs: invalid int value: 'many'"),
            ('epochs: true\n', 'epochs must be one text or number, got True'),
            ('epochs: 0\n', '--epochs must be >= 1, got 0'),
            ('multimix_tuples: 9\n', '--multimix-tuples needs --mixup-mode multimix or dense-multimix'),
            ('amp: 1\n', 'amp must be true or false, got 1'),
            ('model: [a, b]\n', "model must be one text or number, got ['a', 'b']"),
            ('input_size: [3, 32]\n', 'argument --input-size: expected 3 arguments'),
            ('aa: {a: b}\n', "aa must be one text or number, got {'a': 'b'}"),
            ('scale: [0.5, true]\n', 'scale must be text or numbers, got [0.5, True]'),
            ('model_kwargs: [a]\n', 'model_kwargs must be "name: value" lines'),
            ('model_kwargs: {1: a}\n', "argument --model-kwargs: must be key=value, got \"1='a'\""),
            ('pretrained_cfg_overlay: 3\n', 'pretrained_cfg_overlay must hold "name: value" lines, got 3'),
    ]:
        assert message in refusal(capsys, ['--config', config(text), '--dataset', 'digits'])


def test_unknown_names_in_a_config_are_warned_of(config, caplog):
    assert parse('--config', config('modell: resnet18\nepochs: 7\nconfig: x\n1: 2\n')).epochs == 7
    assert 'unknown names, which have no effect: 1, config, modell' in caplog.text


def test_a_name_may_look_like_a_number(config):
    args = parse('--config', config('experiment: 2026\npretrained_cfg_overlay: {mean: [0.1, 0.1, 0.1]}\n'))
    assert args.experiment == '2026' and args.pretrained_cfg_overlay == dict(mean=[0.1, 0.1, 0.1])
    assert parse().pretrained_cfg_overlay is None


MULTIMIX = ('--mixup-mode', 'multimix')
UNSET = dict(mode='multimix', multi_label=False, mixup_alpha=0., cutmix_alpha=0., prob=1., switch_prob=0.5)


def test_multimix_flags_become_arguments():
    assert multimix_kwargs(parse(*MULTIMIX)) == UNSET
    args = parse(*MULTIMIX, '--mixup', '0.7', '--cutmix-minmax', '0.2', '0.5', '--multimix-strength', 'auto')
    assert multimix_kwargs(args) == dict(UNSET, mixup_alpha=0.7, cutmix_minmax=[0.2, 0.5], strength='auto')
    args = parse('--mixup-mode', 'dense-multimix', '--multimix-alpha', '0.5', '2', '--multimix-tuples', '7',
                 '--multimix-attention', 'cam', '--multimix-clean-weight', '0', '--mixup-prob', '0.9')
    assert multimix_kwargs(args) == dict(
        UNSET, mode='dense-multimix', alpha=(0.5, 2.), num_tuples=7, attention='cam', clean_weight=0., prob=0.9)
    args = parse(*MULTIMIX, '--multimix-teacher-decay', '0.99', '--multimix-teacher-warmup', '--multimix-gamma', '0',
                 '--multimix-single-view')
    assert multimix_kwargs(args) == dict(UNSET, teacher_decay=0.99, teacher_warmup=True, gamma=0., single_view=True)
    paper = multimix_kwargs(parse(*MULTIMIX, '--multimix-paper', '--multimix-tuples', '5'))
    assert paper == dict(UNSET, **dict(PAPER, num_tuples=5))
    assert multimix_kwargs(parse(*MULTIMIX, '--multimix-alpha', '0.7'))['alpha'] == 0.7
    assert multimix_kwargs(parse(*MULTIMIX, '--task', 'multilabel'))['multi_label'] is True


@pytest.mark.parametrize('flags, smoothing', [
    ('', 0.1),
    ('--mixup 1', 0.1),
    ('--mixup-mode mixupe', 0.1),
    ('--mixup-mode multimix', 0.),
    ('--mixup-mode dense-multimix --mixup 1 --multimix-strength 0.5', 0.),
    ('--mixup-mode dense-multimix --multimix-strength auto', 0.1),
    ('--mixup-mode dense-multimix --multimix-strength auto --multimix-paper', 0.),
])
def test_label_smoothing_is_off_by_default_where_embeddings_are_mixed(flags, smoothing, caplog):
    """A value that is given is taken; beside MultiMix there is a warning."""
    flags = flags.split()
    args, text = parse_args(['--dataset', 'digits', *flags])
    assert args.smoothing == yaml.safe_load(text)['smoothing'] == smoothing
    assert not caplog.records
    assert parse(*flags, '--smoothing', '0.2').smoothing == 0.2
    assert ('--smoothing 0.2 with' in caplog.text) == (smoothing == 0.)


def test_mixupe_flags_become_arguments():
    assert mixupe_kwargs(parse('--mixup-mode', 'mixupe')) == {}
    args = parse('--mixup-mode', 'mixupe', '--mixup', '0.4', '--mixupe-eta', '0', '--mixupe-threshold', '-1',
                 '--mixupe-exact')
    assert mixupe_kwargs(args) == dict(mixup_alpha=0.4, eta=0., threshold=-1., exact=True)
    assert mixupe_kwargs(parse('--mixup-mode', 'mixupe', '--mixupe-residual-grad')) == dict(residual_grad=True)
