"""The budget that compared runs share, and the flags that may differ between machines."""
import argparse
import contextlib
import io
import os
from typing import Any, Dict, FrozenSet, List

import yaml

from timm_multimix.training.cli.parser import parse_args

from ..methods import find
from ..recipes import RECIPES
from .runs import existing_settings

_MACHINE = frozenset((
    'config amp amp_dtype workers pin_mem no_prefetcher device device_modules local_rank channels_last fuser '
    'torchcompile '
    'torchcompile_mode no_ddp_bb synchronize_step grad_checkpointing model_ema_force_cpu multimix_implementation '
    'save_epochs save_images recovery_interval log_interval log_wandb wandb_project wandb_tags wandb_resume_id '
    'log_tensorboard').split())
_SUITE = frozenset('data data_dir val_split output experiment resume checkpoint_hist'.split())
"""Flags that `benchmarks.accuracy` sets itself."""


def budget(recipe: str, method: str, seed: int) -> str:
    """Return the flags of a run, without those of the machine."""
    return f'{RECIPES[recipe].flags} {find(method).flags} --seed {seed}'


def recipe_args(recipe: str) -> argparse.Namespace:
    """Return all settings of train_timm.py for a recipe; those it does not give have their defaults."""
    return parse_args(['DIR', *RECIPES[recipe].flags.split()])[0]


def check_pretrained(recipe: str) -> None:
    """Check that the weights a recipe starts from exist.

    Raises:
        ValueError: If they do not.
    """
    path = recipe_args(recipe).pretrained_path
    if path and not os.path.exists(path):
        raise ValueError(f'--recipe {recipe} needs the weights {path}: python -m benchmarks.pretrained writes them')


def check_flags(expected: str, extra: str) -> None:
    """Check that extra flags leave the budget as it is.

    Raises:
        ValueError: If train_timm.py rejects the flags, or they change the budget.
    """
    changed = _differences(_parse(expected), _parse(f'{expected} {extra}'), _MACHINE)
    if changed:
        raise ValueError(
            f'--flags must not change the budget, got {extra!r}, which changes {", ".join(changed)}; use another '
            'recipe for that')


def check_result(path: str, expected: str, folder: str) -> None:
    """Check that a result, if it exists, has this budget.

    Raises:
        ValueError: If it has another.
    """
    existing = existing_settings(path)
    if existing is not None and not is_of(existing['flags'], expected):
        raise ValueError(
            f'{path} has the flags {existing["flags"]!r}, not {expected!r}; delete it and {folder} to train anew')


def check_data(path: str, digest: str) -> None:
    """Check that a result, if it exists and names its images, was measured on these.

    Raises:
        ValueError: If it names others.
    """
    existing = (existing_settings(path) or {}).get('data', digest)
    if existing != digest:
        raise ValueError(f'{path} has other images, {existing}, than --data-dir, {digest}')


def is_of(flags: str, expected: str) -> bool:
    """Return whether the flags are the expected ones, followed by any flags of a machine."""
    return f'{flags} '.startswith(f'{expected} ')


def check_folder(folder: str, expected: str) -> None:
    """Check that a run in the folder, if there is one, was started with this budget.

    Raises:
        ValueError: If it was started with another.
    """
    path = os.path.join(folder, 'args.yaml')
    if not os.path.exists(path):
        return
    with open(path, encoding='utf-8') as file:
        found = yaml.safe_load(file)
    wanted = {name: value for name, value in _parse(expected).items() if not _is_left_to_a_default(name, value)}
    changed = _differences(wanted, found, _MACHINE | _SUITE)
    if changed:
        raise ValueError(f'the run in {folder} was started with another {", ".join(changed)}; delete it to train anew')


def _parse(flags: str) -> Dict[str, Any]:
    """Return all settings of train_timm.py, as in its args.yaml."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return yaml.safe_load(parse_args(['DIR', *flags.split()])[1])
    except SystemExit as error:
        raise ValueError(f'--flags: {message.getvalue().strip().splitlines()[-1]}') from error


def _is_left_to_a_default(name: str, value: Any) -> bool:
    """Return whether args.yaml has the resolved value of this flag; --multimix-paper stands for other flags."""
    return name == 'multimix_paper' or (name.startswith('multimix_') and value is None)


def _differences(expected: Dict[str, Any], found: Dict[str, Any], free: FrozenSet[str]) -> List[str]:
    """List differences as 'name (value instead of value)'; settings that are not in `found` do not count."""
    return [
        f'{name} ({found[name]!r} instead of {value!r})' for name, value in expected.items()
        if name not in free and name in found and found[name] != value]
