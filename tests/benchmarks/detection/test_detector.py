"""torchvision's detectors on every kind of backbone: anchors, losses, detections."""
from dataclasses import replace

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.detection.backbone import create_features
from benchmarks.detection.detector import create_detector
from benchmarks.detection.recipes import RECIPES


@pytest.mark.parametrize('detector', ['fasterrcnn', 'retinanet'])
@pytest.mark.parametrize('model', ['test_resnet', 'test_convnext', 'cifar_resnet14'])
def test_losses_and_detections(model, detector, tiny):
    recipe = replace(tiny, model=model, detector=detector)
    features, data_config = create_features(model)
    network = create_detector(features, 3, recipe, data_config)
    assert network.transform.image_mean == list(data_config['mean'])
    images = [torch.rand(3, 64, 48), torch.rand(3, 40, 64)]
    targets = [
        dict(boxes=torch.tensor([[4., 4., 30., 28.]]), labels=torch.tensor([3])),
        dict(boxes=torch.tensor([[10., 0., 30., 20.], [30., 20., 60., 38.]]), labels=torch.tensor([1, 2]))]
    for precision in (False, True):
        network.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=precision):
            losses = network(images, targets)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    with torch.no_grad():
        found = network.eval()(images)
    assert [set(entry) for entry in found] == [{'boxes', 'labels', 'scores'}] * 2
    assert all(((entry['labels'] >= 1) & (entry['labels'] <= 3)).all() for entry in found)


def test_anchors_are_those_of_the_papers():
    """32 to 512 pixels in three shapes, on strides 4 to 64 with Faster R-CNN, on 8 to 128 with RetinaNet."""
    recipe = replace(RECIPES['coco'], pyramid_channels=8, hidden=8)
    data_config = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    network = create_detector(create_features('test_resnet')[0], 80, recipe, data_config)
    assert network.backbone.strides == [4, 8, 16, 32]
    assert network.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    network = create_detector(create_features('test_resnet')[0], 80, replace(recipe, detector='retinanet'), data_config)
    assert network.backbone.strides == [8, 16, 32]
    assert len(network.backbone(torch.randn(1, 3, 128, 128))) == 5
    assert [round(sizes[0]) for sizes in network.anchor_generator.sizes] == [32, 64, 128, 256, 512]
    assert network.anchor_generator.num_anchors_per_location() == [9] * 5


@pytest.mark.parametrize('detector, model, min_stride, strides, smallest', [
    ('fasterrcnn', 'cifar_resnet14', 2, [2, 4], 16),
    ('fasterrcnn', 'test_resnet', 2, [2, 4, 8, 16, 32], 16),
    ('retinanet', 'cifar_resnet14', 2, [2, 4], 8),
    ('retinanet', 'cifar_resnet18', 2, [2, 4, 8], 8),
    ('retinanet', 'test_resnet', 2, [8, 16, 32], 32),
    ('retinanet', 'test_resnet', 16, [16, 32], 64),
])
def test_strides_and_smallest_anchors(detector, model, min_stride, strides, smallest):
    recipe = replace(RECIPES['digits'], detector=detector, model=model, min_stride=min_stride, pyramid_channels=8)
    features, data_config = create_features(model)
    network = create_detector(features, 3, recipe, data_config)
    assert network.backbone.strides == strides
    anchors = network.anchor_generator if detector == 'retinanet' else network.rpn.anchor_generator
    assert anchors.sizes[0][0] == smallest


def test_unknown_detectors_and_strides_out_of_reach_are_refused(tiny):
    features, data_config = create_features('test_resnet')
    with pytest.raises(ValueError, match="--detector must be one of fasterrcnn, retinanet, got 'yolo'"):
        create_detector(features, 3, replace(tiny, detector='yolo'), data_config)
    with pytest.raises(ValueError, match='--model test_resnet: .* none of 64 or more'):
        create_detector(features, 3, replace(tiny, min_stride=64), data_config)
