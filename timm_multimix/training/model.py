"""The model that the flags ask for."""
import argparse
import logging
import os
from typing import Any, Dict, Tuple

import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.layers import convert_splitbn_model, convert_sync_batchnorm
from timm.models import create_model, load_checkpoint, safe_model_name
from timm.utils.jit import set_jit_fuser

from .data.naflex import patch_size
from .errors import named
from .runtime import Runtime

_logger = logging.getLogger('train')


def create_train_model(args: argparse.Namespace, runtime: Runtime) -> Tuple[nn.Module, Dict[str, Any]]:
    """The model on its device, and its data config (input_size, mean, std, interpolation, crop_pct, num_classes).

    Raises:
        ValueError: If the model is unknown or cannot be built with these flags.
    """
    in_chans = args.in_chans or (args.input_size[0] if args.input_size else 3)
    factory_kwargs: Dict[str, Any] = {}
    if args.fuser:
        with named(f'--fuser {args.fuser}'):
            set_jit_fuser(args.fuser)
    overlay = dict(args.pretrained_cfg_overlay or {})
    if args.pretrained_path:
        if not os.path.isfile(args.pretrained_path):
            raise ValueError(f'--pretrained-path {args.pretrained_path}: no such file')
        overlay = dict(file=args.pretrained_path, num_classes=-1, **overlay)
    if overlay:
        factory_kwargs['pretrained_cfg_overlay'] = overlay
    what = f'--model {args.model}' + (f' --pretrained-path {args.pretrained_path}' if args.pretrained_path else '')
    with named(what):
        model = _create_sized(
            args,
            args.model,
            pretrained=args.pretrained or bool(args.pretrained_path),
            in_chans=in_chans,
            num_classes=args.num_classes,
            drop_rate=args.drop,
            drop_path_rate=args.drop_connect if args.drop_path is None else args.drop_path,
            drop_block_rate=args.drop_block,
            global_pool=args.gp,
            bn_momentum=args.bn_momentum,
            bn_eps=args.bn_eps,
            scriptable=args.torchscript,
            **factory_kwargs,
            **args.model_kwargs,
        )
    if args.initial_checkpoint and not os.path.exists(args.initial_checkpoint):
        raise ValueError(f'--initial-checkpoint {args.initial_checkpoint}: no such file')
    if args.initial_checkpoint:
        with named(f'--initial-checkpoint {args.initial_checkpoint}'):
            load_checkpoint(model, args.initial_checkpoint)
    _init_head(model, args)
    if args.grad_checkpointing:
        with named('--grad-checkpointing'):
            model.set_grad_checkpointing(enable=True)

    data_config = resolve_data_config(vars(args), model=model, verbose=runtime.primary)
    data_config['num_classes'] = model.num_classes if args.num_classes is None else args.num_classes
    if args.naflex_loader:
        data_config['patch_size'] = patch_size(model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    _logger.info(f'Model {safe_model_name(args.model)} created, param count:{num_parameters}')

    if args.split_bn:
        model = convert_splitbn_model(model, max(args.aug_splits, 2))
    model.to(device=runtime.device, dtype=runtime.model_dtype)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    if runtime.distributed and args.sync_bn:
        model = convert_sync_batchnorm(model)
    if args.torchscript:
        with named('--torchscript'):
            model = torch.jit.script(model)
    return model, data_config


def _create_sized(args: argparse.Namespace, *positional: Any, **kwargs: Any) -> nn.Module:
    """--img-size goes to the models that are built for a size; it is the size of the images for all."""
    if args.img_size is None or 'img_size' in kwargs:
        return create_model(*positional, **kwargs)
    try:
        return create_model(*positional, img_size=args.img_size, **kwargs)
    except TypeError as error:
        if 'img_size' not in str(error):
            raise
        return create_model(*positional, **kwargs)


@torch.no_grad()
def _init_head(model: nn.Module, args: argparse.Namespace) -> None:
    if args.head_init_scale is not None:
        model.get_classifier().weight.mul_(args.head_init_scale)
        if model.get_classifier().bias is not None:
            model.get_classifier().bias.mul_(args.head_init_scale)
    if args.head_init_bias is not None:
        nn.init.constant_(model.get_classifier().bias, args.head_init_bias)

