"""The learning rates of a run: timm's schedulers, with the state that a resumed run needs."""
import argparse
import warnings
from typing import Any, Dict, List, Optional

import torch
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.plateau_lr import PlateauLRScheduler

from ..checks import call_library

_PLATEAU = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch')  # state of torch's scheduler


class Schedule:
    """timm's scheduler of --sched, or none.

    timm's schedulers compute the learning rates from the number of the epoch or update, so a resumed run needs no state
    for them. Only plateau has a state, because it depends on earlier metrics: its counts, and by how much it has
    reduced the learning rates. Values of flags are not part of it, so that a run can be resumed with other flags.

    Raises:
        ValueError: If there is no such scheduler, or its flags do not fit.
    """

    def __init__(self, args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int):
        self.optimizer = optimizer
        self.updates_per_epoch = updates_per_epoch
        self.on_updates, self.metric = args.sched_on_updates, args.eval_metric
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='PlateauLRScheduler is deprecated')  # its state is not saved
            self.scheduler, self.num_epochs = call_library(
                f'--sched {args.sched}',
                create_scheduler_v2,
                optimizer,
                **scheduler_kwargs(args, decreasing_metric=args.eval_metric == 'loss'),
                updates_per_epoch=updates_per_epoch,
            )

    def begin(self, epoch: int, updates: int, state: Optional[Dict[str, Any]] = None) -> None:
        """Set the learning rates of `epoch`, after `updates` updates in all; `state` is the checkpoint's, if any."""
        if isinstance(self.scheduler, PlateauLRScheduler) and epoch > 0:
            if state:
                for name in _PLATEAU if state.get('metric', self.metric) == self.metric else _PLATEAU[2:]:
                    setattr(self.scheduler.lr_scheduler, name, state[name])
                self.scheduler.restore_lr = self._rescaled(state, 'without_noise')
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
        return dict(
            {name: getattr(self.scheduler.lr_scheduler, name) for name in _PLATEAU},
            rates=[group['lr'] for group in self.optimizer.param_groups],
            without_noise=self.scheduler.restore_lr,
            base=self.scheduler.base_values,
            metric=self.metric,
        )

    def mean_rate(self) -> float:
        """The learning rate for logs: the mean over the parameter groups."""
        return sum(group['lr'] for group in self.optimizer.param_groups) / len(self.optimizer.param_groups)
