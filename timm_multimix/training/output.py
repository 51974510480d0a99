"""The output folder of a run: where it is, what it holds, and how an interrupted run goes on in it."""
import argparse
import csv
import json
import logging
import math
import os
from datetime import datetime
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from timm.models import safe_model_name
from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import get_outdir, trim_summary, update_summary
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from .._checks import UsageError, call_library
from ..head import MODES
from .checkpoints.find import newest_checkpoint
from .checkpoints.saver import AtomicCheckpointSaver
from .cli.multimix import mixes_input
from .errors import RunFailed
from .loop import Training
from .runtime import Runtime
from .tracking import Tracker

_logger = logging.getLogger('train')
_DEFAULT_OUTPUT = './output/train'


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
    folder = os.path.join(args.output or _DEFAULT_OUTPUT, args.experiment)
    path = newest_checkpoint(folder)
    if path is None:
        _logger.info(f'--resume auto: nothing in {folder} yet, starting afresh.')
    return path or ''


class Output:
    """Checkpoints, args.yaml and summary.csv in the folder of this run; on the primary process only.

    Args:
        training: The parts of the run.
        args_text: For args.yaml.
        image_size: For the folder's name, where no flag gives one.
        start_epoch: The first epoch that will be trained.
        checkpoint: The path of the one that is resumed, '' for none.
    """

    def __init__(
            self,
            training: Training,
            args_text: str,
            image_size: int,
            start_epoch: int,
            checkpoint: str = '',
    ):
        args = training.args
        name = args.experiment or '-'.join(
            [datetime.now().strftime('%Y%m%d-%H%M%S'), safe_model_name(args.model), str(image_size)])
        root = args.output or _DEFAULT_OUTPUT
        here = os.path.join(root, name)
        checkpoint_here = os.path.realpath(os.path.dirname(checkpoint)) == os.path.realpath(here)
        continued = bool(checkpoint) and checkpoint_here
        # a run never writes into the folder of another; with --resume auto it is always its own
        self.folder = get_outdir(root, name, inc=not (continued or args.resume == 'auto'))
        if self.folder != here:
            _logger.warning(f'{here} is of another run; this one is in {self.folder}.')
        self.summary = os.path.join(self.folder, 'summary.csv')
        self.results: List[Dict[str, Any]] = []
        self._rows: List[tuple] = []  # of the summary, to be written
        self.train_columns = _train_columns(args)
        self.eval_columns = tuple(training.task.create_evaluator().metric_names)
        if args.multimix_teacher_decay is not None:
            self.eval_columns += ('student_top1',)  # the other columns are the teacher's
        self.milestones = set(args.save_epochs or ())
        self.tracker = Tracker(args, name, self.folder)
        self.decreasing = args.eval_metric == 'loss'
        self.saver = AtomicCheckpointSaver(
            model=training.task.get_eval_model(),
            optimizer=training.optimizer,
            args=args,
            amp_scaler=training.runtime.loss_scaler,
            checkpoint_dir=self.folder,
            recovery_dir=self.folder,
            decreasing=self.decreasing,
            max_history=args.checkpoint_hist,
            task=training.task,
            schedule=training.schedule,
        )
        if continued:
            self.saver.load_state_dict_from_checkpoint(checkpoint)
        trim_summary(self.summary, start_epoch)
        self._keep_columns()
        with open(os.path.join(self.folder, 'args.yaml'), 'w', encoding='utf-8') as file:
            file.write(args_text)

    def add_epoch(
            self,
            epoch: int,
            train_metrics: Dict[str, float],
            eval_metrics: Optional[Dict[str, float]],
            lr: float,
            metric: Optional[float],
    ) -> None:
        """Write the epoch's row and checkpoint; `metric` ranks the checkpoint, None leaves it unranked."""
        # every row has the same cells, also where an epoch was not mixed or not validated
        train_row = {name: train_metrics.get(name, '') for name in self.train_columns}
        eval_row = {name: (eval_metrics or {}).get(name, '') for name in self.eval_columns}
        self._rows.append((epoch, train_row, eval_row, lr))
        self._write_rows()
        if metric is not None and not math.isfinite(metric):
            _logger.warning(f'The metric of epoch {epoch} is {metric}: its checkpoint is not ranked.')
            metric = None
        self.saver.save_checkpoint(epoch, metric=metric)
        if epoch + 1 in self.milestones:
            self.saver.save_milestone(epoch + 1)
        if not self.saver.failure:
            self.saver.remove_recoveries()
        self.tracker.add_epoch(epoch, train_metrics, eval_metrics or {}, lr)  # last: a resumed run does not repeat it
        result: Dict[str, Any] = dict(epoch=epoch, train=train_metrics)
        if eval_metrics:
            result['validation'] = eval_metrics
        self.results.append(result)

    def _keep_columns(self) -> None:
        """Where a run goes on with other columns than it had, as with a teacher, all rows have the cells of both."""
        if not os.path.exists(self.summary):
            return
        with open(self.summary, newline='') as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), list(reader.fieldnames or ())
        for prefix, columns in (('train_', 'train_columns'), ('eval_', 'eval_columns')):
            earlier = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
            setattr(self, columns, tuple(dict.fromkeys((*getattr(self, columns), *earlier))))
        wanted = [
            'epoch', *(f'train_{name}' for name in self.train_columns), *(f'eval_{name}' for name in self.eval_columns),
            'lr']
        if found and found != wanted:
            partial = f'{self.summary}.{os.getpid()}'
            with open(partial, 'w', newline='') as file:
                writer = csv.DictWriter(file, wanted, extrasaction='ignore')
                writer.writeheader()
                writer.writerows(rows)
            os.replace(partial, self.summary)

    def _write_rows(self) -> None:
        """Add to summary.csv what it lacks, whole rows only; what does not fit on the disk waits for the next epoch."""
        size = os.path.getsize(self.summary) if os.path.exists(self.summary) else 0
        try:
            while self._rows:
                epoch, train_row, eval_row, lr = self._rows[0]
                update_summary(epoch, train_row, eval_row, self.summary, lr=lr)
                size = os.path.getsize(self.summary)
                del self._rows[0]
        except OSError as error:
            _logger.error(f'{self.summary} could not be written: {error.strerror}; its rows wait for the next epoch.')
            if os.path.exists(self.summary):
                os.truncate(self.summary, size)

    def close(self, eval_metric: str) -> None:
        """The closing lines: the best ten epochs as JSON after '--result'; the best metric, and where its model is.

        Raises:
            RunFailed: If the last checkpoint, or a row of the summary, could not be written.
        """
        self._write_rows()
        self.tracker.close()
        worst = float('inf') if self.decreasing else float('-inf')
        ranked = sorted(
            self.results,
            key=lambda result: result.get('validation', {}).get(eval_metric, worst),
            reverse=self.decreasing,
        )
        print(f'--result\n{json.dumps(ranked[-10:], indent=4)}', flush=True)
        best = os.path.join(self.folder, 'model_best.pth.tar')
        if self.saver.best_metric is not None and os.path.exists(best):
            metric = f'{eval_metric} {self.saver.best_metric:.4g} (epoch {self.saver.best_epoch})'
            _logger.info(f'*** Best metric: {metric}, in {best}')
        if self.saver.failure:
            raise RunFailed(
                f'the last checkpoint was not written: {self.saver.failure}. The one before it is whole; --resume goes '
                f'on from there.')
        if self._rows:
            raise RunFailed(f'{self.summary} lacks {len(self._rows)} rows, which could not be written')


def _train_columns(args: argparse.Namespace) -> Tuple[str, ...]:
    """What summary.csv holds of training; top-1 of mixed images against mixed labels would mean nothing."""
    parts: Tuple[str, ...] = ()
    if args.mixup_mode in MODES:
        parts = ('mixed_loss', 'clean_loss', *(('input_prob', 'fit') if args.multimix_input_prob == 'auto' else ()))
    elif args.kd_model_name:
        parts = ('task_loss', 'distill_loss')
    top1 = () if mixes_input(args) or args.task == 'multilabel' else ('top1',)
    return ('loss', *parts, *top1)
