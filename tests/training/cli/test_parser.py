"""Flags, and what is refused before a run begins."""
import pytest
import yaml

from timm_multimix.loss import PAPER
from timm_multimix.training.cli.multimix import mixupe_kwargs
from timm_multimix.training.cli.parser import create_parser, multimix_kwargs, parse_args, scaled_learning_rate


def parse(*flags):
    return parse_args(['--dataset', 'digits', *flags])[0]


@pytest.mark.parametrize('flags, message', [
    (['--batch-size', '0'], '--batch-size must be >= 1, got 0'),
    (['--epochs', '0'], '--epochs must be >= 1'),
    (['--mixup-prob', '1.5'], r'--mixup-prob must be in [0, 1], got 1.5'),
    (['--smoothing', '-0.1'], r'--smoothing must be in [0, 1]'),
    (['--mixup', '-1'], '--mixup must be >= 0, got -1.0'),
    (['--mixup-mode', 'multymix'], "invalid choice: 'multymix'"),
    (['--amp', '--amp-dtype', 'float8'], "--amp-dtype must be one of 'float16', 'bfloat16', got 'float8'"),
    (['--resume', 'auto'], '--resume auto needs --experiment'),
    (['--multimix-tuples', '10'], "--multimix-tuples needs --mixup-mode multimix or dense-multimix, got 'batch'"),
    (['--mixup-mode', 'multimix', '--multimix-attention', 'cam'], '--multimix-attention needs --mixup-mode dense'),
    (['--mixup-mode', 'multimix', '--multimix-paper', '--multimix-alpha', '1'], '--multimix-alpha is set by'),
    (['--mixup-mode', 'multimix', '--mixup', '1', '--multimix-alpha', '1'], 'give one of them'),
    (['--mixup-mode', 'multimix', '--multimix-alpha', '0'], 'alpha must be > 0, got 0.0'),
    (['--mixup-mode', 'multimix', '--multimix-alpha', '2', '1'], 'low <= high'),
    (['--mixup-mode', 'multimix', '--multimix-alpha', '1', '2', '3'], 'one number or a range of two'),
    (['--mixup-mode', 'multimix', '--multimix-length', '9', '-b', '8'], 'at most the batch size (8), got 9'),
    (['--mixup', '1', '-b', '7'], '--batch-size must be even with --mixup-mode batch, got 7'),
    (['--multimix-teacher-decay', '0.9'], '--multimix-teacher-decay needs --mixup-mode multimix'),
    (['--multimix-single-view'], '--multimix-single-view needs --mixup-mode multimix'),
    (['--mixup-mode', 'multimix', '--multimix-gamma', '0'], '--multimix-gamma needs --multimix-teacher-decay'),
    (['--mixup-mode', 'multimix', '--multimix-single-view'], '--multimix-single-view needs --multimix-teacher-decay'),
    (['--mixup-mode', 'multimix', '--multimix-teacher-warmup'], '--multimix-teacher-warmup needs --multimix-teacher-'),
    (['--mixup-mode', 'multimix', '--multimix-teacher-decay', '1.5'], '--multimix-teacher-decay must be in [0, 1]'),
    (['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9', '--multimix-gamma', '-1'],
        '--multimix-gamma must be in [0, 1], got -1.0'),
    (['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9', '--bce-loss'], 'not --bce-loss'),
    (['--mixupe-eta', '0.1'], "--mixupe-eta needs --mixup-mode mixupe, got 'batch'"),
    (['--mixup-mode', 'multimix', '--mixupe-exact'], "--mixupe-exact needs --mixup-mode mixupe, got 'multimix'"),
    (['--mixup', '1', '--mixupe-threshold', '0'], '--mixupe-threshold needs --mixup-mode mixupe'),
    (['--mixup-mode', 'mixupe', '--multimix-alpha', '1'], '--multimix-alpha needs --mixup-mode multimix'),
    (['--mixup-mode', 'mixupe', '--multimix-teacher-decay', '0.9'], '--multimix-teacher-decay needs --mixup-mode'),
    (['--mixup-mode', 'mixupe', '--cutmix', '1'], '--cutmix and --cutmix-minmax need another --mixup-mode'),
    (['--mixup-mode', 'mixupe', '--bce-loss'], 'not --bce-loss'),
    (['--mixup-mode', 'mixupe', '--mixupe-eta', '-1'], '--mixupe-eta must be >= 0, got -1.0'),
    (['--mixup-mode', 'mixupe', '--mixupe-threshold', 'nan'], '--mixupe-threshold must be a finite number, got nan'),
    (['--mixup-mode', 'mixupe', '--mixupe-exact', '--torchcompile'], '--mixupe-exact does not go with --torchcompile'),
    (['--mixup-mode', 'mixupe', '--mixupe-exact', '--grad-checkpointing'], 'does not go with --grad-checkpointing'),
    (['--mixup-mode', 'mixupe', '--mixupe-exact', '--sync-bn'], '--mixupe-exact does not go with --sync-bn'),
    (['--mixup-mode', 'mixupe', '--mixupe-exact', '--train-img-sizes', '32', '64'], 'not go with --train-img-sizes'),
    (['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9', '--reprob', '1', '--resplit'],
     '--resplit leaves the first of two views unerased'),
    (['--num-classes', '0'], '--num-classes must be >= 1, got 0'),
    (['--eval-metric', 'top3'],
        "--eval-metric must be one of 'loss', 'top1', 'top5' with --task classification, got 'top3'"),
    (['--clip-mode', 'soft'], "--clip-mode must be one of 'norm', 'value', 'agc', got 'soft'"),
    (['--remode', 'blue'], '--remode must be one of'),
    (['--train-crop-mode', 'x'], '--train-crop-mode must be one of'),
    (['--interpolation', 'x'], '--interpolation must be one of'),
    (['--lr-base-scale', 'cubic'], "--lr-base-scale must be one of '', 'linear', 'sqrt', got 'cubic'"),
    (['--dist-bn', 'x'], '--dist-bn must be one of'),
    (['--mean', '0.5', '0.5'], '--mean must be 1 or 3 numbers'),
    (['--std', '0', '0', '0'], 'std > 0'),
    (['--lr-base-size', '0'], '--lr-base-size must be >= 1, got 0'),
    (['--drop-path', '2'], '--drop-path must be in [0, 1), got 2.0'),
    (['--model-ema-decay', '2'], '--model-ema-decay must be in [0, 1], got 2.0'),
    (['--hflip', '2'], '--hflip must be in [0, 1], got 2.0'),
    (['--lr', 'nan'], '--lr must be >= 0, got nan'),
    (['--scale', '1', '0.5'], '--scale must be two numbers, 0 < low <= high, got [1.0, 0.5]'),
    (['--ratio', '2'], '--ratio must be two numbers'),
    (['--seed', '-1'], '--seed must be from 0'),
    (['--crop-pct', '-1'], '--crop-pct must be > 0, got -1.0'),
    (['--in-chans', '1', '--input-size', '3', '32', '32'], '--in-chans must be that of --input-size (3), got 1'),
    (['--mixup', '1', '--cutmix-minmax', '0.5'], '--cutmix-minmax must be two numbers'),
    (['--interpolation', 'random'], '--interpolation must be one of'),
    (['--val-split', ''], '--val-split must name a split'),
    (['--unknown-flag'], 'unrecognized arguments: --unknown-flag'),
])
def test_mistakes_end_with_code_2_and_a_message(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(*flags)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_no_data_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_args([])
    assert exit_info.value.code == 2
    assert '--data-dir' in capsys.readouterr().err


def test_multimix_flags_become_arguments():
    assert multimix_kwargs(parse('--mixup-mode', 'multimix')) == {}
    assert multimix_kwargs(parse('--mixup-mode', 'multimix', '--mixup', '0.7')) == dict(alpha=0.7)
    args = parse('--mixup-mode', 'dense-multimix', '--multimix-alpha', '0.5', '2', '--multimix-tuples', '7',
                 '--multimix-attention', 'cam', '--multimix-clean-weight', '0')
    assert multimix_kwargs(args) == dict(alpha=(0.5, 2.), num_tuples=7, attention='cam', clean_weight=0.)
    args = parse('--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.99', '--multimix-teacher-warmup',
                 '--multimix-gamma', '0', '--multimix-single-view')
    assert multimix_kwargs(args) == dict(teacher_decay=0.99, teacher_warmup=True, gamma=0., single_view=True)
    paper = multimix_kwargs(parse('--mixup-mode', 'multimix', '--multimix-paper', '--multimix-tuples', '5'))
    assert paper == dict(PAPER, num_tuples=5)


@pytest.mark.parametrize('mode', ['multimix', 'mixupe'])
def test_odd_batches_are_fine(mode):
    assert parse('--mixup-mode', mode, '--mixup', '1', '-b', '7').batch_size == 7


def test_mixupe_flags_become_arguments():
    assert mixupe_kwargs(parse('--mixup-mode', 'mixupe')) == {}
    args = parse('--mixup-mode', 'mixupe', '--mixup', '0.4', '--mixupe-eta', '0', '--mixupe-threshold', '-1',
                 '--mixupe-exact')
    assert mixupe_kwargs(args) == dict(alpha=0.4, eta=0., threshold=-1., exact=True)


def test_config_sets_defaults_and_flags_override_it(tmp_path):
    config = tmp_path / 'config.yaml'
    config.write_text('model: resnet18\nlr: 0.3\nepochs: 7\n')
    args, text = parse_args(['--config', str(config), '--dataset', 'digits', '--epochs', '9'])
    assert (args.model, args.lr, args.epochs) == ('resnet18', 0.3, 9)
    assert yaml.safe_load(text)['epochs'] == 9


def test_config_values_are_those_of_the_flags(tmp_path):
    config = tmp_path / 'config.yaml'
    config.write_text(
        'mixup_mode: multimix\nmultimix_alpha: 2\nlr: 3e-4\namp: true\namp_dtype: bfloat16\nscale: [0.5, 1]\n')
    args = parse_args(['--config', str(config), '--dataset', 'digits'])[0]
    assert (args.multimix_alpha, args.lr, args.amp, args.scale) == ([2.], 3e-4, True, [0.5, 1.])


def test_hub_datasets_need_no_folder():
    assert parse_args(['--dataset', 'hfds/some/name'])[0].dataset == 'hfds/some/name'


@pytest.mark.parametrize('text, message', [
    ('- a\n- b\n', 'must hold "name: value" lines'),
    ('a: [1\n', 'config.yaml'),
    ('mixup_mode: multi-mix\n', "batch, pair, elem, multimix, dense-multimix, mixupe, got 'multi-mix'"),
    ('epochs: null\n', 'epochs must have a value, got None'),
    ('epochs: many\n', "epochs must be int, got 'many'"),
    ('amp: 3\n', 'amp must be true or false, got 3'),
    ('model: [a, b]\n', "model must be one value, got ['a', 'b']"),
])
def test_config_mistakes(text, message, tmp_path, capsys):
    config = tmp_path / 'config.yaml'
    config.write_text(text)
    with pytest.raises(SystemExit) as exit_info:
        parse_args(['--config', str(config), '--dataset', 'digits'])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('flags, lr', [
    (['--lr', '0.5'], 0.5),
    (['--lr-base', '0.1', '-b', '512'], 0.2),
    (['--opt', 'adamw', '--lr-base', '0.1', '-b', '1024'], 0.2),
    (['--opt', 'adamw', '--lr-base', '0.1', '-b', '1024', '--lr-base-scale', 'linear'], 0.4),
    (['--lr-base', '0.1', '-b', '128', '--grad-accum-steps', '4'], 0.2),
])
def test_learning_rate_scales_with_the_global_batch(flags, lr):
    args = parse(*flags)
    args.world_size = 1
    assert scaled_learning_rate(args) == pytest.approx(lr)


def test_every_flag_has_help():
    assert [a.dest for a in create_parser()._actions if not a.help] == []


def test_unknown_names_in_a_config_are_said_to_have_no_effect(tmp_path, caplog):
    path = tmp_path / 'config.yaml'
    path.write_text('modell: resnet18\nepochs: 7\nconfig: x\n1: 2\n')
    assert parse('--config', str(path)).epochs == 7
    assert 'unknown names, which have no effect: 1, config, modell' in caplog.text


@pytest.mark.parametrize('text, message', [
    ('input_size: [3, 32]\n', 'input_size must be 3 values, got [3, 32]'),
    ('aa: [a, b]\n', 'aa must be one value'),
    ('aa: true\n', 'aa must be text, got True'),
    ('model_kwargs: [a]\n', 'model_kwargs must hold "name: value" lines'),
    ('pretrained_cfg_overlay: 3\n', 'pretrained_cfg_overlay must hold "name: value" lines, got 3'),
])
def test_wrong_values_in_a_config(text, message, tmp_path, capsys):
    path = tmp_path / 'config.yaml'
    path.write_text(text)
    with pytest.raises(SystemExit) as exit_info:
        parse('--config', str(path))
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


def test_a_config_that_is_no_text(tmp_path, capsys):
    path = tmp_path / 'config.yaml'
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(SystemExit) as exit_info:
        parse('--config', str(path))
    assert exit_info.value.code == 2 and f'--config {path}: ' in capsys.readouterr().err


def test_names_that_look_like_numbers(tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text('experiment: 2026\npretrained_cfg_overlay: {mean: [0.1, 0.1, 0.1]}\n')
    args = parse('--config', str(path))
    assert args.experiment == '2026' and args.pretrained_cfg_overlay == dict(mean=[0.1, 0.1, 0.1])
    assert parse().pretrained_cfg_overlay is None


def test_abbreviations_as_in_timm():
    assert parse('--batch-siz', '4').batch_size == 4
