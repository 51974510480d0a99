"""Models for small images."""
import pytest
import timm
import torch

from timm_multimix import MultiMixTask
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.model import create_train_model
from timm_multimix.training.runtime import create_runtime

SMALL = {  # parameters for ten classes, those of the papers in millions; positions; strides of stem and stages
    'cifar_resnet14': (0.18, 64, [1, 1, 2, 4]),
    'cifar_resnet18': (11.17, 16, [1, 1, 2, 4, 8]),
    'cifar_vit': (0.46, 64, None),
    'cifar_preactresnet18': (11.17, 16, [1, 1, 2, 4, 8]),
    'cifar_preactresnet50': (23.51, 16, [1, 1, 2, 4, 8]),
    'cifar_wrn16_8': (10.96, 64, [1, 1, 2, 4]),
}


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if name in (
    'cifar_resnet18', 'cifar_preactresnet50', 'cifar_wrn16_8') else ()) for name in SMALL])
def test_models_of_small_images_train_with_dense_multimix(name):
    millions, positions, strides = SMALL[name]
    model = timm.create_model(name)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions
    task = MultiMixTask(model, mode='dense-multimix', num_tuples=2, attention='cam', verbose=False)
    images = torch.randn(2, 3, 32, 32)
    outputs = task.trainable_module(images, torch.tensor([0, 1]))
    assert outputs.dense_logits.shape == (2, positions, 10)
    task(images, torch.tensor([0, 1]))['loss'].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.pretrained_cfg['input_size'] == (3, 32, 32)
    if strides is not None:
        features = timm.create_model(name, features_only=True, in_chans=1)
        assert features.feature_info.reduction() == strides
        sizes = [(width, 32 // stride) for width, stride in zip(features.feature_info.channels(), strides)]
        assert [maps.shape[1:3] for maps in features(images[:, :1])] == sizes


def test_a_classifier_of_zeros():
    model = timm.create_model('efficientnet_lite0_zero_head', num_classes=7).eval()
    assert torch.equal(model(torch.randn(2, 3, 64, 64)), torch.zeros(2, 7))


def test_the_script_and_timm_know_them_by_name():
    args, _ = parse_args(['DIR', '--model', 'cifar_vit', '--num-classes', '100', '--device', 'cpu'])
    _, config = create_train_model(args, create_runtime(args))
    assert config['input_size'] == (3, 32, 32) and config['num_classes'] == 100
    assert {*timm.list_models('cifar_*')} == {*SMALL}
