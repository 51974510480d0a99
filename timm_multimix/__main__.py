"""Run an unedited copy of timm's training script with MultiMix: `python -m timm_multimix PATH/train.py ARGS`.

    python -m timm_multimix PATH/train.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix

The script is train.py of timm 1.0.23 or newer. Its training task becomes a MultiMixTask. The mixing flags (--mixup...,
--cutmix..., --multimix-...) are removed from its command line, so that its loader returns plain labels; the script
gets all other flags.
"""
import argparse
import logging
import os
import runpy
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple
from unittest import mock

import timm
import timm.data
import timm.models
import timm.optim
import timm.scheduler
import timm.task
import timm.utils

from .checks import REJECTIONS, UsageError, call_library
from .settings import MODES
from .tasks.multimix import MultiMixTask
from .training.checkpoints.resume import check_resumed, restore
from .training.cli.config import read_defaults
from .training.cli.flag import Parser
from .training.cli.multimix import multimix_kwargs, needs_two_views
from .training.cli.parser import FLAGS, GROUPS, check, create_parser
from .training.cli.rules import check_data
from .training.data.classes import check_classes, class_names, write_classes
from .training.data.datasets import DATASET_ERRORS, check_splits, read_or_refuse
from .training.data.folders import check_folders, check_root
from .training.data.loaders import check_not_empty, prepare_augmentation
from .training.errors import exit_code
from .training.model import create_by_name, load_initial, model_flags, read_checkpoint

_logger = logging.getLogger('train')
_TAKEN = ('mixup', 'cutmix', 'cutmix_minmax', 'mixup_prob', 'mixup_switch_prob', 'mixup_mode', 'mixup_off_epoch')
_HELP = dict(prog='timm_multimix', usage='python -m timm_multimix PATH/train.py ARGS', description=__doc__)
_TASKS = ('ClassificationTask', 'MultiLabelClassificationTask')
_OTHER_TASKS = ('LogitDistillationTask', 'FeatureDistillationTask', 'TokenDistillationTask')


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
    with (
        mock.patch.object(sys, 'argv', [script, *rest]),
        mock.patch.object(sys, 'path', [os.path.dirname(path), *sys.path]),  # as python does for a script
        _plugged_in(args) as tasks,
    ):
        runpy.run_path(path, run_name='__main__')
    if not tasks:
        raise UsageError(f'{script} ended without building a ClassificationTask; it was not trained with MultiMix')


def _split_arguments(argv: List[str]) -> Tuple[argparse.Namespace, List[str]]:
    """Return all arguments as train_timm.py would parse them, and the command line of the script."""
    parser = create_parser(**_HELP)
    read_defaults(parser, FLAGS, argv)
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
    # explicit, as the script may read other values from the same --config
    return args, [*rest, '--mixup', '0', '--cutmix', '0', '--mixup-off-epoch', '0', '--mixup-mode', 'batch']


def _taken_parser() -> Parser:
    """Return a parser for the flags that are removed from the script's command line."""
    groups = [
        (title, [flag for flag in flags if flag.dest in _TAKEN or flag.dest.startswith('multimix_')])
        for title, flags in GROUPS]
    return create_parser(groups=[group for group in groups if group[1]], allow_abbrev=False, **_HELP)


@contextmanager
def _plugged_in(args: argparse.Namespace) -> Iterator[List[MultiMixTask]]:
    """Patch timm to build our task and to word errors as train_timm.py does; yield the list of tasks that it builds."""
    tasks: List[MultiMixTask] = []
    datasets: Dict[bool, Any] = {}  # keyed by is_training
    optimizers: List[str] = []

    class PluggedTask(MultiMixTask):
        """A MultiMixTask with the arguments of timm's task; a class, so that isinstance works in the script."""

        def __init__(self, model, criterion=None, criterion_kwargs: Optional[Dict[str, Any]] = None, **kwargs: Any):
            kwargs.pop('threshold', None)
            super().__init__(
                model,
                criterion,
                {name: value for name, value in (criterion_kwargs or {}).items() if name != 'soft_targets'} or None,
                **multimix_kwargs(args),
                **({'input_size': _input_size(args)} if args.mixup_mode == 'dense-multimix' else {}),
                **kwargs,
            )
            tasks.append(self)
            _check_classes(args, tasks, datasets)
            self.num_batches = 0

        def forward(self, input, target):
            if self.teacher is not None and not self.teacher.moved:
                if self.num_batches > args.grad_accum_steps:
                    raise UsageError(
                        f'--multimix-teacher-decay needs a script that calls task.update_ema() after each update; '
                        f'got {self.num_batches} batches without a call')
                self.num_batches += 1
            return super().forward(input, target)

    def refuse(*_: Any, **__: Any):
        raise UsageError('the script asked for knowledge distillation, which MultiMix does not support')

    def create_dataset(original: Callable, *positional: Any, **kwargs: Any):
        if not args.data_dir:  # otherwise what looks like DIR may be the value of a flag of the script
            check_data(args)
        check_root(args)
        split = kwargs.get('split', 'a')
        what = f'{split} split of {args.dataset or args.data_dir or args.data}'
        dataset = call_library(what, original, *positional, **kwargs, errors=DATASET_ERRORS)
        dataset = read_or_refuse(dataset, kwargs.get('input_img_mode'))
        datasets[bool(kwargs.get('is_training'))] = dataset
        if len(datasets) == 2:
            check_splits(args, datasets[True], datasets[False])
        check_folders(split, dataset, args)
        _check_classes(args, tasks, datasets)
        return dataset

    def create_loader(original: Callable, *positional: Any, **kwargs: Any):
        loader = original(*positional, **kwargs)
        if kwargs.get('is_training'):
            check_not_empty(loader, args.batch_size)
        return loader

    def create_model(original: Callable, *positional: Any, checkpoint_path: str = '', **kwargs: Any):
        if args.pretrained_path:
            read_checkpoint('--pretrained-path', args.pretrained_path)
        model = create_by_name(model_flags(args), args.model, original, *positional, **kwargs)
        if checkpoint_path:
            load_initial(model, checkpoint_path)
        return model

    def create_optimizer_v2(original: Callable, of: Any, opt: str = 'sgd', *positional: Any, **kwargs: Any):
        optimizers.append(opt)  # the script's default may differ from that of our --opt
        errors = Exception if args.opt_kwargs or args.opt_betas else REJECTIONS
        return call_library(f'--opt {args.opt}', original, of, opt, *positional, **kwargs, errors=errors)

    def resume(original: Callable, of: Any, path: str, *positional: Any, **kwargs: Any):
        check_resumed(path, None if args.no_resume_opt or not optimizers else optimizers[-1])
        return restore(path, original, of, path, *positional, **kwargs)

    def create_scheduler_v2(original: Callable, *positional: Any, **kwargs: Any):
        scheduler, epochs = call_library(f'--sched {args.sched}', original, *positional, **kwargs)
        updates_per_epoch = kwargs.get('updates_per_epoch')
        if args.multimix_strength == 'auto' or args.mixup_off_epoch:
            _follow_epochs(scheduler, updates_per_epoch, tasks, args.mixup_off_epoch)
        return scheduler, epochs

    def get_outdir(original: Callable, *positional: Any, **kwargs: Any):
        folder = original(*positional, **kwargs)
        if True in datasets:
            write_classes(folder, class_names(datasets[True]))
        return folder

    prepare_augmentation(args)
    wrapped = [
        (timm.data, 'create_dataset', create_dataset),
        (timm.data, 'create_loader', create_loader),
        (timm, 'create_model', create_model),
        (timm.models, 'create_model', create_model),
        (timm.optim, 'create_optimizer_v2', create_optimizer_v2),
        (timm.scheduler, 'create_scheduler_v2', create_scheduler_v2),
        (timm.task, 'resume_task_checkpoint', resume),
        (timm.models, 'resume_checkpoint', resume),
        (timm.utils, 'get_outdir', partial(call_library, f'--output {args.output}', get_outdir)),
        (timm.utils, 'init_distributed_device', partial(
            call_library, f'--device {args.device}', errors=(*REJECTIONS, RuntimeError))),
    ]
    replaced = [
        *((timm.task, name, PluggedTask) for name in _TASKS),
        *((timm.task, name, refuse) for name in _OTHER_TASKS),
        (argparse.ArgumentParser, 'error', Parser.error),  # one line from the script's own parser too
        *((module, name, partial(wrapper, getattr(module, name))) for module, name, wrapper in wrapped),
    ]
    with ExitStack() as stack:
        for module, name, replacement in replaced:
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield tasks


def _follow_epochs(scheduler: Any, updates_per_epoch: Optional[int], tasks: List[MultiMixTask], off_epoch: int) -> None:
    """Hook into the scheduler, the only object told of every epoch: end mixing at `off_epoch` (0: never), and log."""
    if scheduler is None:
        if not off_epoch:
            return
        raise UsageError('--mixup-off-epoch needs a --sched, which counts the epochs')
    step, step_update = scheduler.step, scheduler.step_update

    def stepped(epoch: int, *positional: Any, **kwargs: Any):
        for task in tasks:
            task.mixup_enabled = not off_epoch or epoch < off_epoch
            for name, value in task.input_mixing.metrics().items():
                if task.verbose:  # on one process only
                    _logger.info(f'Before epoch {epoch}: {name} {value:.3f}')
        return step(epoch, *positional, **kwargs)

    def step_updated(num_updates: int, *positional: Any, **kwargs: Any):
        if updates_per_epoch and off_epoch:
            for task in tasks:
                task.mixup_enabled = num_updates // updates_per_epoch < off_epoch
        return step_update(num_updates, *positional, **kwargs)

    scheduler.step, scheduler.step_update = stepped, step_updated


def _check_classes(args: argparse.Namespace, tasks: List[MultiMixTask], datasets: Dict[bool, Any]) -> None:
    """Check the classes of the data against those of the model as soon as both exist."""
    num_classes = getattr(tasks[-1].get_eval_model(), 'num_classes', None) if tasks else None
    if num_classes is not None and True in datasets:
        check_classes(args, num_classes, datasets[True], datasets.get(False))


def _input_size(args: argparse.Namespace) -> Optional[Tuple[int, int, int]]:
    """Return the input size that the flags give; None for the model's own."""
    if args.input_size:
        return tuple(args.input_size)
    return None if args.img_size is None else (args.in_chans or 3, args.img_size, args.img_size)


if __name__ == '__main__':
    sys.exit(main())
