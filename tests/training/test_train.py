"""Whole runs of train_timm.py, in process, on a tiny image folder."""
import csv
import json
import os
import subprocess
import sys
import tempfile

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


@pytest.mark.parametrize('mode', [pytest.param('multimix', marks=pytest.mark.slow), 'dense'])
def test_plain_timm_loads_the_checkpoint(mode, flags, image_folder, tmp_path, monkeypatch):
    assert train_timm.main([*flags, *MODES[mode]]) == 0
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


def test_an_interrupted_run_resumes_in_place(flags, tmp_path, epochs_run):
    """Interrupted in its second epoch, it continues there, keeps its summary and ends with all epochs."""
    flags = [*flags, *MODES['dense'], '--epochs', '3', '--resume', 'auto', '--model-ema']
    epochs_run.interrupt = 1
    assert train_timm.main(flags) == 130
    folder = tmp_path / 'run'
    first = rows_of(folder)
    assert len(first) == 1
    assert train_timm.main(flags) == 0
    assert epochs_run == [0, 1, 2]
    assert rows_of(folder)[0] == first[0]
    assert [row['epoch'] for row in rows_of(folder)] == ['0', '1', '2']
    last = read(folder / 'last.pth.tar')
    assert last['epoch'] == 2 and 'state_dict_ema' in last
    assert set(last['state_dict']) == set(timm.create_model('test_resnet', num_classes=3).state_dict())
    assert set(last['state_dict_ema']) == set(last['state_dict'])
    assert train_timm.main(flags) == 0 and epochs_run == [0, 1, 2], 'a complete run is left as it is'
    assert len(rows_of(folder)) == 3


@pytest.mark.parametrize('mode', ['mixup', 'dense', 'mixupe'])
def test_mixup_off_epoch_ends_mixing(mode, flags, steps):
    """From that epoch on the loss is that of the clean batch with hard labels, smoothed."""
    assert train_timm.main([*flags, *MODES[mode], '--mixup-off-epoch', '1', '--smoothing', '0.1']) == 0
    seen = []
    for step in steps:
        target = step.target if step.target.ndim == 1 else step.target.argmax(dim=1)
        smooth = torch.nn.functional.cross_entropy(step.result['output'], target, label_smoothing=0.1)
        seen.append(torch.allclose(step.result['loss'], smooth, atol=1e-6))
    assert seen == [False] * 3 + [True] * 3


@pytest.mark.parametrize('more', [
    ['--amp', '--amp-dtype', 'bfloat16'],
    ['--channels-last', '--grad-accum-steps', '2', '--clip-grad', '1'],
    ['--no-prefetcher', '--opt', 'adamw', '--clip-grad', '0.1', '--clip-mode', 'agc'],
    ['--batch-size', '7', '--model-ema', '--model-ema-warmup', '--recovery-interval', '2', '--torchcompile', 'eager'],
    ['--model', 'test_vit', '--input-size', '3', '160', '160', '--drop', '0.1', '--drop-path', '0.1'],
])
def test_flags_of_timm_work_with_dense_multimix(more, flags):
    assert train_timm.main([*flags, *MODES['dense'], '--epochs', '1', *more]) == 0


@pytest.mark.parametrize('more, message', [
    (['--model', 'crossvit_9_240', '--input-size', '3', '240', '240'], 'forward_features returns a list'),
    (['--amp'], 'needs --amp-dtype bfloat16'),
    (['--opt-kwargs', 'foo=1'], '--opt sgd: '),
    (['--torchcompile', 'nosuch'], '--torchcompile nosuch: '),
])
def test_mistakes_found_while_building_end_with_code_2(more, message, flags, capsys):
    assert train_timm.main([*flags, *MODES['dense'], *more]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith('train_timm.py: error: ')
    assert message in error


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


@pytest.mark.slow
@pytest.mark.parametrize('mode', [
    '--mixup-mode multimix --multimix-tuples 8 --mixup-prob 0.5 --cutmix 1',
    '--mixup-mode dense-multimix --multimix-tuples 8 --mixup-prob 0.5 --multimix-teacher-decay 0.9',
    '--mixup-mode mixupe --mixup-prob 0.5',
    '--mixup-mode mixupe --mixup-prob 0.5 --mixupe-exact',
])
def test_two_processes_may_draw_differently(mode):
    """Each decides for itself whether to mix; the metrics are still summed over both."""
    flags = (
        '--dataset digits --model test_resnet --num-classes 10 --input-size 3 32 32 --epochs 1 --batch-size 64 '
        f'--workers 0 --log-interval 1 --device cpu {mode}')
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone',
             train_timm.__file__, *flags.split(), '--output', output, '--experiment', 'run'],
            capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        with open(os.path.join(output, 'run', 'summary.csv'), newline='') as file:
            row, = csv.DictReader(file)
        assert 0. < float(row['train_loss']) < 10.
        assert 0. < float(row.get('train_mixed_loss', 1.)) < 10.
