"""Where a run computes: device, processes, precision, seeds; and processes that start together or not at all."""
import argparse
import importlib
import logging
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, NamedTuple, Optional

import torch
from timm.layers import set_fast_norm
from timm.utils import NativeScaler, random_seed
from timm.utils.distributed import init_distributed_device_so

from .errors import named

_logger = logging.getLogger('train')


class Runtime(NamedTuple):
    """`autocast` makes the context of a forward pass; `loss_scaler` is None but for float16 AMP."""
    device: torch.device
    primary: bool
    autocast: Callable
    loss_scaler: Optional[NativeScaler]
    model_dtype: Optional[torch.dtype]
    rank: int = 0
    world_size: int = 1
    distributed: bool = False


def seed_epoch(args: argparse.Namespace, runtime: Runtime, epoch: int) -> None:
    """Seed every generator for an epoch, so that a resumed run goes on exactly as an uninterrupted one.

    The first epoch keeps the seed of the process, which the model was built from, as in timm.
    """
    if epoch > 0:
        seed = (args.seed + 1_000_003 * epoch) % (2 ** 32 - runtime.world_size)  # numpy takes 32 bits
        random_seed(seed, runtime.rank)


def create_runtime(args: argparse.Namespace) -> Runtime:
    """Set up the device and the process group.

    Raises:
        ValueError: If a device or dtype is not available.
    """
    for module in args.device_modules or ():
        with named(f'--device-modules {module}'):
            importlib.import_module(module)
    wanted = args.device
    if wanted.startswith('cuda') and not torch.cuda.is_available():
        _logger.info(f'No GPU found: training on the CPU instead of {wanted}.')
        wanted = 'cpu'
    try:
        place = init_distributed_device_so(wanted)
        device, rank, world_size = torch.device(place['device']), place['global_rank'], place['world_size']
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'--device {wanted}: {error}') from error
    if rank != 0:
        _logger.setLevel(logging.WARNING)  # one process tells
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if args.fast_norm:
        set_fast_norm()
    random_seed(args.seed, rank)
    where = f'process {rank}, total {world_size}, device {device}' if place['distributed'] else device
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
    return Runtime(
        device, rank == 0, autocast, loss_scaler, model_dtype, rank, world_size, distributed=place['distributed'])


@contextmanager
def together(runtime: Runtime):
    """A part of the start in which processes do not wait for each other: what fails in one ends all.

    Raises:
        ValueError: In the processes that did not fail, which would wait for the others.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    if runtime.distributed:
        failed = torch.tensor(float(error is not None), device=runtime.device)
        torch.distributed.all_reduce(failed)
        if error is None and failed > 0.:
            raise ValueError('another process could not start; its own message says why')
    if error is not None:
        raise error


def primary_says(runtime: Runtime, find: Callable[[], Any]) -> Any:
    """What `find` returns in the primary process, in all of them; what it raises there ends all."""
    found = [None]
    with together(runtime):
        if runtime.primary:
            found = [find()]
    if runtime.distributed:
        torch.distributed.broadcast_object_list(found, src=0, device=runtime.device)
    return found[0]
