"""Train methods on the same budget: `python -m benchmarks.train --recipe NAME --data-dir DIR`.

Each method and seed is a run of train_timm.py in OUTPUT/RECIPE/METHOD-SEED, one after another; with --nproc or --nodes
it is started by torchrun. Complete runs are skipped and interrupted ones resume, so the command can be repeated. If a
run fails, the others still run, and the exit code is 1.
"""
import argparse
import contextlib
import fcntl
import io
import logging
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import yaml
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from timm_multimix import UsageError
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.errors import INTERRUPTED, TERMINATED

from .methods import METHODS, find
from .recipes import RECIPES, per_process, shortened
from .records import COMMIT, PLACES, add_methods, check_least, create_parser, mistakes
from .subset import prepare_data, write_digits

_logger = logging.getLogger('benchmarks')
_SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'train_timm.py')
_MACHINE = frozenset((
    'config amp amp_dtype workers pin_mem no_prefetcher device local_rank channels_last fuser torchcompile '
    'torchcompile_mode no_ddp_bb synchronize_step grad_checkpointing model_ema_force_cpu multimix_implementation '
    'save_epochs save_images recovery_interval log_interval log_wandb wandb_project wandb_tags wandb_resume_id '
    'log_tensorboard').split())
"""Settings of train_timm.py that leave the result as it is."""


class Run(NamedTuple):
    """One training: its folder and its flags of train_timm.py."""
    folder: str
    flags: List[str]


def settings_of(flags: List[str]) -> Dict[str, Any]:
    """Return all settings that train_timm.py takes from these flags, as in its args.yaml."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return yaml.safe_load(parse_args(flags)[1])
    except SystemExit as error:
        raise UsageError(f'--flags: {message.getvalue().strip().splitlines()[-1]}') from error


def check_budget(run: Run) -> None:
    """Check that the run in the folder, if there is one, has the settings that this call gives it.

    Raises:
        UsageError: Naming the settings that differ.
    """
    path = os.path.join(run.folder, 'args.yaml')
    if not os.path.exists(path):
        return
    with open(path, encoding='utf-8') as file:
        found = yaml.safe_load(file)
    expected = {
        name: value for name, value in settings_of(run.flags).items()
        # the file has the values of those that were left to the library
        if value is not None or not name.startswith(('multimix_', 'mixupe_'))}
    changed = _changes(expected, found)
    if changed:
        raise UsageError(f'the run in {run.folder} was started with another {changed}; delete it to train anew')


def _changes(expected: Dict[str, Any], found: Dict[str, Any]) -> str:
    """Describe all differences but those of machines and places; settings that are not in `found` do not count."""
    return ', '.join(
        f'{name} ({found[name]!r} instead of {value!r})' for name, value in expected.items()
        if name not in _MACHINE | PLACES and name != 'multimix_paper' and found.get(name, value) != value)


def is_complete(folder: str) -> bool:
    """Return whether the last epoch's checkpoint is there; it is written after the epoch's row of summary.csv."""
    path, checkpoint = os.path.join(folder, 'args.yaml'), os.path.join(folder, 'last.pth.tar')
    if not os.path.exists(path) or not os.path.exists(checkpoint):
        return False
    with open(path, encoding='utf-8') as file:
        return load_checkpoint_metadata(checkpoint)['epoch'] + 1 >= yaml.safe_load(file)['epochs']


def launch(flags: List[str], args: argparse.Namespace) -> int:
    """Run train_timm.py and return its exit code; it handles Ctrl-C and SIGTERM itself, by saving its state."""
    command = [sys.executable]
    if args.nproc * args.nodes > 1:
        place = ['--standalone']
        if args.nodes > 1:
            place = [f'--nnodes={args.nodes}', '--rdzv-backend=c10d', f'--rdzv-endpoint={args.rendezvous}']
        command += ['-m', 'torch.distributed.run', *place, f'--nproc-per-node={args.nproc}']
    process = subprocess.Popen([*command, _SCRIPT, *flags])
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:  # which the whole process group gets
        process.wait()
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def train(run: Run, args: argparse.Namespace) -> int:
    """Train one run, unless it is complete, and return the exit code of train_timm.py."""
    os.makedirs(run.folder, exist_ok=True)
    with _alone(run.folder, args.nodes) as alone:
        if not alone:
            _logger.info(f'{run.folder}: running in another process')
            return 0
        _add_commit(run.folder)
        return launch(run.flags, args)


@contextlib.contextmanager
def _alone(folder: str, nodes: int) -> Iterator[bool]:
    """Yield whether this process got the folder's lock, which ends with the process; the nodes of a run share it."""
    with open(os.path.join(folder, '.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if nodes > 1 else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _add_commit(folder: str) -> None:
    """Record the commit of the code in commits.txt, for the results of the run."""
    with open(os.path.join(folder, 'commits.txt'), 'a+', encoding='utf-8') as file:
        file.seek(0)
        if COMMIT not in file.read().split():
            file.write(f'{COMMIT}\n')


def plan(args: argparse.Namespace) -> List[Run]:
    """Prepare the images and return the runs, all seeds of a method after one of each.

    Raises:
        UsageError: If a folder holds a run of another budget, the flags change the budget, or images or weights lack.
    """
    check_least(args, nproc=1, nodes=1)
    if args.nodes > 1 and not args.rendezvous:
        raise UsageError('--nodes needs --rendezvous HOST:PORT, the same on every node')
    recipe, group = RECIPES[args.recipe], args.recipe
    if args.epochs is not None:
        recipe, group = shortened(recipe, args.epochs), f'{group}@epochs={args.epochs}'
    images = os.path.join(args.output, 'data', args.recipe)
    flags = f'{per_process(recipe, args.nproc * args.nodes).flags} --val-split {recipe.eval_split}'.split()
    runs = []
    for seed in args.seeds:
        for method in args.methods or recipe.methods or METHODS:
            name = f'{method}-{seed}'
            place = ['--data-dir', images, '--output', os.path.join(args.output, group), '--experiment', name]
            budget = [*place, '--resume', 'auto', '--checkpoint-hist', '1', *flags, *find(method).flags.split(),
                      '--seed', str(seed)]
            runs.append(Run(os.path.join(args.output, group, name), [*budget, *args.flags.split()]))
            changed = _changes(settings_of(budget), settings_of(runs[-1].flags))
            if changed:
                raise UsageError(
                    f'--flags must leave the budget as it is, got {args.flags!r}, which changes {changed}')
            check_budget(runs[-1])
    weights = settings_of(runs[0].flags)['pretrained_path']
    if weights and not os.path.exists(weights):
        raise UsageError(f'--recipe {args.recipe} needs {weights}: python -m benchmarks.pretrained writes it')
    if args.data_dir is None:
        if args.recipe != 'digits':
            raise UsageError(f'--recipe {args.recipe} needs --data-dir')
        args.data_dir = write_digits(os.path.join(args.output, 'data', 'scikit-learn-digits'))
    prepare_data(recipe, args.data_dir, images)
    return runs


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--recipe', required=True, choices=RECIPES, help='the budget')
    parser.add_argument('--data-dir', metavar='DIR', help='train/ and test/, a folder of images per class (not digits)')
    add_methods(parser)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='SEED')
    parser.add_argument('--output', default='output/runs', metavar='DIR', help='folder of all runs (%(default)s)')
    parser.add_argument('--epochs', type=int, metavar='N', help='shorten the recipe for a trial, in another folder')
    parser.add_argument('--nproc', type=int, default=1, metavar='N', help='processes on this machine')
    parser.add_argument('--nodes', type=int, default=1, metavar='N', help='machines, each with this command')
    parser.add_argument('--rendezvous', metavar='HOST:PORT', help='where several machines meet')
    parser.add_argument('--flags', default='', help='machine flags for train_timm.py, such as "--workers 8"')
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(message)s')
    _logger.setLevel(logging.INFO)
    with mistakes(parser):
        todo = plan(args)
    failures, minutes = [], []
    for index, run in enumerate(todo):
        start, state = time.time(), 'complete before'
        if not is_complete(run.folder):
            code = train(run, args)
            if code in (2, INTERRUPTED, TERMINATED):  # a usage error, which all runs share, or a signal
                _logger.error(f'{run.folder}: ' + ('refused' if code == 2 else 'interrupted; the command resumes it'))
                return code
            minutes.append((time.time() - start) / 60.)
            state = f'{"failed" if code else "done"} in {minutes[-1]:.1f} min'
            if code:
                failures.append(f'{run.folder} failed; its command was: {_SCRIPT} {" ".join(run.flags)}')
        left = sum(not is_complete(other.folder) for other in todo[index + 1:])
        remaining = f'; about {left * statistics.fmean(minutes):.0f} min left' if minutes and left else ''
        _logger.info(f'[{index + 1}/{len(todo)}] {run.folder}: {state}{remaining}')
    for failure in failures:
        _logger.error(failure)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
