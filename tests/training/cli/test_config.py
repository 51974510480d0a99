"""A YAML file of defaults gives what the same values on the command line give."""
import pytest
import yaml

from tests.training.cli.support import parse, refusal
from timm_multimix.training.cli.flags import FLAGS
from timm_multimix.training.cli.parser import parse_args


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
