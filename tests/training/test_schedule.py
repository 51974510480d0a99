"""An interrupted run has the learning rates of an uninterrupted one, under every scheduler that timm has."""
import copy
import os

import pytest
import torch
from timm.scheduler import scheduler_factory

import train_timm
from tests.support.training_runs import rows_of
from tests.support.training_states import assert_identical, final_state
from timm_multimix.training import evaluate
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.schedule import Schedule

NAMES = ['cosine', 'tanh', 'step', 'constant', 'multistep', 'plateau', 'poly', 'wsd', 'rsqrt', 'none']
MORE = ['--decay-rate', '0.5', '--decay-epochs', '2', '--decay-milestones', '2', '4', '--warmup-epochs', '1',
        '--warmup-lr', '1e-4', '--patience-epochs', '0', '--lr-noise', '0.3', '0.9', '--epochs', '6', '--seed', '3']
NOISE_FREE = [name for name in MORE if name not in ('--lr-noise', '0.3', '0.9')]

VARIANTS = [
    [],
    ['--warmup-prefix'],
    ['--cooldown-epochs', '3', '--epochs', '3'],
    ['--warmup-epochs', '2', '--lr-noise-pct', '0.3', '--lr-noise', '0'],
    ['--epochs', '3', '--lr-cycle-limit', '2', '--lr-cycle-mul', '1.5', '--lr-cycle-decay', '0.5'],
    ['--lr-k-decay', '2', '--min-lr', '0.001', '--patience-epochs', '1'],
]


@pytest.fixture
def metrics(monkeypatch):
    """Make validation return a metric that goes up and down; a resumed run gets the next values."""
    def validate(training, model, loader, recovery=None, log_suffix=''):
        result = original(training, model, loader, recovery, log_suffix)
        count = len([name for name in os.listdir(training.args.output + '/' + training.args.experiment)
                     if name.startswith('checkpoint-')])
        return dict(result, top1=METRICS[count])

    original = evaluate.validate
    monkeypatch.setattr(evaluate, 'validate', validate)


def rates(steps):
    return [step.rate for step in steps]


def test_the_names_cover_every_scheduler_of_timm():
    """Every scheduler class of timm's factory comes from one of the names."""
    args, _ = parse_args(['folder', *NOISE_FREE])
    made = set()
    for name in NAMES:
        args.sched = name
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        made.add(type(Schedule(args, optimizer, 3).scheduler).__name__)
    classes = {name for name in vars(scheduler_factory) if name.endswith('LRScheduler')}
    assert classes and made == classes | {'NoneType'}


METRICS = [30., 40., 35., 41., 20., 50.]


class Run:
    """A run without a model: its rates over six epochs of three updates, and what a checkpoint would hold."""

    def __init__(self, args, checkpoint=None):
        weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
        self.optimizer = torch.optim.SGD([{'params': weights[:1], 'lr_scale': 0.5}, {'params': weights[1:]}], lr=0.1)
        self.done, state = 0, None
        if checkpoint is not None:
            self.done, state, optimizer = checkpoint
            self.optimizer.load_state_dict(optimizer)
        self.schedule = Schedule(args, self.optimizer, 3)
        self.schedule.begin(self.done // 3, self.done, state)

    def rates(self):
        return [group['lr'] for group in self.optimizer.param_groups]

    def update(self):
        """The rates of one update."""
        rates = self.rates()
        self.done += 1
        self.schedule.step_update(self.done)
        if self.done % 3 == 0:
            self.schedule.step(self.done // 3, METRICS[self.done // 3 - 1])
        return rates

    def checkpoint(self):
        return copy.deepcopy((self.done, self.schedule.state_dict(), self.optimizer.state_dict()))


@pytest.mark.parametrize('on_updates', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_a_restored_schedule_has_the_same_rates(name, on_updates):
    """Interrupted after any update, at the end of an epoch or inside one; with warm-up, noise, cycles and cooldown."""
    if on_updates and name == 'plateau':
        pytest.skip('timm steps it by epochs alone')
    for more in VARIANTS:
        flags = ['folder', *MORE, *more, '--sched', name, *(['--sched-on-updates'] if on_updates else [])]
        args, _ = parse_args(flags)
        run = Run(args)
        whole, checkpoints = [], []
        for _ in range(18):
            whole.append(run.update())
            checkpoints.append(run.checkpoint())
        assert len({rates[0] for rates in whole}) > (0 if name == 'none' else 2), more
        for done, checkpoint in enumerate(checkpoints, start=1):
            run = Run(args, checkpoint)
            assert [run.update() for _ in range(18 - done)] == whole[done:], (more, done)


@pytest.mark.parametrize('flags, warns', [
    ('--epochs 5', True), ('--epochs 6', False), ('--epochs 5 --sched none', False)])
def test_a_run_that_is_all_warm_up_is_warned_of(flags, warns, caplog):
    Run(parse_args(['folder', *flags.split()])[0])
    assert ('never reaches its full value: --warmup-epochs 5 of --epochs 5.' in caplog.text) == warns


def test_a_resumed_run_has_the_same_rates(flags, tmp_path, steps, metrics):
    """Ended by --stop-epoch, and by SIGTERM within an epoch."""
    flags = [*flags, *MORE, '--sched', 'plateau', '--resume', 'auto', '--checkpoint-hist', '10']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    whole, steps[:] = rates(steps), []
    assert len(whole) == 18 and len(set(whole)) > 2

    steps.terminate_at = 10  # in the fourth epoch; with --stop-epoch the first run does three
    assert train_timm.main([*flags, '--experiment', 'parts', '--stop-epoch', '3']) == 0
    assert rates(steps) == whole[:9]
    assert train_timm.main([*flags, '--experiment', 'parts']) == 143
    assert len(steps) == 12
    steps.terminate_at = None
    assert train_timm.main([*flags, '--experiment', 'parts']) == 0
    assert rates(steps) == whole
    assert_identical(final_state(tmp_path / 'parts'), final_state(tmp_path / 'whole'))
    assert rows_of(tmp_path / 'parts') == rows_of(tmp_path / 'whole')


@pytest.mark.slow
def test_validating_a_last_epoch_out_of_turn_does_not_change_the_rates(flags, tmp_path, steps, metrics):
    """With --val-interval; otherwise the rates would depend on where a run was stopped."""
    flags = [*flags, *NOISE_FREE, '--sched', 'plateau', '--resume', 'auto', '--val-interval', '2']
    assert train_timm.main([*flags, '--experiment', 'whole']) == 0
    whole, steps[:] = rates(steps), []
    for more in (['--stop-epoch', '3'], []):
        assert train_timm.main([*flags, '--experiment', 'parts', *more]) == 0
    assert rates(steps) == whole
