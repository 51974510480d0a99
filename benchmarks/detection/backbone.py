"""timm models as backbones of torchvision's detectors: features of several strides, then a feature pyramid."""
import inspect
from collections import OrderedDict
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.layers import freeze_batch_norm_2d
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from timm_multimix.checks import REJECTIONS, call_library

from .checkpoint import Checkpoint

_PROBE = (96, 128)  # [h, w]: not square, so that models of a fixed size fail


class PyramidBackbone(nn.Module):
    """`[b, 3, h, w]` → an OrderedDict of maps `[b, out_channels, h / stride, w / stride]`, fine to coarse.

    It has `out_channels`, as torchvision's detectors require, and the `strides` of its maps.

    Args:
        features: A timm model built with `features_only=True`.
        out_channels: Width of the pyramid.
        min_stride: Stride of the finest level that is used.
        extra_blocks: A block of torchvision for coarser levels on top.
    """

    def __init__(
            self,
            features: nn.Module,
            out_channels: int = 256,
            min_stride: int = 4,
            extra_blocks: Optional[ExtraFPNBlock] = None,
    ):
        super().__init__()
        channels, strides = features.feature_info.channels(), features.feature_info.reduction()
        # of several stages with the same stride the last, which is the deepest
        self.levels = [
            level for level, stride in enumerate(strides) if stride >= min_stride and stride not in strides[level + 1:]]
        self.strides = [strides[level] for level in self.levels]
        if not self.levels or self.strides != sorted(self.strides):
            raise ValueError(f'the backbone has features of stride {strides}, none of {min_stride} or more')
        if len(set(strides)) == 1:
            raise ValueError(
                f'a feature pyramid needs a backbone with features of growing stride, this one has {strides}')
        self.features = features
        self.channels_last = self._find_layout([channels[level] for level in self.levels])
        self.out_channels = out_channels
        self.fpn = FeaturePyramidNetwork(
            [channels[level] for level in self.levels], out_channels, extra_blocks=extra_blocks)

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        return self.fpn(self._maps(images))

    def _maps(self, images: torch.Tensor) -> 'OrderedDict[str, torch.Tensor]':
        maps = self.features(images)
        maps = [maps[level] for level in self.levels]
        if self.channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        return OrderedDict((str(index), features) for index, features in enumerate(maps))

    @torch.no_grad()
    def _find_layout(self, channels: List[int]) -> bool:
        """Run the model once; return whether its maps are `[b, h, w, c]`."""
        training = self.features.training
        what = f'the backbone takes no image of {_PROBE[0]} x {_PROBE[1]} pixels'
        maps = call_library(what, self.features.eval(), torch.zeros(1, 3, *_PROBE))
        self.features.train(training)
        shapes = [tuple(maps[level].shape) for level in self.levels]
        sizes = [tuple(-(-side // stride) for side in _PROBE) for stride in self.strides]
        if shapes == [(1, width, *size) for width, size in zip(channels, sizes)]:
            return False
        if shapes == [(1, *size, width) for width, size in zip(channels, sizes)]:
            return True
        raise ValueError(f'the backbone must give maps of its stated strides {self.strides}, got {shapes}')


def create_features(
        model: str,
        checkpoint: Optional[Checkpoint] = None,
        freeze_bn: bool = False,
) -> Tuple[nn.Module, Dict[str, Any]]:
    """Create a timm model with `features_only` and a checkpoint's weights or random ones; also return its data config.

    The whole classifier is loaded first and strictly, so that a weight that does not fit is an error. With `freeze_bn`
    batch norms keep their statistics and weights, as is usual for few images per process.
    """
    args = checkpoint.args if checkpoint else {}
    kwargs = dict(args.get('model_kwargs') or {})
    in_chans = args.get('in_chans') or (args.get('input_size') or [3])[0]
    if in_chans != 3:
        raise ValueError(f'--checkpoint {checkpoint.path}: detectors take images of 3 channels, it was trained on '
                         f'{in_chans}')
    what = f'--model {model}'
    if args.get('img_size'):
        plain = call_library(what, timm.create_model, model, errors=(*REJECTIONS, RuntimeError))
        if hasattr(getattr(plain, 'patch_embed', None), 'img_size'):
            kwargs.setdefault('img_size', args['img_size'])  # other models have no fixed size
    whole = call_library(
        what, timm.create_model, model, num_classes=args.get('num_classes'), global_pool=args.get('gp'), **kwargs)
    for name, value in (('strict_img_size', False), ('dynamic_img_size', True)):
        if name in inspect.signature(type(whole).__init__).parameters:
            kwargs[name] = value  # a detector's images have any size
    data_config = resolve_data_config(args, model=whole)
    weights = {}
    if checkpoint:
        _check_weights(checkpoint, whole.state_dict(), model)
        whole.load_state_dict(checkpoint.state_dict)
        weights = dict(
            pretrained=True, pretrained_cfg_overlay=dict(state_dict=dict(checkpoint.state_dict), source='', url=''))
    features = call_library(what, timm.create_model, model, features_only=True, **weights, **kwargs)
    features.pretrained_cfg = features.default_cfg = {}  # the weights would be kept a second time
    return freeze_batch_norm_2d(features) if freeze_bn else features, data_config


def _check_weights(checkpoint: Checkpoint, expected: Dict[str, torch.Tensor], model: str) -> None:
    shapes, own = ({name: tuple(value.shape) for name, value in state.items()}
                   for state in (expected, checkpoint.state_dict))
    wrong = [name for name in {**shapes, **own} if shapes.get(name) != own.get(name)]
    if wrong:
        raise ValueError(
            f'--checkpoint {checkpoint.path}: its weights are not those of {model}; missing, unknown or of another '
            f'shape: {len(wrong)} of {len(shapes)}: {", ".join(wrong[:5])}{", ..." if len(wrong) > 5 else ""}')
