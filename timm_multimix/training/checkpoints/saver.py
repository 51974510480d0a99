"""Checkpoints of a run, whose disk may be full."""
import errno
import logging
import os
import shutil
from typing import Any, Callable, Dict, Optional

from ..._timm_compat import AtomicFiles
from ..schedule import Schedule

_logger = logging.getLogger('train')


class AtomicCheckpointSaver(AtomicFiles):
    """timm's CheckpointSaver with complete files only, and a full disk does not end a run.

    If a file cannot be written, the reason is logged and kept in `failure` until a later checkpoint is written; earlier
    ones stay. The state of `schedule`, if any, is saved in the checkpoints; other arguments are timm's.
    """

    def __init__(self, *args: Any, schedule: Optional[Schedule] = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.schedule = schedule
        self.failure: Optional[str] = None
        self._position: Optional[Dict[str, Any]] = None

    def save_checkpoint(self, epoch, metric=None):
        before = list(self.checkpoint_files), self.best_epoch, self.best_metric
        if not self._try(f'The checkpoint of epoch {epoch}', super().save_checkpoint, epoch, metric):
            files, self.best_epoch, self.best_metric = before
            self.checkpoint_files = [(path, metric) for path, metric in files if os.path.exists(path)]
        return (None, None) if self.best_metric is None else (self.best_metric, self.best_epoch)

    def save_milestone(self, completed_epochs):
        if self.failure:  # last.pth.tar is from an earlier epoch
            _logger.error(f'milestone-{completed_epochs} was not written: {self.failure}')
        else:
            self._try(f'milestone-{completed_epochs}', super().save_milestone, completed_epochs)

    def save_recovery(self, epoch, batch_idx=0, position=None):
        """Write a checkpoint within the epoch; `position` says where (see `Recovery`)."""
        self._position = position
        try:
            self._try(f'The recovery checkpoint of epoch {epoch}', super().save_recovery, epoch, batch_idx)
        finally:
            self._position = None

    def remove_recoveries(self) -> None:
        """Remove all recovery checkpoints, also of earlier runs in this folder, as a newer checkpoint is written."""
        for name in os.listdir(self.recovery_dir):
            if name.startswith(f'{self.recovery_prefix}-') and name.endswith(self.extension):
                os.remove(os.path.join(self.recovery_dir, name))
        self.curr_recovery_file = self.prev_recovery_file = ''

    def state_dict(self, epoch=None, metric=None):
        state = super().state_dict(epoch, metric)
        state['eval_metric'] = self.args.eval_metric
        if self._position is not None:
            state['position'] = self._position
        if self.schedule is not None:
            state['schedule'] = self.schedule.state_dict()
        return state

    def load_state_dict(self, state_dict):
        before = state_dict.get('eval_metric', self.args.eval_metric)
        if before != self.args.eval_metric:
            _logger.warning(f'The checkpoints in this folder were ranked by {before}: they are kept, but not ranked.')
            files = [(name, None) for name, _ in state_dict['checkpoint_files']]
            state_dict = dict(checkpoint_files=files, pending=(state_dict['pending'][0], None))
        super().load_state_dict(state_dict)

    def _try(self, what: str, save: Callable, *args: Any) -> bool:
        try:
            save(*args)
            self.failure = None
        except OSError as error:
            self.failure = f'{error.filename or self.checkpoint_dir}: {error.strerror or error}'
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.failure += f' ({shutil.disk_usage(self.checkpoint_dir).free / 2 ** 20:.0f} MiB free)'
            _logger.error(
                f'{what} was not written: {self.failure}. Earlier ones are intact; the run continues and tries again '
                f'with the next.')
        return self.failure is None
