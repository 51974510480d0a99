"""Ending early on SIGTERM, after an update that all processes agree on."""
import atexit
import os
import signal
import threading
import time
from functools import cache, partial
from typing import Any, Callable, List, Optional

import torch

from ..distributed import num_processes

_SECONDS = 5.  # between two checks


class Stopped(Exception):
    """The run was told to end, and its checkpoint is on disk."""


class StopRequest:
    """Records SIGTERM instead of ending the process.

    If one process ended alone, the others would wait for its gradients. So the ranks all-reduce the flag, about every
    five seconds, since each check makes the host wait; the interval in updates follows from the measured step time.
    """

    def __init__(self, distributed: bool, device: torch.device):
        self.requested = False
        self.distributed, self.device = distributed, device
        self._updates, self._every, self._since = 0, 1, time.monotonic()
        self._previous: Any = None

    def __enter__(self) -> 'StopRequest':
        if threading.current_thread() is threading.main_thread():  # Python allows it only there
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._ignore_once if kind is Stopped else self._previous)
        if kind is Stopped:  # it is about to end with its own exit code, and launchers repeat the signal
            atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # Python's exit resets others

    def _note(self, *_: object) -> None:
        self.requested = True

    def _ignore_once(self, *_: object) -> None:  # so that a program that continues after the run can be ended
        signal.signal(signal.SIGTERM, self._previous)

    def agreed(self) -> bool:
        """Return after each update whether all processes end here; the answer is the same in all of them."""
        if not self.distributed:
            return self.requested
        self._updates += 1
        if self._updates < self._every:
            return False
        per_update = (time.monotonic() - self._since) / self._updates
        stop, per_update = self._sum(self.requested, per_update)
        longer = 2 * self._every  # because a slow first update says little
        self._every = max(1, min(int(_SECONDS * num_processes() / max(per_update, 1e-6)), longer))
        self._updates, self._since = 0, time.monotonic()
        return stop > 0.

    def agreed_now(self) -> bool:
        """Return the same without delay, at a point that all processes reach."""
        return self._sum(self.requested)[0] > 0.

    def _sum(self, *numbers: float) -> List[float]:
        numbers = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        if self.distributed:
            torch.distributed.all_reduce(numbers)
        return numbers.tolist()


def shield_workers(loader: Any) -> None:
    """Let the workers of a loader survive SIGTERM, because the training process still needs their data.

    Only when Python exits, which sends the same signal to the remaining workers and waits for them, do they end.
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
    """A flag in shared memory, 1 once this process is exiting."""
    flag = torch.zeros((), dtype=torch.uint8).share_memory_()
    atexit.register(flag.fill_, 1)
    return flag
