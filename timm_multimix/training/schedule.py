"""The learning rates of a run: timm's schedulers, with the state that a resumed run needs."""
import argparse
import logging
import warnings
from typing import Any, Dict, List, Optional

import torch
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.plateau_lr import PlateauLRScheduler

from .._timm_compat import PLATEAU_STATE, plateau_state, set_plateau_state
from ..checks import call_library

_logger = logging.getLogger('train')


def scaled_learning_rate(args: argparse.Namespace, world_size: int) -> float:
    """Return --lr, or --lr-base scaled by the global batch size, for adaptive optimizers by its square root."""
    if args.lr is not None:
        return args.lr
    global_batch_size = args.batch_size * world_size * args.grad_accum_steps
    ratio = global_batch_size / args.lr_base_size
    adaptive = any(name in args.opt.lower() for name in ('ada', 'lamb'))
    scale = args.lr_base_scale or ('sqrt' if adaptive else 'linear')
    lr = args.lr_base * (ratio ** 0.5 if scale == 'sqrt' else ratio)
    _logger.info(
        f'Learning rate ({lr}) calculated from base learning rate ({args.lr_base}) '
        f'and effective global batch size ({global_batch_size}) with {scale} scaling.')
    return lr


class Schedule:
    """timm's scheduler of --sched, or none.

    timm's schedulers compute the learning rates from the number of the epoch or update, so a resumed run needs no state
    for them. Only plateau has a state, because it depends on earlier metrics: its counts, and by how much it has
    reduced the learning rates. Values of flags are not part of it, so that a run can be resumed with other flags.
    """

    def __init__(self, args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int):
        self.optimizer = optimizer
        self.updates_per_epoch = updates_per_epoch
        self.on_updates, self.metric = args.sched_on_updates, args.eval_metric
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='PlateauLRScheduler is deprecated')  # its state is not saved
            kwargs = scheduler_kwargs(args, decreasing_metric=args.eval_metric == 'loss')
            self.scheduler, self.num_epochs = call_library(
                f'--sched {args.sched}', create_scheduler_v2, optimizer, **kwargs, updates_per_epoch=updates_per_epoch)
        if self.scheduler is not None and args.epochs <= args.warmup_epochs:
            _logger.warning(
                f'The learning rate never reaches its full value: --warmup-epochs {args.warmup_epochs} of --epochs '
                f'{args.epochs}.')

    def begin(self, epoch: int, updates: int, state: Optional[Dict[str, Any]] = None) -> None:
        """Set the learning rates of `epoch`, after `updates` updates in all; `state` is the checkpoint's, if any."""
        if isinstance(self.scheduler, PlateauLRScheduler) and epoch > 0:
            if state:
                names = PLATEAU_STATE if state.get('metric', self.metric) == self.metric else PLATEAU_STATE[2:]
                set_plateau_state(
                    self.scheduler, {name: state[name] for name in names}, self._rescaled(state, 'without_noise'))
                for group, rate in zip(self.optimizer.param_groups, self._rescaled(state, 'rates')):
                    group['lr'] = rate  # timm had reset it to the initial one
            else:  # plateau never raises a rate, so that of the warm-up would stay
                self.scheduler.update_groups(self.scheduler.base_values)
        if self.on_updates:
            self.step_update(updates)
        elif epoch > 0:
            self.step(epoch)

    def _rescaled(self, state: Dict[str, Any], name: str) -> Optional[List[float]]:
        """Rates of a state as they would be under this run's --lr."""
        new = self.scheduler.base_values
        old = state.get('base', new)
        return state[name] and [
            rate if a == b else b * (rate / a if a else 1.) for rate, a, b in zip(state[name], old, new, strict=True)]

    def step(self, epoch: int, metric: Optional[float] = None) -> None:
        """Set the learning rates of `epoch`; `metric` is the previous epoch's, None if it was not validated."""
        if self.scheduler is not None:
            self.scheduler.step(epoch, metric)

    def step_update(self, updates: int) -> None:
        """Set the learning rates of the next update, after `updates` updates in all."""
        if self.scheduler is not None and updates > 0:
            self.scheduler.step_update(updates)

    def state_dict(self) -> Dict[str, Any]:
        """The state for `begin`: plain values, empty for a scheduler without state."""
        if not isinstance(self.scheduler, PlateauLRScheduler):
            return {}
        rates = [group['lr'] for group in self.optimizer.param_groups]
        return dict(plateau_state(self.scheduler), rates=rates, base=self.scheduler.base_values, metric=self.metric)

    def mean_rate(self) -> float:
        """The learning rate for logs: the mean over the parameter groups."""
        return sum(group['lr'] for group in self.optimizer.param_groups) / len(self.optimizer.param_groups)
