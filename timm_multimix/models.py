"""Models for images of 32 x 32 pixels, built from timm's classes and registered with timm by importing this module.

`cifar_resnet14` and `cifar_vit` train on a CPU. The others are those of published results on CIFAR: pre-activation
ResNets (arXiv 1603.05027) and a wide one (arXiv 1605.07146). All strides are in the stages, not in the stem.
"""
from collections import OrderedDict
from typing import Any, Dict, Tuple

import torch.nn as nn
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, tf_efficientnet_lite0
from timm.models.resnet import BasicBlock, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer


def _cfg(first_conv: str, classifier: str) -> Dict[str, Any]:
    return dict(
        num_classes=10, input_size=(3, 32, 32), crop_pct=1., interpolation='bicubic', mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616), first_conv=first_conv, classifier=classifier)


default_cfgs = generate_default_cfgs({
    'cifar_resnet14': _cfg('conv1', 'fc'),
    'cifar_resnet18': _cfg('conv1', 'fc'),
    'cifar_vit': _cfg('patch_embed.proj', 'head'),
    'cifar_preactresnet18': _cfg('stem.conv', 'head.fc'),
    'cifar_preactresnet50': _cfg('stem.conv', 'head.fc'),
    'cifar_wrn16_8': _cfg('stem.conv', 'head.fc'),
})


class SmallImageResNet(ResNet):
    """timm's ResNet with a stem for small images: one 3 x 3 convolution, no pooling."""

    def __init__(self, *args: Any, channels: Tuple[int, ...] = (64, 128, 256, 512), **kwargs: Any):
        # timm lets the width be chosen for a deep stem only
        super().__init__(*args, channels=channels, stem_type='deep', stem_width=channels[0] // 2, **kwargs)
        self.conv1 = nn.Conv2d(self.in_chans, channels[0], 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        for stage in range(len(channels), 4):  # timm's forward calls four stages
            setattr(self, f'layer{stage + 1}', nn.Identity())
        self.feature_info = _without_stem_stride(self.feature_info)
        self.init_weights()


class SmallImageResNetV2(ResNetV2):
    """timm's pre-activation ResNet with batch norms and a stem for small images: one 3 x 3 convolution, no pooling."""

    def __init__(self, *args: Any, stem_chs: int = 64, **kwargs: Any):
        super().__init__(*args, stem_chs=stem_chs, norm_layer=BatchNormAct2d, conv_layer=create_conv2d, **kwargs)
        conv = nn.Conv2d(self.in_chans, stem_chs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')  # as timm's other layers
        self.stem = nn.Sequential(OrderedDict(conv=conv))
        self.feature_info = _without_stem_stride(self.feature_info)


def _without_stem_stride(feature_info: list) -> list:
    """Strides are a quarter of timm's, and 1 up to the first stage."""
    return [dict(info, reduction=max(info['reduction'] // 4, 1)) for info in feature_info]


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """14 layers of 16, 32 and 64 channels: trains on a CPU."""
    return build_model_with_cfg(
        SmallImageResNet, 'cifar_resnet14', pretrained, block=BasicBlock, layers=(2, 2, 2), channels=(16, 32, 64),
        feature_cfg=dict(out_indices=(0, 1, 2, 3)), **kwargs)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """18 layers of 64 to 512 channels: for a GPU."""
    return build_model_with_cfg(
        SmallImageResNet, 'cifar_resnet18', pretrained, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)


@register_model
def cifar_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Four blocks of width 96 over patches of 4 x 4, with a class token: trains on a CPU."""
    model = build_model_with_cfg(
        VisionTransformer, 'cifar_vit', pretrained,
        **dict(dict(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3), **kwargs))
    for block in model.blocks:
        block.attn.fused_attn = False  # on a CPU a bfloat16 step is twice as fast without
    return model


def _create_preact(name: str, pretrained: bool, layers: Tuple[int, ...], **kwargs: Any) -> ResNetV2:
    # features: the stem and each stage
    feature_cfg = dict(flatten_sequential=True, out_indices=tuple(range(len(layers) + 1)))
    return build_model_with_cfg(SmallImageResNetV2, name, pretrained, layers=layers, feature_cfg=feature_cfg, **kwargs)


@register_model
def cifar_preactresnet18(pretrained: bool = False, **kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet of 18 layers, 64 to 512 channels; 11.2 million parameters."""
    return _create_preact(
        'cifar_preactresnet18', pretrained, (2, 2, 2, 2), channels=(64, 128, 256, 512), basic=True, bottle_ratio=1.,
        **kwargs)


@register_model
def cifar_preactresnet50(pretrained: bool = False, **kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet of 50 layers, with bottlenecks, 256 to 2,048 channels; 23.5 million parameters."""
    return _create_preact('cifar_preactresnet50', pretrained, (3, 4, 6, 3), **kwargs)


@register_model
def cifar_wrn16_8(pretrained: bool = False, **kwargs: Any) -> ResNetV2:
    """Wide ResNet of 16 layers, 8 times as wide: 128 to 512 channels; 11.0 million parameters."""
    return _create_preact(
        'cifar_wrn16_8', pretrained, (2, 2, 2), channels=(128, 256, 512), stem_chs=16, basic=True, bottle_ratio=1.,
        **kwargs)


@register_model
def efficientnet_lite0_zero_head(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """timm's tf_efficientnet_lite0 with a classifier that starts at zero.

    timm's initial logits are so large that the first loss on ten classes is 5.6, which spoils a short fine-tuning.
    """
    model = tf_efficientnet_lite0(pretrained, **kwargs)
    nn.init.zeros_(model.classifier.weight)
    return model
