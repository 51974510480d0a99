"""Whole runs of train_timm.py, in process, on a tiny image folder."""
import csv
import json
import os
import sys

import pytest
import safetensors.torch
import timm
import torch
import yaml

import train_timm
from tests.support.training_runs import MODES, accuracy, rows_of
from tests.support.training_states import read


@pytest.mark.parametrize('mode', MODES)
def test_a_run_writes_what_timm_writes(mode, flags, tmp_path, capsys):
    assert train_timm.main([*flags, *MODES[mode]]) == 0
    folder = tmp_path / 'run'
    rows = rows_of(folder)
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert {'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'lr'} <= set(rows[0])
    assert ('train_top1' in rows[0]) == (mode not in ('mixup', 'cutmix'))
    assert {'last.pth.tar', 'model_best.pth.tar', 'checkpoint-0.pth.tar', 'args.yaml'} <= set(os.listdir(folder))
    assert yaml.safe_load((folder / 'args.yaml').read_text())['model'] == 'test_resnet'

    out = capsys.readouterr().out
    results = json.loads(out.split('--result\n')[1])
    best = max(float(row['eval_top1']) for row in rows)
    assert results[-1]['validation']['top1'] == pytest.approx(best)
    assert {result['epoch'] for result in results} == {0, 1}


def test_it_learns_the_colours(flags, tmp_path):
    flags += ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '16', '--epochs', '20', '--color-jitter', '0',
              '--val-interval', '20']
    assert train_timm.main(flags) == 0
    rows = rows_of(tmp_path / 'run')
    assert float(rows[-1]['eval_top1']) == 100.
    assert float(rows[-1]['train_top1']) > 90.


def test_plain_timm_loads_the_checkpoint(flags, image_folder, tmp_path, monkeypatch):
    assert train_timm.main([*flags, *MODES['dense']]) == 0
    folder = tmp_path / 'run'
    best = max(float(row['eval_top1']) for row in rows_of(folder))
    state = read(folder / 'model_best.pth.tar')['state_dict']
    safetensors.torch.save_file(state, folder / 'model_best.safetensors')
    for name in [name for name in sys.modules if name.split('.')[0] == 'timm_multimix']:
        monkeypatch.setitem(sys.modules, name, None)  # so that nothing can import the package
    paths = [folder / 'model_best.pth.tar', folder / 'model_best.safetensors']
    for path in paths:
        model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path))
        assert accuracy(model, image_folder) == pytest.approx(best)


@pytest.mark.parametrize('mode, more', [
    ('mixup', ['--workers', '1', '--use-multi-epochs-loader']), ('dense', []), ('mixupe', [])])
def test_mixup_off_epoch_ends_mixing(mode, more, flags, steps):
    """From that epoch on, also with persistent workers, the loss is that of the clean batch with hard labels, smoothed.
    """
    assert train_timm.main([*flags, *MODES[mode], '--mixup-off-epoch', '1', '--smoothing', '0.1', *more]) == 0
    seen = []
    for step in steps:
        target = step.target if step.target.ndim == 1 else step.target.argmax(dim=1)
        smooth = torch.nn.functional.cross_entropy(step.result['output'], target, label_smoothing=0.1)
        seen.append(torch.allclose(step.result['loss'], smooth, atol=1e-6))
    assert seen == [False] * 3 + [True] * 3


@pytest.mark.parametrize('mode, more', [
    ('dense', '--amp --amp-dtype bfloat16'),
    ('dense', '--channels-last --grad-accum-steps 2 --clip-grad 1'),
    ('dense', '--no-prefetcher --opt adamw --clip-grad 0.1 --clip-mode agc'),
    ('dense', '--batch-size 7 --model-ema --model-ema-warmup --recovery-interval 2 --torchcompile eager'),
    ('dense', '--model test_vit --input-size 3 64 64 --img-size 64 --drop 0.1 --drop-path 0.1'),
    ('distilled', '--amp --amp-dtype bfloat16'),
    pytest.param('distilled', '--torchcompile eager', marks=pytest.mark.slow),
    ('distilled', '--mixup-off-epoch 1 --epochs 2 --cutmix 1 --mixup-prob 0.7'),
    ('distilled', '--model-dtype bfloat16 --multimix-gamma 0'),
    ('mixupe', '--mixup 0.4 --mixup-prob 0.5 --batch-size 7 --model-ema'),
    ('mixupe', '--mixupe-threshold 0 --mixupe-residual-grad --amp --amp-dtype bfloat16 --channels-last'),
    ('mixupe', '--mixupe-exact --no-prefetcher --model-dtype bfloat16'),
    pytest.param('mixupe', '--torchcompile eager --grad-accum-steps 2', marks=pytest.mark.slow),
])
def test_flags_of_timm_work_in_every_mode(mode, more, flags, tmp_path):
    assert train_timm.main([*flags, *MODES[mode], '--epochs', '1', *more.split()]) == 0
    for row in rows_of(tmp_path / 'run'):
        assert row['train_loss'] and row['eval_top1'] and bool(row.get('eval_student_top1')) == (mode == 'distilled')


@pytest.mark.parametrize('more', [
    ['--mixup-off-epoch', '1', '--val-interval', '2'], ['--mixup-prob', '0.5', '--cutmix', '1']])
def test_every_row_of_the_summary_has_the_same_columns(more, flags, tmp_path):
    assert train_timm.main([*flags, *MODES['multimix'], '--epochs', '4', *more]) == 0
    with open(tmp_path / 'run' / 'summary.csv', newline='') as file:
        rows = list(csv.reader(file))
    assert {*rows[0]} == {
        'epoch', 'train_loss', 'train_mixed_loss', 'train_clean_loss', 'train_top1',
        'eval_loss', 'eval_top1', 'eval_top5', 'lr'}
    assert (rows[0][0], rows[0][-1]) == ('epoch', 'lr')
    assert [len(row) for row in rows] == [9] * 5
    table = rows_of(tmp_path / 'run')
    assert all(0. < float(row['lr']) <= 0.01 for row in table)
    if '--mixup-off-epoch' in more:
        assert [bool(row['train_mixed_loss']) for row in table] == [True, False, False, False]
        assert [bool(row['eval_top1']) for row in table] == [False, True, False, True]
