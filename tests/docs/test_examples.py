"""Every example runs, learns colours, and leaves a checkpoint that timm reads without this package."""
import os
import re
import shutil
import subprocess
import sys

import pytest
import timm
import torch

from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow


def run(command, tmp_path):
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '',
        'PATH': os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']}
    result = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def example(name, image_folder, tmp_path, *more):
    """Run an example on classes that timm and torchvision sort differently, of which validation lacks the first."""
    images = shutil.copytree(image_folder, tmp_path / 'images')
    for split in ('train', 'validation'):
        for label, new in (('cat', '2'), ('dog', '10'), ('owl', '3')):
            (images / split / label).rename(images / split / new)
    shutil.rmtree(images / 'validation' / '2')
    flags = ['--model', 'test_resnet', '--image-size', 32, '--batch-size', 8, '--workers', 0, *more]
    output = run([sys.executable, ROOT / 'examples' / name, images, *flags, '--output', 'model.pth'], tmp_path)
    timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(tmp_path / 'model.pth'))
    assert torch.load(tmp_path / 'model.pth', weights_only=True)['class_names'] == ['2', '3', '10']
    return output


def test_plain_loop(image_folder, tmp_path):
    output = example('plain_loop.py', image_folder, tmp_path, '--epochs', 12, '--device', 'cpu')
    epochs = re.findall(r'^epoch \d+: loss ([\d.]+), accuracy ([\d.]+), validation accuracy ([\d.]+)$', output, re.M)
    assert len(epochs) == 12
    assert float(epochs[-1][0]) < float(epochs[0][0])
    assert float(epochs[-1][2]) > 0.8


def test_lightning_module(image_folder, tmp_path):
    pytest.importorskip('lightning', reason='needs the extra examples')
    output = example('lightning_module.py', image_folder, tmp_path, '--epochs', 12, '--accelerator', 'cpu')
    assert float(re.findall(r"'validation_accuracy': ([\d.]+)", output)[-1]) > 0.8


def test_hf_trainer(image_folder, tmp_path):
    pytest.importorskip('transformers', reason='needs the extra examples')
    pytest.importorskip('accelerate', reason='needs the extra examples')
    output = example('hf_trainer.py', image_folder, tmp_path, '--epochs', 12, '--cpu')
    assert float(re.findall(r"'eval_accuracy': '?([\d.]+)", output)[-1]) > 0.8


def test_finetune(image_folder, tmp_path):
    """It starts from weights with another number of classes; the script runs in the folder of train_timm.py."""
    weights = tmp_path / 'weights.pth'
    torch.save(timm.create_model('test_resnet', num_classes=10).state_dict(), weights)
    (tmp_path / 'train_timm.py').symlink_to(ROOT / 'train_timm.py')
    run([
        'sh', ROOT / 'examples/finetune.sh', image_folder, weights, 'test_resnet', '--input-size', 3, 32, 32,
        '--epochs', 1, '--warmup-epochs', 0, '--batch-size', 8, '--workers', 0, '--device', 'cpu',
        '--output', tmp_path, '--experiment', 'run'], tmp_path)
    checkpoint = str(tmp_path / 'run' / 'model_best.pth.tar')
    timm.create_model('test_resnet', num_classes=3, checkpoint_path=checkpoint)


def test_finetune_prints_its_usage(tmp_path):
    result = subprocess.run(['sh', str(ROOT / 'examples/finetune.sh')], capture_output=True, text=True)
    assert result.returncode == 2
    assert 'IMAGES WEIGHTS MODEL' in result.stderr
