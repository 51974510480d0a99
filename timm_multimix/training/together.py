"""Processes start together or not at all."""
import argparse
from contextlib import contextmanager
from typing import Any, Callable

import torch

from .runtime import Runtime


@contextmanager
def together(args: argparse.Namespace, runtime: Runtime):
    """A part of the start in which processes do not wait for each other: what fails in one ends all.

    Raises:
        ValueError: In the processes that did not fail, which would wait for the others.
    """
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    if args.distributed:
        failed = torch.tensor(float(error is not None), device=runtime.device)
        torch.distributed.all_reduce(failed)
        if error is None and failed > 0.:
            raise ValueError('another process could not start; its own message says why')
    if error is not None:
        raise error


def primary_says(args: argparse.Namespace, runtime: Runtime, find: Callable[[], Any]) -> Any:
    """What `find` returns in the primary process, in all of them; what it raises there ends all."""
    found = [None]
    with together(args, runtime):
        if runtime.primary:
            found = [find()]
    if args.distributed:
        torch.distributed.broadcast_object_list(found, src=0, device=runtime.device)
    return found[0]
