"""Going on from a checkpoint: what --resume means, and what it loads."""
import argparse
import logging
import os
from typing import Any, Dict, NamedTuple, Optional

import torch
from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from ..._checks import UsageError, call_library
from ..runtime import Runtime
from .find import newest_checkpoint

_logger = logging.getLogger('train')
DEFAULT_OUTPUT = './output/train'


class Resumed(NamedTuple):
    """How a run goes on: `position` is the place within the epoch (see `Recovery`), None for its beginning."""
    epoch: Optional[int] = None
    position: Optional[Dict[str, Any]] = None
    schedule: Optional[Dict[str, Any]] = None


def resume(
        path: str,
        args: argparse.Namespace,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        runtime: Runtime,
) -> Resumed:
    """Load the checkpoint at `path`; '' for a fresh start.

    Raises:
        ValueError: If there is no such checkpoint, or it is of another model.
    """
    if not path:
        return Resumed()
    if not os.path.isfile(path):
        raise UsageError(f'--resume {path}: no such file')
    what = f'--resume {path}: not a checkpoint of this run'
    metadata = call_library(what, load_checkpoint_metadata, path, errors=Exception)  # whatever the unpickler raises
    earlier = metadata.get('args')
    optimizer_name = getattr(earlier, 'opt', None)
    if not args.no_resume_opt and optimizer_name and optimizer_name.lower() != args.opt.lower():
        raise UsageError(
            f'--resume {path}: its optimizer is {optimizer_name}, that of this run {args.opt}; give --opt '
            f'{optimizer_name}, or --no-resume-opt to begin with a new optimizer')
    epoch = call_library(
        what,
        resume_task_checkpoint,
        task,
        path,
        optimizer=None if args.no_resume_opt else optimizer,
        loss_scaler=None if args.no_resume_opt else runtime.loss_scaler,
        log_info=runtime.primary,
    )
    if args.model_ema:  # a teacher has its own place in the task's state
        call_library(what, load_task_ema_checkpoint, task, path)
        if not getattr(earlier, 'model_ema', False) and 'teacher' in (metadata.get('task_state') or {}):
            _logger.info('The average of --model-ema begins as the teacher: the checkpoint has no other.')
    saver_state = metadata.get('saver') or {}
    position = saver_state.get('position')
    schedule = None if args.no_resume_opt else saver_state.get('schedule')
    return Resumed(epoch if position is None else position['epoch'], position, schedule)


def find_resumed(args: argparse.Namespace) -> str:
    """The path that --resume means: with `auto` the newest whole checkpoint of --experiment, '' for none."""
    if args.resume != 'auto':
        return args.resume
    folder = os.path.join(args.output or DEFAULT_OUTPUT, args.experiment)
    path = newest_checkpoint(folder)
    if path is None:
        _logger.info(f'--resume auto: nothing in {folder} yet, starting afresh.')
    return path or ''
