"""Logging to Weights & Biases and TensorBoard."""
import argparse
import importlib
import logging
from typing import Dict

from ..checks import call_library

_logger = logging.getLogger('train')


def check_installed(args: argparse.Namespace) -> None:
    """Refuse a flag whose package is not installed, before anything is built or written."""
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
            run = call_library(
                '--log-wandb',
                self.wandb.init,
                project=args.wandb_project,
                name=name,
                config=vars(args),
                tags=args.wandb_tags,
                resume='must' if args.wandb_resume_id else None,
                id=args.wandb_resume_id or None,
                errors=Exception,  # its own have no common class
            )
            if args.wandb_resume_id:
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
