"""The model that the flags ask for."""
import argparse
import difflib
import logging
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.data.loader import adapt_to_chs
from timm.layers import convert_splitbn_model, convert_sync_batchnorm
from timm.models import create_model, load_checkpoint, load_state_dict, safe_model_name, split_model_name_tag
from timm.utils.jit import set_jit_fuser

from .. import models  # noqa: F401  registers them
from ..checks import REJECTIONS, UsageError, call_library
from .cli.flag import any_of, take
from .data.naflex import patch_size
from .runtime import Runtime

_logger = logging.getLogger('train')


def create_train_model(args: argparse.Namespace, runtime: Runtime) -> Tuple[nn.Module, Dict[str, Any]]:
    """Create the model on its device, and its data config: input_size, mean, std, interpolation and so on."""
    in_chans = args.in_chans or (args.input_size[0] if args.input_size else 3)
    if args.fuser:
        call_library(f'--fuser {args.fuser}', set_jit_fuser, args.fuser)
    overlay = dict(args.pretrained_cfg_overlay or {})
    if args.pretrained_path:
        _read_checkpoint('--pretrained-path', args.pretrained_path)
        overlay = dict(file=args.pretrained_path, num_classes=-1, **overlay)
    model = create_by_name(
        f'--model {args.model}' + (f' --pretrained-path {args.pretrained_path}' if args.pretrained_path else ''),
        args.model, _create_sized, args.img_size, args.model,
        pretrained=args.pretrained or bool(args.pretrained_path), pretrained_cfg_overlay=overlay or None,
        in_chans=in_chans, drop_rate=args.drop, drop_block_rate=args.drop_block,
        drop_path_rate=args.drop_connect if args.drop_path is None else args.drop_path,
        global_pool=args.gp, scriptable=args.torchscript,
        **take(args, 'num_classes', 'bn_momentum', 'bn_eps'),
        **args.model_kwargs,
        **(dict(errors=Exception) if args.model_kwargs else {}),
    )
    if args.initial_checkpoint:
        _load_initial(model, args.initial_checkpoint)
    _init_head(model, args.head_init_scale, args.head_init_bias)
    if args.grad_checkpointing:
        call_library('--grad-checkpointing', model.set_grad_checkpointing, enable=True)

    data_config = resolve_data_config(vars(args), model=model, verbose=runtime.primary)
    # without a given size, timm takes the channels of the pretrained weights
    data_config['input_size'] = (in_chans, *data_config['input_size'][1:])
    data_config.update({name: adapt_to_chs(data_config[name], in_chans) for name in ('mean', 'std')})
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
        model = call_library('--torchscript', torch.jit.script, model, errors=Exception)
    return model, data_config


def create_by_name(what: str, name: str, create: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function of timm that builds the model of this name; an error that timm finds gets similar names."""
    try:
        return call_library(what, create, *args, **{'errors': (*REJECTIONS, RuntimeError), **kwargs})
    except UsageError as error:
        close = _close_names(name)
        if not close:
            raise
        raise UsageError(f'{error}; did you mean {any_of(close)}?') from error


def _close_names(name: str) -> List[str]:
    if ':' in name:  # a model on a hub
        return []
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        return difflib.get_close_matches(architecture.lower(), timm.list_models(), cutoff=0.8)
    tagged = timm.list_models(f'{architecture}.*', pretrained=True) if tag else [name]
    return [] if name in tagged else difflib.get_close_matches(name, tagged, cutoff=0.)


def _create_sized(img_size: Optional[int], *args: Any, **kwargs: Any) -> nn.Module:
    """Call create_model, with --img-size only for models built for one size; images have that size for all models."""
    if img_size is None or 'img_size' in kwargs:
        return create_model(*args, **kwargs)
    try:
        return create_model(*args, img_size=img_size, **kwargs)
    except TypeError as error:
        if 'img_size' not in str(error):
            raise
        return create_model(*args, **kwargs)


def _load_initial(model: nn.Module, path: str) -> None:
    what, state = f'--initial-checkpoint {path}', _read_checkpoint('--initial-checkpoint', path)
    if state is None:  # a numpy file, which the model reads itself
        call_library(what, load_checkpoint, model, path, errors=Exception)
        return
    what += (f' does not fit this model with {model.num_classes} classes; --pretrained-path accepts another number of '
             f'classes')
    call_library(what, model.load_state_dict, state, errors=RuntimeError)


def _read_checkpoint(flag: str, path: str) -> Optional[Dict[str, torch.Tensor]]:
    if not os.path.isfile(path):
        raise UsageError(f'{flag} {path}: no such file')
    if path.lower().endswith(('.npz', '.npy')):
        return None
    what = f'{flag} {path} is not a timm, torch or safetensors checkpoint'
    state = call_library(what, load_state_dict, path, errors=Exception)  # a bad file can raise anything
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f'{what}: it holds no tensors')
    return state


@torch.no_grad()
def _init_head(model: nn.Module, scale: Optional[float], bias: Optional[float]) -> None:
    classifier = model.get_classifier()
    for flag, value, part in (('--head-init-scale', scale, 'weight'), ('--head-init-bias', bias, 'bias')):
        if value is not None and not isinstance(getattr(classifier, part, None), torch.Tensor):
            raise UsageError(
                f'{flag} needs a model whose classifier is one layer with a {part}, got a {type(classifier).__name__}')
    if scale is not None:
        for parameter in classifier.parameters():
            parameter.mul_(scale)
    if bias is not None:
        classifier.bias.fill_(bias)
