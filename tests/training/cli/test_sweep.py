"""Every flag of the table: given twice, alone, without a value, and with a value of another form."""
import argparse
import sys
from unittest import mock

import pytest
import timm

import train_timm
from tests.training.cli.support import refusal
from timm_multimix.training.cli.parser import FLAGS, create_parser, parse_args

each_flag = pytest.mark.parametrize('flag', [f for f in FLAGS.values() if not f.is_positional], ids=lambda f: f.dest)


def of_its_form(flag, index=0):
    """Return a value that the flag's type accepts, as arguments."""
    if flag.is_switch:
        return []
    count = flag.nargs if isinstance(flag.nargs, int) else 1
    if flag.takes_names:
        return [f'a={index}']
    return [str(flag.choices[-index]) if flag.choices else str(index + 1)] * count


@each_flag
def test_the_last_of_a_flag_given_twice_counts(flag):
    parser = create_parser()
    for name in flag.names:
        first, last = ([name, *of_its_form(flag, index)] for index in (0, 1))
        assert getattr(parser.parse_args([*first, *last]), flag.dest) == getattr(parser.parse_args(last), flag.dest)


@pytest.mark.parametrize('flag', ids=lambda f: f.dest, argvalues=[
    flag for flag in FLAGS.values()
    if any(FLAGS[condition.names[0]].default not in condition.values for condition in flag.needs)])
def test_a_flag_without_what_it_needs_is_refused(flag, capsys):
    line = refusal(capsys, ['--dataset', 'digits', flag.name, *of_its_form(flag, index=1)])
    assert flag.name in line and (' needs ' in line or ' must ' in line)


@each_flag
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


class Recorded(argparse.Namespace):
    """Arguments that note which of them are read."""
    seen = set()

    def __getattribute__(self, name):
        Recorded.seen.add(name)
        return super().__getattribute__(name)


SIZE = ['--img-size', '32', '--batch-size', '8', '--workers', '0', '--device', 'cpu', '--epochs', '1']
KINDS = [  # together these reach almost every flag
    [*SIZE, '--mixup', '1', '--bce-loss', '--train-img-sizes', '32', '--amp', '--amp-dtype', 'bfloat16', '--model-ema',
     '--split-bn', '--resplit', '--log-wandb'],
    [*SIZE, '--mixup-mode', 'dense-multimix', '--multimix-teacher-decay', '0.9', '--lr', '0.1', '--clip-grad', '1'],
    [*SIZE, '--kd-model-name', 'test_resnet', '--kd-distill-type', 'feature'],
    [*SIZE[2:], '--mixup', '1', '--model', 'naflexvit_base_patch16_gap', '--model-kwargs', 'depth=1', 'embed_dim=32',
     'num_heads=2', '--naflex-loader', '--naflex-train-seq-lens', '4', '--naflex-max-seq-len', '4'],
    [*SIZE, '--mixup-mode', 'mixupe'],
]
NOT_BY_NAME = {'config', 'local_rank', 'crop_pct', 'interpolation', 'mean', 'std'}  # read by parser or timm
OF_OTHER_RUNS = {  # with several processes, resumed, with several labels, compiled
    'no_ddp_bb', 'sync_bn', 'dist_bn', 'no_resume_opt', 'target_format', 'torchcompile_mode'}


@pytest.mark.slow
def test_every_flag_is_read(image_folder, tmp_path, monkeypatch):
    """Each by one of a few runs."""
    def create_model(model_name, pretrained, **kwargs):
        return timm.create_model(model_name, **kwargs)

    monkeypatch.setitem(sys.modules, 'wandb', mock.MagicMock())
    monkeypatch.setattr('timm.task.distillation.create_model', create_model)
    for index, kind in enumerate(KINDS):
        args, _ = parse_args([
            str(image_folder), '--model', 'test_resnet', '--num-classes', '3', '--output', str(tmp_path),
            '--experiment', str(index), *kind])
        assert train_timm.run(Recorded(**vars(args))) == 0
    assert FLAGS.keys() - Recorded.seen == NOT_BY_NAME | OF_OTHER_RUNS
