"""Where a run computes: device, processes, precision, seeds."""
import argparse
import importlib
import logging
from contextlib import nullcontext
from functools import partial
from typing import Callable, NamedTuple, Optional

import torch
from timm.layers import set_fast_norm
from timm.utils import NativeScaler, init_distributed_device, is_primary, random_seed

from .errors import named

_logger = logging.getLogger('train')


class Runtime(NamedTuple):
    """`autocast` makes the context of a forward pass; `loss_scaler` is None but for float16 AMP."""
    device: torch.device
    primary: bool
    autocast: Callable
    loss_scaler: Optional[NativeScaler]
    model_dtype: Optional[torch.dtype]


def seed_epoch(args: argparse.Namespace, epoch: int) -> None:
    """Seed every generator for an epoch, so that a resumed run goes on exactly as an uninterrupted one.

    The first epoch keeps the seed of the process, which the model was built from, as in timm.
    """
    if epoch > 0:
        random_seed((args.seed + 1_000_003 * epoch) % (2 ** 32 - args.world_size), args.rank)  # numpy takes 32 bits


def create_runtime(args: argparse.Namespace) -> Runtime:
    """Set up the device and the process group; sets `args.device`, `rank`, `world_size` and `distributed`.

    Raises:
        ValueError: If a device or dtype is not available.
    """
    for module in args.device_modules or ():
        with named(f'--device-modules {module}'):
            importlib.import_module(module)
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        _logger.info(f'No GPU found: training on the CPU instead of {args.device}.')
        args.device = 'cpu'
    try:
        device = init_distributed_device(args)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'--device {args.device}: {error}') from error
    if not is_primary(args):
        _logger.setLevel(logging.WARNING)  # one process tells
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if args.fast_norm:
        set_fast_norm()
    random_seed(args.seed, args.rank)
    where = f'process {args.rank}, total {args.world_size}, device {args.device}' if args.distributed else args.device
    _logger.info(f'Training on {where}.')

    model_dtype = None
    if args.model_dtype:
        model_dtype = getattr(torch, args.model_dtype, None)
        if model_dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"--model-dtype must be 'float32', 'bfloat16' or 'float16', got {args.model_dtype!r}")
    autocast, loss_scaler = nullcontext, None
    if args.amp:
        amp_dtype = getattr(torch, args.amp_dtype)
        if amp_dtype == torch.float16 and device.type == 'cpu':
            raise ValueError('--amp on the CPU needs --amp-dtype bfloat16, got float16')
        autocast = partial(torch.autocast, device_type=device.type, dtype=amp_dtype)
        loss_scaler = NativeScaler(device=device.type) if amp_dtype == torch.float16 else None
        _logger.info(f'AMP with {args.amp_dtype}.')
    return Runtime(device, is_primary(args), autocast, loss_scaler, model_dtype)
