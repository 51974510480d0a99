"""NaFlex: images in their own aspect ratio, as sequences of patches (timm's naflexvit models)."""
import argparse
from typing import Any, Dict, Tuple

import torch
import torch.nn as nn
from timm.data.naflex_loader import create_naflex_loader
from timm.data.naflex_mixup import NaFlexMixup
from timm.layers import to_2tuple
from torch.utils.data import Dataset

from ...checks import UsageError
from ..cli.multimix import mixes_input, mixup_kwargs
from ..runtime import Runtime


def create_naflex_loaders(
        args: argparse.Namespace, data_config: Dict[str, Any], runtime: Runtime, datasets: Tuple[Dataset, Dataset],
        training: Dict[str, Any], validation: Dict[str, Any], shared: Dict[str, Any],
) -> Tuple[Any, Any]:
    """Create the training and validation loaders; images of different sizes are mixed in the training dataset."""
    sizes, probs = args.naflex_patch_sizes, args.naflex_patch_size_probs
    if probs and (not sizes or len(sizes) != len(probs)):
        raise UsageError(
            f'--naflex-patch-size-probs must have one value for each of --naflex-patch-sizes ({sizes}), got {probs}')
    fixed = dict(patch_size=data_config['patch_size'])
    patches = dict(patch_size_choices=sizes, patch_size_choice_probs=probs) if sizes else fixed
    shared = dict(
        shared, max_seq_len=args.naflex_max_seq_len, channels=data_config['input_size'][0],
        patchify_channels_last=not args.naflex_patchify_channels_first)
    mixup_fn = None
    if mixes_input(args):
        mixup_fn = NaFlexMixup(
            **mixup_kwargs(args), mixup_off_epoch=args.mixup_off_epoch, num_classes=data_config['num_classes'],
            label_smoothing=args.smoothing)
    loader_train = create_naflex_loader(
        datasets[0], train_seq_lens=tuple(args.naflex_train_seq_lens), mixup_fn=mixup_fn, rank=runtime.rank,
        world_size=runtime.world_size, seed=args.seed, **patches, **training, **shared)
    return loader_train, create_naflex_loader(datasets[1], **fixed, **validation, **shared)


def patch_size(model: nn.Module) -> Tuple[int, int]:
    """The patch size of a NaFlex model; other models are refused."""
    if not hasattr(model, 'get_patch_size'):
        raise UsageError(f'--naflex-loader needs a naflexvit or gemma4_vit model, got {type(model).__name__}')
    return to_2tuple(model.get_patch_size())


def to_device(value: Any, device: torch.device, dtype: Any = None) -> Any:
    """Move images, or a dictionary of patches, to the device; floating-point tensors also to `dtype`."""
    if isinstance(value, dict):
        return {name: to_device(part, device, dtype) for name, part in value.items()}
    if not isinstance(value, torch.Tensor):  # a number that goes with the patches
        return value
    return value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)
