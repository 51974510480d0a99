"""Ending early because the scheduler says so: SIGTERM, and how all processes agree on the update to end at."""
import atexit
import logging
import os
import signal
import threading
import time
from functools import cache
from typing import Any, List

import torch

_logger = logging.getLogger('train')
_SECONDS = 5.  # between two looks at what the other processes were told


class Stopped(Exception):
    """The run was told to end, and what it has is on disk."""


class StopRequest:
    """Notes SIGTERM, instead of dying of it.

    ```python
    with StopRequest(distributed, device) as stop:
        ...
        if stop.agreed():  # after each update of the weights
            ...
    ```

    A process that left alone would leave the others waiting for its gradients. So they ask each other, but only about
    every five seconds, as the host has to wait for the answer; how many updates that are follows from their time.

    Args:
        distributed: Whether there are other processes.
        device: Where they exchange tensors.
    """

    def __init__(self, distributed: bool, device: torch.device):
        self.requested = False
        self.distributed = distributed
        self.device = device
        self._updates, self._every, self._since = 0, 1, time.monotonic()
        self._previous: Any = None

    def __enter__(self) -> 'StopRequest':
        if threading.current_thread() is threading.main_thread():  # only there Python allows it
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self.requested = True  # and again for each further one: launchers repeat it

    def agreed(self) -> bool:
        """After each update: whether all end here. The same answer in all processes."""
        if not self.distributed:
            return self.requested
        self._updates += 1
        if self._updates < self._every:
            return False
        per_update = (time.monotonic() - self._since) / self._updates
        stop, per_update = self._sum(self.requested, per_update)
        longer = 2 * self._every  # a first, slow update says little
        self._every = max(1, min(int(_SECONDS * torch.distributed.get_world_size() / max(per_update, 1e-6)), longer))
        self._updates, self._since = 0, time.monotonic()
        return stop > 0.

    def agreed_now(self) -> bool:
        """The same at once, at a point that all processes come to."""
        return self._sum(self.requested)[0] > 0.

    def _sum(self, *numbers: float) -> List[float]:
        numbers = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        if self.distributed:
            torch.distributed.all_reduce(numbers)
        return numbers.tolist()


class OutliveSigterm:
    """A worker's init function: the scheduler's SIGTERM is for the process that trains, which still needs its data.

    Python sends the same signal to what is left of a program's workers at its exit, and waits for them. So they ask
    whether the program is at its exit.

    Args:
        then: The init function that the worker had.
    """

    def __init__(self, then: Any = None):
        self.then = then
        self.at_exit = _at_exit()

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGTERM, self._end_with_the_program)
        if self.then is not None:
            self.then(worker_id)

    def _end_with_the_program(self, *_: object) -> None:
        if self.at_exit.item():
            os._exit(0)


@cache
def _at_exit() -> torch.Tensor:
    """In shared memory: 1 once this process is at its exit."""
    flag = torch.zeros((), dtype=torch.uint8).share_memory_()
    atexit.register(flag.fill_, 1)
    return flag


def shield_workers(loader: Any) -> None:
    """Let the workers of a loader live through SIGTERM; they end with the process that they belong to."""
    inner = getattr(loader, 'loader', loader)
    if hasattr(inner, 'worker_init_fn'):
        inner.worker_init_fn = OutliveSigterm(inner.worker_init_fn)
