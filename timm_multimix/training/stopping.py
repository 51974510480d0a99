"""Ending early because the scheduler says so: SIGTERM, and how all processes agree on the update to end at."""
import atexit
import os
import signal
import threading
import time
from functools import cache, partial
from typing import Any, Callable, List, Optional

import torch

_SECONDS = 5.  # between two looks at what the other processes were told


class Stopped(Exception):
    """The run was told to end, and what it has is on disk."""


class StopRequest:
    """Notes SIGTERM, instead of dying of it.

    A process that left alone would leave the others waiting for its gradients. So they ask each other, but only about
    every five seconds, as the host has to wait for the answer; how many updates that are follows from their time.

    Args:
        distributed: Whether there are other processes.
        device: Where they exchange tensors.
    """

    def __init__(self, distributed: bool, device: torch.device):
        self.requested = False
        self.distributed, self.device = distributed, device
        self._updates, self._every, self._since = 0, 1, time.monotonic()
        self._previous: Any = None
        self._on_the_way_out = False

    def __enter__(self) -> 'StopRequest':
        if threading.current_thread() is threading.main_thread():  # only there Python allows it
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        # a run that was stopped is on its way out with code 0, and launchers repeat the signal
        self._on_the_way_out = kind is Stopped
        if self._previous is not None:
            if self._on_the_way_out:
                atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # Python's end puts other handlers back
            else:
                signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self.requested = True
        if self._on_the_way_out:  # once; a program that goes on after the run can be ended
            signal.signal(signal.SIGTERM, self._previous)

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


def shield_workers(loader: Any) -> None:
    """Let the workers of a loader live through SIGTERM: it is for the process that trains, which still needs its data.

    Python sends the same signal to what is left of a program's workers at its exit, and waits for them. So they ask
    whether the program is at its exit.
    """
    inner = getattr(loader, 'loader', loader)
    if hasattr(inner, 'worker_init_fn'):
        inner.worker_init_fn = partial(_outlive_sigterm, _at_exit(), inner.worker_init_fn)


def _outlive_sigterm(at_exit: torch.Tensor, then: Optional[Callable], worker_id: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: at_exit.item() and os._exit(0))
    if then is not None:
        then(worker_id)


@cache
def _at_exit() -> torch.Tensor:
    """In shared memory: 1 once this process is at its exit."""
    flag = torch.zeros((), dtype=torch.uint8).share_memory_()
    atexit.register(flag.fill_, 1)
    return flag
