"""Checkpoints that are complete or absent, even if the process is killed or the disk is full."""
import errno
import logging
import os
import shutil
from typing import Any, Callable, Dict, Optional

from timm.utils import CheckpointSaver

from ..schedule import Schedule

_logger = logging.getLogger('train')


class AtomicCheckpointSaver(CheckpointSaver):
    """timm's CheckpointSaver, but a name always points to a complete file, and a full disk does not end a run.

    timm removes the old file before it moves the new one to its place, so a kill between the two leaves neither. Here
    the new file is first flushed to the disk and then takes the name in one step. If it cannot be written, the reason
    is logged and kept in `failure` until a later checkpoint is written; earlier ones stay.

    Args:
        schedule: The schedule whose state, if any, is saved in the checkpoints.
        *args, **kwargs: Arguments of timm's CheckpointSaver.
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
            pending = state_dict['pending'][0], None
            state_dict = dict(checkpoint_files=files, pending=pending)
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

    def _save(self, save_path, epoch, metric=None):
        try:
            with open(save_path, 'wb') as file:  # Python's file says why a write failed, torch's does not
                super()._save(file, epoch, metric)
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:
            _remove(save_path)
            cause: Optional[BaseException] = error  # torch raises its own while handling the system's
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror, save_path) from error

    def _replace(self, src, dst):
        os.replace(src, dst)

    def _duplicate(self, src, dst):
        copy = f'{dst}.tmp'
        _remove(copy)  # from a run that was killed right here
        try:
            try:
                os.link(src, copy)
            except OSError:  # a file system without hard links
                shutil.copy2(src, copy)
            os.replace(copy, dst)
        finally:
            _remove(copy)


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)
