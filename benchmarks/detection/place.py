"""The device and the processes of a run, and how they agree."""
from typing import Any, Callable, NamedTuple

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so

from timm_multimix.checks import REJECTIONS, call_library
from timm_multimix.training.runtime import warn_of_hanging_workers


class Place(NamedTuple):
    """The device of one of `world_size` processes; `workers` is the number of its data loader workers."""
    device: torch.device
    rank: int = 0
    world_size: int = 1
    workers: int = 0


def create_place(device: str, workers: int) -> Place:
    """Join the processes of torchrun, if it started this one."""
    errors = *REJECTIONS, RuntimeError
    where = call_library(f'--device {device}', init_distributed_device_so, device, errors=errors)
    device = call_library(f'--device {device}', torch.zeros, (), device=where['device'], errors=errors).device
    warn_of_hanging_workers(workers)
    return Place(device, where['global_rank'], where['world_size'], workers)


def agreed(decide: Callable[[], Any], place: Place) -> Any:
    """Call `decide` in the first process, and give all processes what it returns, or its ValueError."""
    if place.world_size == 1:
        return decide()
    decision = [None, None]
    if place.rank == 0:
        try:
            decision[0] = decide()
        except ValueError as error:
            decision[1] = str(error)
    dist.broadcast_object_list(decision, device=place.device)
    dist.barrier()  # no process ends, and closes its connections, before all have the decision
    if decision[1]:
        raise ValueError(decision[1])
    return decision[0]
