"""Where numbers come from, in a sentence: seeds, budget and hardware; versions and commits; and what is missing."""
from typing import Any, Dict, Iterable, List, Set

from ..suite.budget import recipe_args
from ..suite.methods import find
from ..suite.recipes import RECIPES
from ..suite.runs import Runs

_PARTS = dict(robustness='robustness', ood='outliers and calibration', embedding_space='embedding space')
_VERSIONS = ('python', 'torch', 'torchvision', 'timm', 'numpy', 'timm_multimix')


def caption(runs: Runs, recipe: str) -> str:
    """Of a figure over these runs."""
    records = [record for of_method in runs.values() for record in of_method]
    return f'{seeds(runs)}. {budget(recipe)}. {hardware(records)}.'


def seeds(runs: Runs) -> str:
    """How many seeds each method has."""
    counts = {method: len(records) for method, records in runs.items()}
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        if count == 1:
            return 'n = 1 seed each, so no spread'
        return f'n = {count} seeds each; spreads are standard deviations over them'
    numbers = ', '.join(f'{find(method).label} {count}' for method, count in counts.items())
    return f'n seeds: {numbers}; spreads are standard deviations over them'


def budget(recipe: str) -> str:
    """The model and how long it was trained on what."""
    args = recipe_args(recipe)
    images = RECIPES[recipe].train_per_class
    return (
        f'Budget ({recipe}): {args.model}, {args.epochs} epochs, batches of {args.batch_size}, '
        f'{images or "all"} training images per class, {args.opt}'
        + (f', learning rate {args.lr:g}' if args.lr else ''))


def hardware(records: Iterable[Dict[str, Any]]) -> str:
    """Each processor, or GPU, that occurs."""
    environments = [record['environment'] for record in records]
    if {environment['gpu'] for environment in environments} == {None}:
        return f'{_each(environments, "processor")}, CPU threads: {_each(environments, "threads")}'
    return _each(environments, 'gpu')


def versions(records: Iterable[Dict[str, Any]]) -> str:
    """Each version of a library that occurs, and each commit that trained or measured."""
    records = list(records)
    found = ', '.join(f'{name} {_each([record["environment"] for record in records], name)}' for name in _VERSIONS)
    trained = [record['result'].get('commits') or [record['environment']['commit']] for record in records]
    return f'{found}; commit {" and ".join(dict.fromkeys(commit for commits in trained for commit in commits))}'


def _each(environments: List[Dict[str, Any]], name: str) -> str:
    return ' and '.join(dict.fromkeys(str(environment[name]) for environment in environments))


def missing(parts: Dict[str, Runs], methods: Iterable[str]) -> List[str]:
    """Name everything that the report lacks, in sentences."""
    trained = parts.get('accuracy', {})
    found = []
    untrained = [method for method in methods if method not in trained]
    if untrained:
        found.append(f'Not trained: {", ".join(untrained)}.')
    single = [method for method, records in trained.items() if len(records) == 1]
    if single:
        found.append(f'One seed, so neither spread nor verdict: {", ".join(single)}.')
    two = [method for method, records in trained.items() if len(records) == 2]
    if two:
        found.append(f'Two seeds, which tell little: {", ".join(two)}.')
    for kind, name in _PARTS.items():
        lacking = _names(trained) - _names(parts.get(kind, {}))
        if lacking:
            found.append(f'No {name} of: {", ".join(sorted(lacking))}.')
    if not parts.get('attention'):
        found.append('No attention maps.')
    return found


def _names(runs: Runs) -> Set[str]:
    return {f'{method}-{record["settings"]["seed"]}' for method, records in runs.items() for record in records}
