"""Sentences on where numbers come from: seeds, budget, hardware, versions, commits, and what is missing."""
from typing import Any, Dict, Iterable, List, Set

from ..methods import find
from ..recipes import RECIPES
from ..suite.budget import recipe_args
from ..suite.runs import Runs, all_records

_PARTS = dict(robustness='robustness', ood='outliers and calibration', embedding_space='embedding space')
_VERSIONS = ('python', 'torch', 'torchvision', 'timm', 'numpy', 'timm_multimix')


def caption(runs: Runs, recipe: str) -> str:
    """Caption of a table or figure over these runs."""
    return f'{seeds(runs)}. {budget(recipe)}. {hardware(all_records(runs))}.'


def seeds(runs: Runs) -> str:
    """State how many seeds each method has."""
    counts = {len(records) for records in runs.values()}
    if counts == {1}:
        return 'n = 1 seed each, so no spread'
    numbers = f'n seeds: {", ".join(f"{find(method).label} {len(records)}" for method, records in runs.items())}'
    if len(counts) == 1:
        numbers = f'n = {counts.pop()} seeds each'
    return f'{numbers}; spreads are standard deviations over them'


def budget(recipe: str) -> str:
    """Describe the model and how it was trained."""
    args = recipe_args(recipe)
    images = RECIPES[recipe].train_per_class
    return (
        f'Budget ({recipe}): {args.model}, {args.epochs} epochs, batches of {args.batch_size}, '
        f'{images or "all"} training images per class, {args.opt}'
        + (f', learning rate {args.lr:g}' if args.lr else ''))


def hardware(records: Iterable[Dict[str, Any]]) -> str:
    """Name each processor, or GPU, that occurs."""
    environments = [record['environment'] for record in records]
    if {environment['gpu'] for environment in environments} == {None}:
        return f'{_each(environments, "processor")}, CPU threads: {_each(environments, "threads")}'
    return _each(environments, 'gpu')


def versions(records: List[Dict[str, Any]]) -> str:
    """List the versions of the libraries, and the commits that trained or measured."""
    found = ', '.join(f'{name} {_each([record["environment"] for record in records], name)}' for name in _VERSIONS)
    trained = [record['result'].get('commits') or [record['environment']['commit']] for record in records]
    return f'{found}; commit {" and ".join(dict.fromkeys(commit for commits in trained for commit in commits))}'


def _each(environments: List[Dict[str, Any]], name: str) -> str:
    return ' and '.join(dict.fromkeys(str(environment[name]) for environment in environments))


def missing(parts: Dict[str, Runs], methods: Iterable[str]) -> List[str]:
    """Name everything that the report lacks, in sentences."""
    trained = parts['accuracy']
    lacking = {
        'Not trained': [method for method in methods if method not in trained],
        'One seed, so neither spread nor verdict': [method for method in trained if len(trained[method]) == 1],
        'Two seeds, which tell little': [method for method in trained if len(trained[method]) == 2],
        **{f'No {name} of': sorted(_names(trained) - _names(parts[kind])) for kind, name in _PARTS.items()},
    }
    found = [f'{text}: {", ".join(names)}.' for text, names in lacking.items() if names]
    return found if parts['attention'] else [*found, 'No attention maps.']


def _names(runs: Runs) -> Set[str]:
    return {'{method}-{seed}'.format(**record['settings']) for record in all_records(runs)}
