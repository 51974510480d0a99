"""Models of the recipes, built from timm's classes and registered under new names.

The CIFAR models are for images of 32 x 32 pixels.
"""
from typing import Any

import torch.nn as nn
from timm.models import build_model_with_cfg, register_model
from timm.models.efficientnet import EfficientNet, tf_efficientnet_lite0
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

_CONFIG = dict(
    num_classes=10,
    input_size=(3, 32, 32),
    crop_pct=1.,
    interpolation='bicubic',
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


class SmallImageResNet(ResNet):
    """timm's ResNet with a stem for small images: one 3 x 3 convolution, no pooling."""

    def __init__(self, *args: Any, channels=(64, 128, 256, 512), **kwargs: Any):
        # timm lets the width be chosen for a deep stem only
        super().__init__(*args, channels=channels, stem_type='deep', stem_width=channels[0] // 2, **kwargs)
        self.conv1 = nn.Conv2d(self.in_chans, channels[0], 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        for stage in range(len(channels), 4):  # timm's forward calls four stages
            setattr(self, f'layer{stage + 1}', nn.Identity())
        # the stem keeps the resolution: strides are a quarter of timm's, and 1 up to the first stage
        self.feature_info = [dict(info, reduction=max(info['reduction'] // 4, 1)) for info in self.feature_info]
        self.init_weights()


def _create(model_class, name: str, kwargs: dict, **config: Any) -> nn.Module:
    kwargs['pretrained_cfg'] = kwargs.get('pretrained_cfg') or dict(_CONFIG, **config)
    return build_model_with_cfg(model_class, name, **kwargs)


@register_model
def cifar_resnet14(**kwargs) -> ResNet:
    """14 layers of 16, 32 and 64 channels: trains on a CPU."""
    kwargs = dict(block=BasicBlock, layers=(2, 2, 2), channels=(16, 32, 64), **kwargs)
    kwargs['feature_cfg'] = dict(out_indices=(0, 1, 2, 3))
    return _create(SmallImageResNet, 'cifar_resnet14', kwargs, first_conv='conv1', classifier='fc')


@register_model
def cifar_resnet18(**kwargs) -> ResNet:
    """18 layers of 64 to 512 channels: for a GPU."""
    kwargs = dict(block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)
    return _create(SmallImageResNet, 'cifar_resnet18', kwargs, first_conv='conv1', classifier='fc')


@register_model
def cifar_vit(**kwargs) -> VisionTransformer:
    """Four blocks of width 96 over patches of 4 x 4, with a class token: trains on a CPU."""
    kwargs = dict(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3, **kwargs)
    model = _create(VisionTransformer, 'cifar_vit', kwargs, first_conv='patch_embed.proj', classifier='head')
    for block in model.blocks:
        block.attn.fused_attn = False  # on a CPU a bfloat16 step is twice as fast without
    return model


@register_model
def efficientnet_lite0_zero_head(pretrained: bool = False, **kwargs) -> EfficientNet:
    """timm's tf_efficientnet_lite0 with a classifier that starts at zero.

    timm's initial logits are so large that the first loss on ten classes is 5.6, which spoils a short fine-tuning.
    """
    model = tf_efficientnet_lite0(pretrained, **kwargs)
    nn.init.zeros_(model.classifier.weight)
    return model
