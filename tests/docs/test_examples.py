"""Every example runs, learns colours, and leaves a checkpoint that timm reads without this package."""
import argparse
import json
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image

from tests.docs.pages import ROOT, run

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize('name, on_cpu, accuracy, packages', [
    ('plain_loop.py', '--device cpu', r'validation accuracy ([\d.]+)$', ''),
    ('lightning_module.py', '--accelerator cpu', r"'validation_accuracy': ([\d.]+)", 'lightning'),
    ('hf_trainer.py', '--cpu', r"'eval_accuracy': '?([\d.]+)", 'transformers accelerate')])
def test_an_example_learns(name, on_cpu, accuracy, packages, image_folder, tmp_path):
    for package in packages.split():
        pytest.importorskip(package, reason='needs the extra examples')
    output = example(name, image_folder, tmp_path, '--epochs', 12, *on_cpu.split())
    assert float(re.findall(accuracy, output, re.M)[-1]) > 0.8


def voc_set(root, split, images):
    """Write a set of VOC2007: images of 96 x 64 pixels, each with objects (name, sides from 1, whether difficult)."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / 'ImageSets/Main' / f'{split}.txt').write_text(''.join(f'{name}\n' for name in images))
    for name, objects in images.items():
        Image.effect_noise((96, 64), 40).convert('RGB').save(root / 'JPEGImages' / f'{name}.jpg')
        entries = ''.join(
            f'<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>'
            + ''.join(f'<{side}>{value}</{side}>' for side, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), sides))
            + '</bndbox></object>' for kind, sides, difficult in objects)
        (root / 'Annotations' / f'{name}.xml').write_text(
            f'<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename><size><width>96</width>'
            f'<height>64</height><depth>3</depth></size>{entries}</annotation>')


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'VOC' / 'VOCdevkit' / 'VOC2007'
    voc_set(root, 'trainval', {
        'a': [('dog', (1, 1, 60, 40), 0), ('cat', (11, 6, 30, 25), 1)], 'b': [('cat', (20, 10, 19, 30), 0)],
        'c': [('tvmonitor', (5, 5, 20, 36), 0)], 'd': [('dog', (8, 12, 35, 39), 0)]})
    voc_set(root, 'test', {'e': [('dog', (1, 1, 60, 40), 0), ('cat', (50, 30, 80, 55), 1)], 'f': []})
    return tmp_path / 'VOC'


@pytest.fixture
def detection():
    pytest.importorskip('pycocotools', reason='needs the extra examples')
    return runpy.run_path(str(ROOT / 'examples/detection.py'))


def saved_classifier(name, tmp_path, **args):
    """Write a checkpoint as train_timm.py does; return its path and its model."""
    model = timm.create_model(name, num_classes=3)
    path = tmp_path / 'model_best.pth.tar'
    torch.save(dict(arch=name, state_dict=model.state_dict(), args=argparse.Namespace(num_classes=3)), path)
    return path, model


def test_detection(voc, tmp_path, detection):
    """Both splits are read, the loss is finite, and the weights of the detector can be loaded."""
    checkpoint, _ = saved_classifier('test_resnet', tmp_path)
    output = run([
        sys.executable, ROOT / 'examples/detection.py', voc, '--train', '2007:trainval', '--model', 'test_resnet',
        '--checkpoint', checkpoint, '--size', 64, '--epochs', 2, '--batch-size', 2, '--workers', 0], tmp_path)
    losses = [float(loss) for loss in re.findall(r'^epoch \d: loss ([\d.]+)$', output, re.M)]
    assert len(losses) == 2 and all(0. < loss < 100. for loss in losses)
    assert all(0. <= float(value) <= 100. for value in re.search(r'^AP (.+), AP50 (.+)$', output, re.M).groups())
    args = argparse.Namespace(model='test_resnet', checkpoint=str(checkpoint), size=64)
    detection['create_detector'](args, 20).load_state_dict(torch.load(tmp_path / 'detector.pth', weights_only=True))


def test_detection_reads_boxes(voc, detection):
    train, test = (detection['Boxes'](str(voc), f'2007:{split}', split == 'trainval') for split in ('trainval', 'test'))
    for _ in range(8):  # both ways of the flip
        _, target = train[0]
        assert target['boxes'].tolist() in ([[0, 0, 60, 40]], [[36, 0, 96, 40]]) and target['labels'].tolist() == [12]
    assert [len(train[index][1]['boxes']) for index in range(4)] == [1, 0, 1, 1]  # without difficult and empty boxes
    image, target = test[0]
    assert image.shape == (3, 64, 96) and target['iscrowd'].tolist() == [0, 1]
    assert target['boxes'].tolist() == [[0, 0, 60, 40], [49, 29, 80, 55]] and target['labels'].tolist() == [12, 8]


def test_detection_reads_coco(tmp_path, detection):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'tiny').mkdir()
    Image.new('L', (60, 40)).save(tmp_path / 'tiny' / '1.png')  # gray
    boxes = [(90, [10., 5., 20.5, 30.], 0), (17, [0, 0, 60, 40], 1)]
    (tmp_path / 'annotations/instances_tiny.json').write_text(json.dumps(dict(
        images=[dict(id=7, file_name='1.png', width=60, height=40)], categories=[dict(id=90), dict(id=17)],
        annotations=[dict(id=index, image_id=7, category_id=category, bbox=box, iscrowd=crowd)
                     for index, (category, box, crowd) in enumerate(boxes)])))
    boxes = detection['Boxes'](str(tmp_path), 'tiny', train=False)
    assert boxes.num_classes == 2 and boxes[0][0].shape == (3, 40, 60)
    assert boxes[0][1]['boxes'].tolist() == [[10, 5, 30.5, 35], [0, 0, 60, 40]]
    assert (boxes[0][1]['labels'].tolist(), boxes[0][1]['iscrowd'].tolist()) == ([2, 1], [0, 1])


@pytest.mark.parametrize('name, strides', [
    ('test_resnet', [4, 8, 16, 32]), ('cifar_preactresnet18', [4, 8]), ('test_convnext', [4, 8, 16, 32])])
def test_detection_has_the_weights_of_the_checkpoint(name, strides, tmp_path, detection):
    path, model = saved_classifier(name, tmp_path)
    backbone = detection['Pyramid'](name, str(path)).eval()
    assert backbone.strides == strides
    images = torch.randn(1, 3, 64, 64)
    assert [maps.shape[-1] for maps in backbone(images).values()] == [64 // stride for stride in [*strides, 64]][
        :len(strides)] + [64 // strides[-1] // 2]
    expected = model.eval().forward_intermediates(images, intermediates_only=True)[-1]
    assert torch.allclose(backbone.features(images)[-1], expected, atol=1e-5)
    with pytest.raises(SystemExit, match='weights do not fit resnet18'):
        detection['Pyramid']('resnet18', str(path))


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
