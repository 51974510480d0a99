"""summary.csv: one row per epoch, all with the same columns."""
import csv
import logging
import os
from typing import Any, Dict, Iterable, List

from ..checks import UsageError
from ..settings import MODES
from .cli.multimix import mixes_input
from .loop import Training

_logger = logging.getLogger('train')
_GROUPS = ('epoch', 'train', 'eval', 'lr')  # of the columns, in their order


class Summary:
    """The rows of the file, which is replaced with each new row, so that it is always complete.

    Args:
        path: The file. Its rows before `start_epoch` are kept, also with columns that this run does not have.
        columns: Columns of this run.
        start_epoch: The first epoch that will be trained.

    Raises:
        ValueError: If the file is not a summary.
    """

    def __init__(self, path: str, columns: Iterable[str], start_epoch: int):
        self.path = path
        self.waiting = 0  # rows that did not fit on the disk
        self._rows: List[Dict[str, Any]] = []
        if os.path.exists(path):
            self._rows = [row for row in _read(path) if float(row['epoch']) < start_epoch]
        names = dict.fromkeys((*columns, *(name for row in self._rows[:1] for name in row)))
        self.columns = [name for group in _GROUPS for name in names if name and name.split('_')[0] == group]

    def add_epoch(self, epoch: int, values: Dict[str, float]) -> None:
        self._rows.append(dict(values, epoch=epoch))
        self.waiting += 1
        self.write()

    def write(self) -> None:
        """Write all rows; if that fails, they wait for the next epoch."""
        partial = f'{self.path}.tmp'
        try:
            with open(partial, 'w', newline='') as file:
                writer = csv.DictWriter(file, self.columns, restval='', extrasaction='ignore')
                writer.writeheader()
                writer.writerows(self._rows)
                file.flush()
                os.fsync(file.fileno())  # as it holds all epochs, not only the last
            os.replace(partial, self.path)
            self.waiting = 0
        except OSError as error:
            _logger.error(f'{self.path} could not be written: {error.strerror}; its rows wait for the next epoch.')


def _read(path: str) -> List[Dict[str, Any]]:
    """Read the rows, without the repeated headers of earlier timm scripts and without the remains of a crash."""
    with open(path, newline='') as file:
        rows = list(csv.DictReader(line.replace('\0', '') for line in file))
    if rows and 'epoch' not in rows[0]:
        raise UsageError(f'{path}: not the summary of a run, as it has no column epoch; move it away')
    return [row for row in rows if (row['epoch'] or '').replace('.', '', 1).isdigit()]


def columns_of(training: Training) -> List[str]:
    """The columns of a run; without top-1 if images are mixed, as it would mean nothing."""
    args = training.args
    train, evaluation = ['loss'], [*training.task.create_evaluator().metric_names]
    if args.mixup_mode in MODES:
        train += ['mixed_loss', 'clean_loss', *(('strength', 'fit') if args.multimix_strength == 'auto' else ())]
    elif args.kd_model_name:
        train += ['task_loss', 'distill_loss']
    if not mixes_input(args) and args.task != 'multilabel':
        train.append('top1')
    if args.multimix_teacher_decay is not None:
        evaluation.append('student_top1')  # the other metrics are the teacher's
    return ['epoch', *(f'train_{name}' for name in train), *(f'eval_{name}' for name in evaluation), 'lr']
