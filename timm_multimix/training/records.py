"""What a run records of every epoch: summary.csv, Weights & Biases and TensorBoard."""
import argparse
import csv
import importlib
import logging
import os
from typing import Any, Dict, List

from ..checks import UsageError, call_library
from ..settings import MODES

_logger = logging.getLogger('train')
_GROUPS = ('epoch', 'train', 'eval', 'lr')  # of the columns, in their order


class Summary:
    """The rows of the file, which is replaced with each new row, so that it is always complete.

    Rows of an existing file before `start_epoch`, the first epoch that will be trained, are kept. The columns are those
    of any row.
    """

    def __init__(self, path: str, start_epoch: int):
        self.path = path
        self.waiting = 0  # rows that did not fit on the disk
        self._rows: List[Dict[str, Any]] = []
        if os.path.exists(path):
            self._rows = [row for row in _read(path) if float(row['epoch']) < start_epoch]

    def add_epoch(self, epoch: int, values: Dict[str, float]) -> None:
        self._rows.append(dict(values, epoch=epoch))
        self.waiting += 1
        self.write()

    def write(self) -> None:
        """Write all rows; if that fails, they wait for the next epoch."""
        partial = f'{self.path}.tmp'
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = [name for group in _GROUPS for name in names if name and name.split('_')[0] == group]
        try:
            with open(partial, 'w', newline='') as file:
                writer = csv.DictWriter(file, columns, restval='', extrasaction='ignore')
                writer.writeheader()
                writer.writerows(self._rows)
                file.flush()
                os.fsync(file.fileno())  # because it holds all epochs, not only the last
            os.replace(partial, self.path)
            self.waiting = 0
        except OSError as error:
            _logger.error(f'{self.path} could not be written: {error.strerror}; its rows wait for the next epoch.')


def _read(path: str) -> List[Dict[str, Any]]:
    """Read the rows, without the repeated headers of earlier timm scripts and without the remains of a crash."""
    with open(path, newline='') as file:
        rows = list(csv.DictReader(line.replace('\0', '') for line in file))
    if rows and 'epoch' not in rows[0]:
        raise UsageError(f'{path}: not the summary of a run: it has no column epoch; move it away')
    return [row for row in rows if (row['epoch'] or '').replace('.', '', 1).isdigit()]


def check_installed(args: argparse.Namespace) -> None:
    """Refuse a flag whose package is not installed, before anything is built or written."""
    if args.save_images and args.mixup_mode in MODES:
        call_library('--save-images needs matplotlib in a MultiMix mode', importlib.import_module, 'matplotlib.figure')
    for asked, name, module in ((args.log_wandb, 'wandb', 'wandb'),
                                (args.log_tensorboard, 'tensorboard', 'torch.utils.tensorboard')):
        if asked:
            call_library(f'--log-{name} needs {name} (pip install {name})', importlib.import_module, module)


class Tracker:
    """Sends each epoch's metrics to the services that the flags name; on the primary process only.

    In TensorBoard, epochs from `start_epoch` on that an earlier run logged are hidden. Weights & Biases keeps them.
    """

    def __init__(self, args: argparse.Namespace, name: str, folder: str, start_epoch: int):
        self.wandb = self.tensorboard = None
        if args.log_wandb:
            self.wandb = importlib.import_module('wandb')
            again = dict(resume='must', id=args.wandb_resume_id) if args.wandb_resume_id else {}
            # its errors have no common class
            run = call_library('--log-wandb', self.wandb.init, project=args.wandb_project, name=name,
                               config=vars(args), tags=args.wandb_tags, **again, errors=Exception)
            if again:
                run.config.update(vars(args), allow_val_change=True)
                last = run.summary.get('epoch')
                if last is not None and last >= start_epoch:
                    _logger.warning(
                        f'--wandb-resume-id {args.wandb_resume_id}: epochs {start_epoch} to {last} are there already, '
                        f'and Weights & Biases will show them twice.')
        if args.log_tensorboard:
            self.tensorboard = importlib.import_module('torch.utils.tensorboard').SummaryWriter(
                folder, purge_step=start_epoch)

    def add_epoch(self, epoch: int, values: Dict[str, float]) -> None:
        if self.wandb is not None:
            self.wandb.log(dict(values, epoch=epoch))
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name.replace('_', '/', 1), value, epoch)
            self.tensorboard.flush()  # so that an interrupted run loses nothing

    def close(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()
