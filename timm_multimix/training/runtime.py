"""Device, processes, precision and seeds of a run, and a start that succeeds in all processes or in none."""
import argparse
import importlib
import logging
import platform
import random
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import set_fast_norm
from timm.utils import NativeScaler, random_seed
from timm.utils.distributed import init_distributed_device_so

from ..checks import REJECTIONS, UsageError, call_library
from ..distributed import has_process_group
from .errors import RunFailed

_logger = logging.getLogger('train')

# CPython issue 112275: a process that is forked while one of gloo's threads frees a tensor can wait forever
FORKS_MAY_HANG = sys.version_info < (3, 10, 15) or (3, 11) <= sys.version_info < (3, 11, 10)


class Runtime(NamedTuple):
    """Where a run computes. `autocast` creates the context of a forward pass; only float16 AMP has a `loss_scaler`."""
    device: torch.device
    primary: bool
    autocast: Callable
    loss_scaler: Optional[NativeScaler]
    model_dtype: Optional[torch.dtype]
    rank: int = 0
    world_size: int = 1
    distributed: bool = False


def seed_epoch(seed: int, runtime: Runtime, epoch: int) -> None:
    """Seed every generator for an epoch but the first (as in timm), so that a resumed run continues exactly."""
    if epoch > 0:
        random_seed((seed + 1_000_003 * epoch) % (2 ** 32 - runtime.world_size), runtime.rank)  # numpy takes 32 bits


def create_runtime(args: argparse.Namespace) -> Runtime:
    for module in args.device_modules or ():
        call_library(f'--device-modules {module}', importlib.import_module, module)
    wanted = args.device
    if wanted.startswith('cuda') and not torch.cuda.is_available():
        _logger.info(f'No GPU found: training on the CPU instead of {wanted}.')
        wanted = 'cpu'
    errors = *REJECTIONS, RuntimeError
    place = call_library(f'--device {wanted}', init_distributed_device_so, wanted, errors=errors)
    rank, world_size = place['global_rank'], place['world_size']
    device = call_library(f'--device {wanted}', torch.zeros, (), device=place['device'], errors=errors).device
    if rank != 0:
        _logger.setLevel(logging.WARNING)  # only one process logs
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    if args.fast_norm:
        set_fast_norm()
    random_seed(args.seed, rank)
    where = f'process {rank}, total {world_size}, device {device}' if place['distributed'] else device
    _logger.info(f'Training on {where}.')
    warn_of_hanging_workers(args.workers)

    model_dtype = getattr(torch, args.model_dtype) if args.model_dtype else None
    autocast, loss_scaler = nullcontext, None
    if args.amp:
        amp_dtype = getattr(torch, args.amp_dtype)
        if amp_dtype == torch.float16 and device.type == 'cpu':
            raise UsageError('--amp on the CPU needs --amp-dtype bfloat16, got float16')
        autocast = partial(torch.autocast, device_type=device.type, dtype=amp_dtype)
        loss_scaler = NativeScaler(device=device.type) if amp_dtype == torch.float16 else None
        _logger.info(f'AMP with {args.amp_dtype}.')
    return Runtime(
        device, rank == 0, autocast, loss_scaler, model_dtype, rank, world_size, distributed=place['distributed'])


def warn_of_hanging_workers(workers: int) -> None:
    """Warn, once, where forked loader workers may hang: several processes on the CPU, by a Python with a fault."""
    if not (workers and FORKS_MAY_HANG and has_process_group()):
        return
    if dist.get_backend() == 'gloo' and dist.get_rank() == 0:
        _logger.warning(
            f'Python {platform.python_version()} may hang when an epoch starts its loader workers, with several '
            f'processes on the CPU. Python 3.10.15, 3.11.10, 3.12 and newer do not, nor does --workers 0.')


@contextmanager
def agree_to_start(runtime: Runtime) -> Iterator[None]:
    """End all processes if one of them fails within this context, so that none waits for another.

    The others raise a UsageError if it met a user's mistake, otherwise a RunFailed.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    if runtime.distributed:
        failed = 0. if error is None else 1. if isinstance(error, UsageError) else 2.
        worst = torch.tensor(failed, device=runtime.device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        if error is None and worst > 0.:
            kind = UsageError if worst == 1. else RunFailed
            raise kind('another process could not start; its own message says why')
    if error is not None:
        raise error


def get_rng_state(kind: str = 'cpu') -> Dict[str, Any]:
    """States of all generators, with that of a kind of device, in a form that a checkpoint can hold without pickle."""
    _, key, pos, has_gauss, gauss = np.random.get_state()
    state = dict(
        cpu=torch.get_rng_state(),
        numpy=dict(key=torch.from_numpy(key.astype(np.int64)), pos=pos, has_gauss=has_gauss, gauss=gauss),
        python=random.getstate(),
    )
    if kind != 'cpu':
        state[kind] = getattr(torch, kind).get_rng_state().cpu()
    return state


def set_rng_state(state: Dict[str, Any], kind: str = 'cpu') -> None:
    """Restore what `get_rng_state` returned on the same kind of device."""
    torch.set_rng_state(state['cpu'])
    key, *rest = (state['numpy'][name] for name in ('key', 'pos', 'has_gauss', 'gauss'))
    np.random.set_state(('MT19937', key.numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
    if kind != 'cpu':
        getattr(torch, kind).set_rng_state(state[kind])
