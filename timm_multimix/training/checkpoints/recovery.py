"""Checkpoints within an epoch, from which a run continues exactly."""
import logging
from itertools import count
from typing import Any, Dict, Iterator, Optional, Tuple

import torch

from ..progress import progress
from ..runtime import Runtime, get_rng_state, set_rng_state
from ..stopping import Stopped, StopRequest
from .saver import AtomicCheckpointSaver

_logger = logging.getLogger('train')


class Recovery:
    """Writes recovery-EPOCH-UPDATE.pth.tar every --recovery-interval updates and on SIGTERM, and continues from it.

    Besides the weights, the file holds the number of finished batches of the epoch and, for each process, the sums of
    its metrics and three states of its random generators: at the start of the epoch, before the last batch was asked
    for (a loader without workers draws then; timm's is one batch ahead), and after it. When a run resumes, the loader
    reads the finished batches again, unused, so that its order and its workers are where they were.

    `position` is the place within the epoch where the resumed checkpoint was written, or None; `saver` is None except
    in the primary process; `interval` counts updates, 0 for none.
    """

    def __init__(
            self, runtime: Runtime, position: Optional[Dict[str, Any]] = None,
            saver: Optional[AtomicCheckpointSaver] = None, *,
            interval: int = 0, accum_steps: int = 1, batch_size: int = 1,
    ):
        self.runtime, self.device, self.position, self.saver = runtime, runtime.device, position, saver
        self.interval, self.accum_steps, self.batch_size = interval, accum_steps, batch_size
        self.stop = StopRequest(runtime.distributed, runtime.device)
        self._stopping = False

    def batches_done(self, epoch: int, num_batches: int) -> int:
        """Number of batches of the epoch that an interrupted run finished; 0 if it cannot be continued exactly."""
        position = self.position
        if not position or position['epoch'] != epoch:
            return 0
        made_with, here = position['made_with'], self._made_with(num_batches)
        if 'ranks' not in position:
            reason = 'by a version of timm_multimix before 0.2, whose random states can no longer be read'
        elif made_with != here:
            reason = f'with {made_with}; this run has {here}, so the remaining images are unknown'
        else:
            return position['batches']
        _logger.warning(
            f'The checkpoint was written within epoch {epoch} {reason}: epoch {epoch} starts again, with the weights '
            f'of the checkpoint.')
        self.position = None
        return 0

    def updates_done(self, epoch: int, num_batches: int) -> int:
        return -(-self.batches_done(epoch, num_batches) // self.accum_steps)

    def _made_with(self, num_batches: int) -> Dict[str, Any]:
        """The settings that must stay the same to continue within an epoch."""
        return dict(
            batches=num_batches, batch_size=self.batch_size, grad_accum_steps=self.accum_steps,
            processes=self.runtime.world_size, device=self.device.type)

    def batches(self, loader: Any, epoch: int, meters: Any) -> Iterator[Tuple[int, Any]]:
        self._epoch, self._meters, self._num_batches = epoch, meters, len(loader)
        done = self.batches_done(epoch, len(loader))
        self._begin = self._before = get_rng_state(self.device.type)
        if done:
            own = self.position['ranks'][self.runtime.rank]
            self._begin, self._before, now = own['begin'], own['before'], own['now']
            meters.load(own['meters'])
            if done == len(loader):
                set_rng_state(now, self.device.type)
                return
            _logger.info(f'Continuing in epoch {epoch} after {done} of {len(loader)} batches, which are read again.')
            set_rng_state(self._begin, self.device.type)
        iterator = iter(progress(loader, f'Epoch {epoch}', self.runtime.primary))
        for index in range(done):
            if index == done - 1:
                set_rng_state(self._before, self.device.type)
            next(iterator, None)
        if done:
            set_rng_state(now, self.device.type)
        for index in count(done):
            if self._stopping or self.interval:
                self._before = get_rng_state(self.device.type)
            batch = next(iterator, None)
            if batch is None:
                return
            yield index, batch

    def after_update(self, batch_idx: int, update_idx: int) -> None:
        """Write a checkpoint if one is due; `batch_idx` is the last batch of the update.

        Raises:
            Stopped: If the run is told to end; the checkpoint is written first.
        """
        if self._stopping or (self.interval and (update_idx + 1) % self.interval == 0):
            self._save(batch_idx + 1)
        if self._stopping:
            raise Stopped
        # from now on the state before each batch is kept, so the run can end after the next update
        self._stopping = self.stop.agreed()

    def in_validation(self) -> None:
        """Raise `Stopped` after a validation if the run is told to end, with a checkpoint of the epoch's training."""
        if self.stop.agreed_now():
            self._save(self._num_batches)
            raise Stopped

    def after_epoch(self) -> None:
        """Raise `Stopped` after the epoch's own checkpoint if the run is told to end."""
        self.position = None
        if self.stop.agreed_now():
            raise Stopped

    def _save(self, batches: int) -> None:
        now = get_rng_state(self.device.type)
        own = dict(begin=self._begin, before=self._before, now=now, meters=self._meters.state())
        ranks = [own]
        if self.runtime.distributed:
            ranks = [None] * self.runtime.world_size
            torch.distributed.all_gather_object(ranks, own)
        if self.saver is not None:
            made_with = self._made_with(self._num_batches)
            position = dict(epoch=self._epoch, batches=batches, made_with=made_with, ranks=ranks)
            self.saver.save_recovery(self._epoch, batch_idx=-(-batches // self.accum_steps) - 1, position=position)
