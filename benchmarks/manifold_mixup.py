"""Manifold mixup as published (Verma et al. 2019): `train_timm.py --mixup ALPHA --device-modules THIS_MODULE`.

A batch is mixed with a permutation of itself by one λ ~ Beta(α, α), at a layer that is drawn anew: the images, or the
output of the first or second stage of the model. --mixup-prob, --mixup-off-epoch and --smoothing work as with Mixup.
"""
import argparse
import random
import re
import sys
from typing import Any, Tuple

import numpy as np
import torch
import torch.nn as nn

from timm_multimix import UsageError
from timm_multimix.functional import soft_targets

NUM_STAGES = 2
"""Stages whose output may be mixed; the authors draw from the images and the first two."""


class ManifoldMixup:
    """Called on a batch like timm's Mixup; mixes images, or what a stage of `model` returns in the next forward."""

    def __init__(self, model: nn.Module, args: argparse.Namespace):
        names = [info['module'] for info in getattr(model, 'feature_info', ())]
        names = [name for name in names if re.search(r'(^layer|stages\.|blocks\.|layers\.)\d+$', name)][:NUM_STAGES]
        if len(names) < NUM_STAGES:
            raise UsageError(f'manifold mixup needs a --model with stages in its feature_info, got {args.model}')
        if args.cutmix or args.cutmix_minmax or not args.mixup:
            raise UsageError('manifold mixup needs --mixup alone, without --cutmix')
        self.layers = [None, *(model.get_submodule(name) for name in names)]
        self.num_classes, self.alpha = model.num_classes, args.mixup
        self.prob, self.smoothing = args.mixup_prob, args.smoothing
        self.mixup_enabled = True

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return images `[b, ch, h, w]`, mixed or not, and the mixed targets `[b, c]` of the next forward."""
        target = soft_targets(target, self.num_classes, self.smoothing)
        if not self.mixup_enabled or random.random() >= self.prob:
            return images, target
        lam, order = float(np.random.beta(self.alpha, self.alpha)), torch.randperm(len(images), device=images.device)

        def mix(batch: torch.Tensor) -> torch.Tensor:
            return batch * lam + batch[order] * (1. - lam)

        layer = random.choice(self.layers)
        if layer is None:
            return mix(images), mix(target)

        def mix_once(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            hook.remove()
            return mix(output)

        hook = layer.register_forward_hook(mix_once)
        return images, mix(target)


def _plug_in(script: Any) -> None:
    """Let runs of `script` that name this module in --device-modules use it; others stay as they are."""
    create = script.create_task

    def create_task(args: argparse.Namespace, model: nn.Module, *rest: Any):
        task, mixup_fn = create(args, model, *rest)
        return task, ManifoldMixup(model, args) if __name__ in (args.device_modules or ()) else mixup_fn

    script.create_task = create_task


_scripts = [module for name in ('__main__', 'train_timm') if hasattr(module := sys.modules.get(name), 'create_task')]
if not _scripts:  # anything else would train with plain Mixup
    raise UsageError('benchmarks.manifold_mixup is for --device-modules of train_timm.py')
for _script in _scripts:
    _plug_in(_script)
