"""Small timm models with random weights, known facts about each of them, and a minimal model with timm's interface."""
import copy
import functools
from typing import NamedTuple, Optional

import timm
import torch
import torch.nn as nn

NUM_CLASSES = 7


class Spec(NamedTuple):
    name: str
    kwargs: dict
    size: int  # of the images, in pixels
    format: str  # layout of forward_features
    num_prefix_tokens: int = 0
    input_size: Optional[tuple] = None  # only if the model's config does not say


_SMALL = dict(img_size=64, depth=2, embed_dim=48, num_heads=3)
MODELS = {
    'resnet': Spec('test_resnet', {}, 64, 'NCHW'),
    'efficientnet': Spec('test_efficientnet', {}, 64, 'NCHW'),
    'convnext': Spec('test_convnext', {}, 64, 'NCHW'),
    'mobilenetv4': Spec('mobilenetv4_conv_small_035', {}, 64, 'NCHW'),
    'repvit': Spec('repvit_m0_9', dict(depth=(1, 1, 1, 1), embed_dim=(16, 24, 32, 48)), 64, 'NCHW'),
    'mambaout': Spec('test_mambaout', {}, 64, 'NHWC'),
    'swin': Spec(
        'swin_tiny_patch4_window7_224', dict(img_size=112, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        112, 'NHWC'),
    'vit': Spec('vit_tiny_patch16_224', _SMALL, 64, 'NLC', 1),
    'vit_avg': Spec('vit_tiny_patch16_224', dict(_SMALL, global_pool='avg'), 64, 'NLC', 1),
    'vit_avg_no_class': Spec('vit_tiny_patch16_224', dict(_SMALL, global_pool='avg', class_token=False), 64, 'NLC'),
    'vit_registers': Spec('vit_small_patch14_reg4_dinov2', dict(_SMALL, img_size=56), 56, 'NLC', 5),
    'vit_map': Spec('vit_base_patch16_siglip_224', _SMALL, 64, 'NLC'),
    'deit_distilled': Spec('deit_tiny_distilled_patch16_224', _SMALL, 64, 'NLC', 2),
    'cait': Spec('cait_xxs24_224', _SMALL, 64, 'NLC', 1),
    'coat_lite': Spec(
        'coat_lite_tiny', dict(img_size=64, embed_dims=(16, 32, 48, 64), serial_depths=(1, 1, 1, 1)), 64, 'NLC', 1,
        (3, 64, 64)),
    'levit': Spec(
        'levit_128s', dict(depth=(1, 1, 1), embed_dim=(32, 48, 64), num_heads=(2, 3, 4), key_dim=8), 224, 'NLC'),
}


def build(key, **kwargs):
    """Build the model in eval mode, with weights, norms and statistics such that every layer has an effect."""
    return copy.deepcopy(_build(key, **kwargs))


@functools.cache
def _build(key, **kwargs):
    spec = MODELS[key]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(spec.name, **{'num_classes': NUM_CLASSES, **spec.kwargs, **kwargs}).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim < 2:  # some start at or near zero: biases, layer scale, last norms of a block
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif name.endswith('weight'):
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
            _calibrate(model, images(key, 4)[:, :kwargs.get('in_chans', 3)])
    return model


def _calibrate(model, x):
    """Set the running statistics from one batch, so that signals neither die out nor blow up."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.
    if norms:
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def images(key, batch_size=2, seed=1):
    size = MODELS[key].size
    return torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(seed))


def labels(batch_size, seed=2):
    return torch.randint(NUM_CLASSES, (batch_size,), generator=torch.Generator().manual_seed(seed))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


class Positions(nn.Module):
    """The smallest model with timm's interface: its features are the images, its head a pooled linear classifier."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(3, num_classes)

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))
