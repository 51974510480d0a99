"""Run an unedited copy of timm's training script with MultiMix: `python -m timm_multimix PATH/train.py ARGS`.

    python -m timm_multimix PATH/train.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix

The script is train.py of timm 1.0.23 or newer. Its training task becomes a MultiMixTask. The mixing flags (--mixup...,
--cutmix..., --multimix-...) are removed from its command line, so that its loader returns plain labels; the script
gets all other flags.
"""
import argparse
import logging
import os
import pkgutil
import runpy
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

import torch.nn as nn

from .checks import REJECTIONS, UsageError, call_library
from .settings import MODES
from .tasks.multimix import MultiMixTask
from .training.checkpoints.resume import check_resumed, restore, state_only
from .training.cli.flag import Parser
from .training.cli.flags import GROUPS
from .training.cli.multimix import multimix_kwargs, needs_two_views
from .training.cli.parser import check, create_parser, read_defaults
from .training.cli.rules import check_data, loss_type
from .training.data.classes import check_classes, class_names, write_classes
from .training.data.datasets import check_splits, create_split
from .training.data.folders import check_root
from .training.data.loaders import check_not_empty, prepare_augmentation
from .training.errors import exit_code
from .training.model import create_by_name
from .training.task import criterion_of

_logger = logging.getLogger('train')
_TAKEN = ('mixup', 'cutmix', 'cutmix_minmax', 'mixup_prob', 'mixup_switch_prob', 'mixup_mode', 'mixup_off_epoch')
_HELP = dict(prog='timm_multimix', usage='python -m timm_multimix PATH/train.py ARGS', description=__doc__)


def main(argv: Optional[List[str]] = None) -> int:
    """Run the script and return the exit code; a user's mistake gives code 2 and one line that says what is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help'):
        print(_taken_parser().format_help())
        return 0 if argv else 2
    return exit_code('timm_multimix', lambda: _run(argv[0], argv[1:]))


def _run(script: str, argv: List[str]) -> None:
    path = os.path.abspath(script)
    source = call_library(f'cannot read the script {script}', Path(path).read_text, encoding='utf-8')
    if 'ClassificationTask' not in source:
        raise UsageError(
            f'{script} must train a timm.task.ClassificationTask, as timm\'s train.py does from version 1.0.23 on')
    args, rest = _split_arguments(argv)
    _check_state(args, script, source)
    prepare_augmentation(args.aa)
    tasks: List[MultiMixTask] = []
    patches = {
        'sys.argv': [script, *rest],
        'sys.path': [os.path.dirname(path), *sys.path],  # as python does for a script
        **_patches(args, tasks),
    }
    with ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(mock.patch(name, replacement))
        runpy.run_path(path, run_name='__main__')
    if not tasks:
        raise UsageError(f'{script} ended without building a ClassificationTask; it was not trained with MultiMix')


def _check_state(args: argparse.Namespace, script: str, source: str) -> None:
    """Refuse or warn of what an older script cannot do: it uses the loss of the task, but not its teacher or state."""
    if args.multimix_teacher_decay is not None and 'update_ema' not in source:
        raise UsageError(
            f'--multimix-teacher-decay needs a script that calls task.update_ema(), as timm\'s train.py does today; '
            f'{script} does not, so the teacher would never move')
    if args.multimix_strength == 'auto' and 'resume_task_checkpoint' not in source:
        _logger.warning(
            f'{script} does not save the state of the task: when it resumes, --multimix-strength auto starts from 0.')


def _split_arguments(argv: List[str]) -> Tuple[argparse.Namespace, List[str]]:
    """Return all arguments as train_timm.py would parse them, and the command line of the script."""
    parser = create_parser(allow_abbrev=False, **_HELP)  # the script's own flags may begin like ours
    read_defaults(parser, argv)
    args, _ = parser.parse_known_args(argv)
    check(args)
    if args.mixup_mode not in MODES:
        raise UsageError(f'--mixup-mode must be one of {", ".join(MODES)} here, got {args.mixup_mode!r}')
    if needs_two_views(args):
        raise UsageError(
            '--multimix-teacher-decay needs --multimix-single-view here: the script loads one view of each image')
    if args.cutmix_minmax is not None and args.config:
        raise UsageError('--cutmix-minmax must not be in --config, where the script would read it too')
    _, rest = _taken_parser().parse_known_args(argv)
    if short := next((argument for argument in rest if argument.startswith('--cutmix-')), None):
        raise UsageError(f'--cutmix-minmax must be written in full, got {short}: the script would mix by it, too')
    # explicit, because the script may read other values from the same --config
    not_mixed = ['--mixup', '0', '--cutmix', '0', '--mixup-off-epoch', '0', '--mixup-mode', 'batch']
    return args, [*rest, *not_mixed, '--smoothing', f'{args.smoothing:g}']


def _taken_parser() -> Parser:
    """Return a parser for the flags that are removed from the script's command line."""
    taken = [(title, [flag for flag in flags if flag.dest in _TAKEN or flag.dest.startswith('multimix_')])
             for title, flags in GROUPS]
    return create_parser(groups=[group for group in taken if group[1]], allow_abbrev=False, **_HELP)


def _patches(args: argparse.Namespace, tasks: List[MultiMixTask]) -> Dict[str, Any]:
    """Return what replaces which part of timm, to train a MultiMixTask on checked data; add the tasks to `tasks`."""
    datasets: Dict[bool, Any] = {}  # keyed by is_training
    size = args.input_size or (args.img_size and (args.in_chans or 3, args.img_size, args.img_size))  # or the model's

    class PluggedTask(MultiMixTask):
        """A MultiMixTask with the arguments of timm's task; a class, so that isinstance works in the script."""

        def __init__(self, model, criterion=None, criterion_kwargs: Optional[Dict[str, Any]] = None, **kwargs: Any):
            if True in datasets and hasattr(model, 'num_classes'):
                check_classes(args, model.num_classes, datasets[True], datasets.get(False))
            kwargs.pop('threshold', None)
            kwargs.update(multimix_kwargs(args))
            if args.mixup_mode == 'dense-multimix':
                kwargs['input_size'] = size and tuple(size)
            if type(criterion) is nn.CrossEntropyLoss and loss_type(args) != 'ce':
                # an older script chooses it where neither mixing nor label smoothing is left, whatever the flags
                criterion, criterion_kwargs = None, criterion_of(args)
            of_criterion = {name: value for name, value in (criterion_kwargs or {}).items() if name != 'soft_targets'}
            super().__init__(model, criterion, of_criterion or None, **kwargs)
            tasks.append(self)

    def refuse(*_: Any, **__: Any):
        raise UsageError('the script asked for knowledge distillation, which MultiMix does not support')

    def name_flag(flag: str, original: Callable, *positional: Any, **kwargs: Any):
        what = f'--{flag} {getattr(args, flag)}'
        return call_library(what, original, *positional, errors=(*REJECTIONS, RuntimeError), **kwargs)

    def create_dataset(original: Callable, *positional: Any, **kwargs: Any):
        # the script knows its folder; what looks like DIR may be the value of a flag of its own
        args.data_dir = kwargs.get('root') or args.data_dir
        if not args.data_dir:
            check_data(args)
        check_root(args)
        dataset = create_split(args, partial(original, *positional), **kwargs)
        datasets[bool(kwargs.get('is_training'))] = dataset
        if len(datasets) == 2:
            check_splits(args, datasets[True], datasets[False])
        return dataset

    def create_loader(original: Callable, *positional: Any, **kwargs: Any):
        loader = original(*positional, **kwargs)
        if kwargs.get('is_training'):
            check_not_empty(loader, args.batch_size)
        return loader

    def resume(original: Callable, of: Any, path: str, optimizer: Any = None, *positional: Any, **kwargs: Any):
        check_resumed(path, None if args.no_resume_opt else args.opt)
        return restore(path, original, of, path, optimizer and state_only(optimizer), *positional, **kwargs)

    def create_scheduler_v2(original: Callable, *positional: Any, **kwargs: Any):
        scheduler, epochs = name_flag('sched', original, *positional, **kwargs)
        if scheduler is None:
            if args.mixup_off_epoch:
                raise UsageError('--mixup-off-epoch needs a --sched, which counts the epochs')
            return scheduler, epochs
        scheduler.step = partial(step, scheduler.step)
        if updates_per_epoch := kwargs.get('updates_per_epoch'):
            scheduler.step_update = partial(step_update, scheduler.step_update, updates_per_epoch)
        return scheduler, epochs

    def step(original: Callable, epoch: int, *positional: Any, **kwargs: Any):
        """Step the scheduler, the only object that is told of every epoch; end mixing at its epoch, and log."""
        begin_epoch(epoch)
        for task in tasks:
            if task.verbose and task.mixup_enabled:  # on one process only
                for metric, value in task.input_mixing.metrics().items():
                    _logger.info(f'Before epoch {epoch}: {metric} {value:.3f}')
        return original(epoch, *positional, **kwargs)

    def step_update(original: Callable, updates_per_epoch: int, num_updates: int, *positional: Any, **kwargs: Any):
        begin_epoch(num_updates // updates_per_epoch)
        return original(num_updates, *positional, **kwargs)

    def begin_epoch(epoch: int):
        for task in tasks:
            task.mixup_enabled = not args.mixup_off_epoch or epoch < args.mixup_off_epoch

    def get_outdir(original: Callable, *positional: Any, **kwargs: Any):
        folder = name_flag('output', original, *positional, **kwargs)
        if True in datasets:
            write_classes(folder, class_names(datasets[True]))
        return folder

    wrapped = {
        'timm.data.create_dataset': create_dataset,
        'timm.data.create_loader': create_loader,
        'timm.models.create_model': partial(create_by_name, f'--model {args.model}', args.model),
        'timm.optim.create_optimizer_v2': partial(name_flag, 'opt'),
        'timm.scheduler.create_scheduler_v2': create_scheduler_v2,
        'timm.task.resume_task_checkpoint': resume,
        'timm.models.resume_checkpoint': resume,
        'timm.utils.get_outdir': get_outdir,
    }
    return {
        **{f'timm.task{module}.{name}ClassificationTask': PluggedTask
           for module in ('', '.classification') for name in ('', 'MultiLabel')},
        **{f'timm.task.{name}DistillationTask': refuse for name in ('Logit', 'Feature', 'Token')},
        **{name: partial(wrapper, pkgutil.resolve_name(name)) for name, wrapper in wrapped.items()},
    }


if __name__ == '__main__':
    sys.exit(main())
