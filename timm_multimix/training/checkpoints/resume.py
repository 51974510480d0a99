"""Resuming from a checkpoint: which file --resume means, and loading it."""
import argparse
import glob
import logging
import os
import zipfile
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from ...checks import REJECTIONS, UsageError, call_library
from ..cli.flag import flag_name
from ..cli.multimix import resolved
from ..runtime import Runtime, agree_to_start

_logger = logging.getLogger('train')
DEFAULT_OUTPUT = './output/train'
_OF_THIS_START = (  # flags that may differ without a word, because they do not change what is learnt
    'config', 'experiment', 'log_interval', 'no_resume_opt', 'output', 'resume', 'start_epoch', 'stop_epoch',
    'wandb_resume_id', 'workers')


class Resumed(NamedTuple):
    """Where a run continues: `position` is the place within the epoch (see `Recovery`), None for its start."""
    epoch: Optional[int] = None
    position: Optional[Dict[str, Any]] = None
    schedule: Optional[Dict[str, Any]] = None


def resume(
        path: str, args: argparse.Namespace, task: TrainingTask, optimizer: torch.optim.Optimizer, runtime: Runtime,
) -> Resumed:
    """Load the checkpoint at `path`; '' for a fresh start. Where its settings differ, those of `args` hold.

    Raises:
        UsageError: If there is no such checkpoint, or it belongs to another model.
    """
    if not path:
        return Resumed()
    metadata = check_resumed(path, None if args.no_resume_opt else args.opt)
    if runtime.primary:
        _warn_of_changes({**vars(args), **resolved(task)}, metadata.get('args'))
    state = {} if args.no_resume_opt else dict(optimizer=state_only(optimizer), loss_scaler=runtime.loss_scaler)
    epoch = restore(path, resume_task_checkpoint, task, path, **state, log_info=runtime.primary)
    if args.model_ema:  # a teacher has its own place in the task's state
        restore(path, load_task_ema_checkpoint, task, path)
        if not getattr(metadata.get('args'), 'model_ema', False) and 'teacher' in (metadata.get('task_state') or {}):
            _logger.info('The average of --model-ema starts from the teacher, the only average in the checkpoint.')
    saver_state = metadata.get('saver') or {}
    position = saver_state.get('position')
    schedule = None if args.no_resume_opt else saver_state.get('schedule')
    return Resumed(epoch if position is None else position['epoch'], position, schedule)


def state_only(optimizer: torch.optim.Optimizer) -> Any:
    """Return an optimizer to resume that takes the state, but keeps its settings: learning rate, momentum and so on."""
    return SimpleNamespace(load_state_dict=partial(_load_state, optimizer))


def _load_state(optimizer: torch.optim.Optimizer, state: Dict[str, Any]) -> None:
    own = [{name: value for name, value in group.items() if name not in ('params', 'lookahead_step')}
           for group in optimizer.param_groups]
    sizes, saved = ([len(group['params']) for group in groups]
                    for groups in (optimizer.param_groups, state['param_groups']))
    if sizes != saved:  # the state is assigned by position
        raise UsageError(
            f'its optimizer has groups of {saved} parameters, that of this run of {sizes}; groups depend on '
            f'--layer-decay and on whether --weight-decay is 0. --no-resume-opt starts with a new optimizer')
    for group, old in zip(own, state['param_groups']):
        for name, value in group.items():
            if value and name in old and not old[name] and name not in ('lr', 'weight_decay', 'eps'):
                raise UsageError(
                    f'{name} of its optimizer is {old[name]!r}, so it has no state for {value!r}; --no-resume-opt '
                    f'starts with a new optimizer')
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own):
        group.pop('initial_lr', None)  # from which a scheduler would compute all learning rates
        group.update(settings)


def _warn_of_changes(settings: Dict[str, Any], before: Optional[argparse.Namespace]) -> None:
    changes = [
        f'{flag_name(name)} {value} (was {getattr(before, name)})' for name, value in sorted(settings.items())
        if name not in _OF_THIS_START and getattr(before, name, value) != value]
    if changes:
        _logger.warning(f'The checkpoint was written with other settings; from now on: {", ".join(changes)}.')


def check_resumed(path: str, opt: Optional[str]) -> Dict[str, Any]:
    """Return the contents of the checkpoint, without reading its tensors; its optimizer must be `opt` (None: any)."""
    if not os.path.isfile(path):
        raise UsageError(f'--resume {path}: no such file')
    metadata = restore(path, load_checkpoint_metadata, path, errors=Exception)  # whatever the unpickler raises
    if not isinstance(metadata, dict):
        raise UsageError(f'--resume {path}: not a checkpoint of this run, but a {type(metadata).__name__}')
    optimizer = getattr(metadata.get('args'), 'opt', None)
    if opt and optimizer and optimizer.lower() != opt.lower():
        raise UsageError(
            f'--resume {path}: its optimizer is {optimizer}, that of this run is {opt}; give --opt {optimizer}, or '
            f'--no-resume-opt to start with a new optimizer')
    return metadata


def restore(path: str, load: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function of timm that reads the checkpoint at `path`, which may belong to another run."""
    kwargs = {'errors': (*REJECTIONS, KeyError, RuntimeError), **kwargs}  # of weights that do not fit
    return call_library(f'--resume {path}: not a checkpoint of this run', load, *args, **kwargs)


def find_resumed(args: argparse.Namespace, runtime: Runtime) -> str:
    """The path that --resume means: with `auto` the newest intact checkpoint of --experiment, '' for none."""
    if args.resume != 'auto':
        return args.resume
    found = ['']
    with agree_to_start(runtime):
        if runtime.primary:  # only one process looks, so that all resume the same one
            folder = os.path.join(args.output or DEFAULT_OUTPUT, args.experiment)
            found = [newest_checkpoint(folder) or '']
            if not found[0]:
                _logger.info(f'--resume auto: nothing in {folder} yet, starting from scratch.')
    if runtime.distributed:
        torch.distributed.broadcast_object_list(found, src=0, device=runtime.device)
    return found[0]


def newest_checkpoint(folder: str) -> Optional[str]:
    """Return the intact checkpoint that is furthest in training, or None if there are no checkpoints.

    Damaged ones are skipped, with a warning. If all are, that is a UsageError: a fresh start would overwrite them.
    """
    found: List[Tuple[Tuple[int, int], str]] = []
    damaged: List[str] = []
    for name in ('last', 'recovery-*', 'checkpoint-*'):
        for path in glob.glob(os.path.join(glob.escape(folder), f'{name}.pth.tar')):
            with _skip_damaged(path, damaged):
                metadata = load_checkpoint_metadata(path)
                if position := (metadata.get('saver') or {}).get('position'):
                    found.append(((position['epoch'], position['batches']), path))
                elif not name.startswith('recovery'):  # timm's own do not say where in the epoch they were written
                    found.append(((metadata['epoch'] + 1, 0), path))
    for _, path in sorted(found, reverse=True):
        with _skip_damaged(path, damaged), zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f'wrong checksum of {bad}')
            return path
    if damaged:
        raise UsageError(f'--resume auto: no checkpoint in {folder} can be read: {"; ".join(damaged)}')
    return None


@contextmanager
def _skip_damaged(path: str, damaged: List[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).split('\n')[0] or type(error).__name__)[:200]
        damaged.append(f'{os.path.basename(path)} ({reason})')
        _logger.warning(f'--resume auto: {path} is damaged ({reason}); looking for an older checkpoint.')
