"""Feature pyramids of timm's layouts, with the weights of the checkpoint."""
import pytest
import timm
import torch

from benchmarks import models  # noqa: F401  registers them
from benchmarks.detection.backbone import PyramidBackbone, create_features
from benchmarks.detection.checkpoint import read_checkpoint

SWIN = dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
CASES = [
    ('resnet18', dict(channels=(8, 16, 16, 24), stem_width=8, stem_type='deep'), (4, 8, 16, 32)),
    ('test_convnext', {}, (4, 8, 16, 32)),
    ('swin_tiny_patch4_window7_224', SWIN, (4, 8, 16, 32)),
    ('swinv2_tiny_window8_256', dict(SWIN, window_size=8), (4, 8, 16, 32)),
    ('test_efficientnet', {}, (4, 8, 16, 32)),
    ('cifar_resnet14', {}, (4,)),
]


@pytest.mark.parametrize('model, kwargs, strides', CASES, ids=[case[0] for case in CASES])
def test_pyramid_levels_are_the_classifiers_own_features(model, kwargs, strides, save_checkpoint):
    checkpoint = read_checkpoint(save_checkpoint(model, model_kwargs=kwargs), model)
    features, data_config = create_features(model, checkpoint)
    whole = timm.create_model(model, num_classes=5, **kwargs)
    whole.load_state_dict(checkpoint.state_dict)
    assert data_config['mean'] == whole.pretrained_cfg['mean']
    backbone = PyramidBackbone(features, out_channels=12).eval()
    assert backbone.out_channels == 12 and tuple(backbone.strides) == strides

    images = torch.randn(2, 3, 128, 160)
    maps = backbone(images)
    sizes = [(128 // stride, 160 // stride) for stride in strides]
    assert [tuple(level.shape) for level in maps.values()] == [(2, 12, *size) for size in sizes]

    # the same maps that the whole classifier computes on the way to its logits
    size = whole.pretrained_cfg['input_size'][1:]
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = whole.eval().forward_intermediates(images, norm=False, intermediates_only=True)[-len(strides):]
        for level, other in zip(backbone._maps(images).values(), expected):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


def test_models_of_small_images_have_features_of_the_stated_strides():
    for model, strides in (('cifar_resnet14', [1, 1, 2, 4]), ('cifar_resnet18', [1, 1, 2, 4, 8])):
        features = timm.create_model(model, features_only=True)
        assert features.feature_info.reduction() == strides
        for level, stride, width in zip(features(torch.randn(1, 3, 32, 48)), strides, features.feature_info.channels()):
            assert level.shape == (1, width, 32 // stride, 48 // stride)


def test_gradients_reach_every_parameter():
    features, _ = create_features('cifar_resnet14')
    backbone = PyramidBackbone(features, out_channels=8, min_stride=2)
    sum(level.sum() for level in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())  # otherwise DDP would wait for them


@pytest.mark.parametrize('freeze', [False, True])
def test_frozen_batch_norms_do_not_move(freeze, save_checkpoint):
    checkpoint = read_checkpoint(save_checkpoint('resnet18', model_kwargs=CASES[0][1]), 'resnet18')
    backbone = PyramidBackbone(create_features('resnet18', checkpoint, freeze_bn=freeze)[0], out_channels=8)
    norms = {name: value.clone() for name, value in backbone.features.state_dict().items() if 'bn1' in name}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1.)
    backbone.train()
    sum(level.square().sum() for level in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    moved = [name for name, value in norms.items() if not torch.equal(value, backbone.features.state_dict()[name])]
    assert (not moved) == freeze
    assert backbone.features.conv1[0].weight.grad is not None


def test_models_without_a_pyramid_are_refused():
    with pytest.raises(ValueError, match=r'features of growing stride, this one has \[16, 16'):
        PyramidBackbone(create_features('test_vit')[0])
    with pytest.raises(ValueError, match=r'features of stride \[1, 1, 2, 4\], none of 8 or more'):
        PyramidBackbone(create_features('cifar_resnet14')[0], min_stride=8)
    with pytest.raises(ValueError, match='takes no image of 96 x 128 pixels'):
        PyramidBackbone(timm.create_model('swin_tiny_patch4_window7_224', features_only=True, **SWIN))
    with pytest.raises(ValueError, match='--model no_such_model: Unknown model'):
        create_features('no_such_model')
    with pytest.raises(ValueError, match='--model test_mlp_mixer: '):
        create_features('test_mlp_mixer')


def test_images_of_one_channel_are_refused(save_checkpoint):
    checkpoint = read_checkpoint(save_checkpoint(in_chans=1), 'test_resnet')
    with pytest.raises(ValueError, match='images of 3 channels, it was trained on 1'):
        create_features('test_resnet', checkpoint)


def test_a_transformer_trained_at_another_image_size(save_checkpoint):
    """At 64 pixels the windows of the last stage are smaller, and so are their tables of positions."""
    model = 'swin_tiny_patch4_window7_224'
    checkpoint = read_checkpoint(save_checkpoint(model, model_kwargs=SWIN, img_size=64), model)
    maps = PyramidBackbone(create_features(model, checkpoint)[0], out_channels=8)(torch.randn(1, 3, 96, 160))
    assert [level.shape[-2:] for level in maps.values()] == [(24, 40), (12, 20), (6, 10), (3, 5)]
    with pytest.raises(ValueError, match='its weights are not those of .*relative_position_bias_table'):
        create_features(model, checkpoint._replace(args=dict(checkpoint.args, img_size=None)))
