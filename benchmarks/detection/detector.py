"""torchvision's detectors on a timm model."""
from typing import Any, Dict

import torch.nn as nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from timm_multimix.checks import call_library

from .backbone import PyramidBackbone
from .recipes import Recipe

DETECTORS = ('fasterrcnn', 'retinanet')
_RATIOS = (0.5, 1., 2.)
_P3 = 8  # stride of RetinaNet's finest level


def create_detector(features: nn.Module, num_classes: int, recipe: Recipe, data_config: Dict[str, Any]) -> nn.Module:
    """Create Faster R-CNN or RetinaNet with a feature pyramid, as in torchvision, for `num_classes` classes of objects.

    Anchors follow the strides: 8 pixels per pixel of stride for Faster R-CNN, 4 (and two octave steps) for RetinaNet,
    as in the papers (arXiv 1612.03144, 1708.02002). So do the pyramids: they start at the recipe's `min_stride` for
    Faster R-CNN, and at 8 (P3 to P7 on strides up to 32) for RetinaNet. Features that end at stride 8 or before, such
    as those for small images, would leave RetinaNet few levels, so its pyramid then starts at `min_stride` too. With
    the CPU recipes on `cifar_resnet14` its strides are 2 and 4 from the backbone, 8 and 16 on top, and its anchors
    start at 8 pixels instead of 32.
    """
    if recipe.detector not in DETECTORS:
        raise ValueError(f'--detector must be one of {", ".join(DETECTORS)}, got {recipe.detector!r}')
    images = dict(
        min_size=recipe.min_size, max_size=recipe.max_size, image_mean=list(data_config['mean']),
        image_std=list(data_config['std']))
    width = recipe.pyramid_channels
    what = f'--model {recipe.model}'
    if recipe.detector == 'retinanet':
        deep = max(features.feature_info.reduction()) > _P3
        min_stride = max(recipe.min_stride, _P3) if deep else recipe.min_stride
        backbone = call_library(what, PyramidBackbone, features, width, min_stride, LastLevelP6P7(width, width))
        strides = [*backbone.strides, backbone.strides[-1] * 2, backbone.strides[-1] * 4]
        sizes = tuple(tuple(4 * stride * 2 ** (step / 3) for step in range(3)) for stride in strides)
        anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
        return RetinaNet(
            backbone, num_classes + 1, anchor_generator=anchors, detections_per_img=100,
            topk_candidates=recipe.proposals[1], **images)
    backbone = call_library(what, PyramidBackbone, features, width, recipe.min_stride, LastLevelMaxPool())
    strides = [*backbone.strides, backbone.strides[-1] * 2]
    names = [str(level) for level in range(len(backbone.strides))]
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(tuple((8 * stride,) for stride in strides), (_RATIOS,) * len(strides)),
        rpn_pre_nms_top_n_train=recipe.proposals[0],
        rpn_pre_nms_top_n_test=recipe.proposals[1],
        rpn_post_nms_top_n_train=recipe.proposals[0],
        rpn_post_nms_top_n_test=recipe.proposals[1],
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(width * 7 ** 2, recipe.hidden),
        box_predictor=FastRCNNPredictor(recipe.hidden, num_classes + 1),
        box_batch_size_per_image=recipe.regions,
        **images,
    )
