"""One run: a backbone, a budget, a seed, and the file of its result."""
import dataclasses
import fcntl
import glob
import json
import os
import time
from typing import Any, Dict, NamedTuple, Optional

import torch.distributed as dist
from timm.utils import random_seed

from benchmarks.suite.results import write_result
from benchmarks.suite.runs import read_result

from .backbone import create_features
from .checkpoint import read_checkpoint
from .data import DetectionDataset, Source, read_coco, read_voc
from .detector import create_detector
from .evaluate import evaluate
from .generate import generate
from .place import Place, agreed
from .recipes import Recipe
from .train import fine_tune

SCRATCH = 'scratch'
RESULTS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'results', 'detection')


class Job(NamedTuple):
    """A run to be made; `checkpoint` is None for random weights."""
    setting: str
    recipe: Recipe
    method: str
    seed: int
    checkpoint: Optional[str]
    use_ema: bool = False


class Data(NamedTuple):
    train: Source
    evaluate: Source


def prepare_data(recipe: Recipe, data_dir: Optional[str], folder: str) -> str:
    """The folder of the data; scenes are generated into `folder`.

    Raises:
        ValueError: If `data_dir` is needed and none, or has too few images.
    """
    if recipe.data != 'digits' and not data_dir:
        raise ValueError('--data-dir must be given: only digits need none')
    if recipe.scenes is not None:
        return generate(folder, recipe.scenes, data_dir if recipe.data == 'images' else None)
    return data_dir


def read_data(recipe: Recipe, folder: str) -> Data:
    """The sets of a recipe in the folder that `prepare_data` returned.

    Raises:
        ValueError: If they are not there, or differ in their classes.
    """
    if recipe.data == 'coco':
        train = read_coco(folder, recipe.train_sets[0])
        return Data(train, read_coco(folder, recipe.eval_sets[0], train.classes))
    train = read_voc(folder, recipe.train_sets)
    return Data(train, read_voc(folder, recipe.eval_sets, train.classes))


def check_budget(results: str, setting: str, recipe: Recipe) -> None:
    """The results of a setting are rows of one table, whatever their method and seed.

    Raises:
        ValueError: If one there is of another budget than the recipe's, or is no result.
    """
    budget = _budget(recipe)
    for path in sorted(glob.glob(os.path.join(glob.escape(results), glob.escape(setting), '*.json'))):
        found = _read_settings(path).get('budget') or {}
        differing = [name for name in {**budget, **found} if found.get(name) != budget.get(name)]
        if differing:
            values = ', '.join(f'{name} {found.get(name)} instead of {budget.get(name)}' for name in differing)
            raise ValueError(
                f'--setting {setting} must have results of one budget, {path} has {values}: remove it, or choose '
                'another --setting')


def run(job: Job, data: Data, output: str, results: str, place: Place) -> Optional[str]:
    """Fine-tune, evaluate and write the result; the path of its file, or None where another process is at it.

    All processes of a run call it; the first one writes. The state is kept in `output` after every epoch.

    Raises:
        ValueError: If the checkpoint does not fit, or the file holds a result of other settings.
    """
    path = os.path.join(results, job.setting, f'{job.method}-{job.seed}.json')
    folder = os.path.join(output, job.setting)
    os.makedirs(folder, exist_ok=True)
    # before anything else, so that a mistake is one whatever has been run already
    checkpoint = read_checkpoint(job.checkpoint, job.recipe.model, job.use_ema) if job.checkpoint else None
    settings = _settings(job, checkpoint.record if checkpoint else None)
    with open(os.path.join(folder, f'{job.method}-{job.seed}.lock'), 'w') as lock:
        free, done = agreed(lambda: (_lock(lock), _is_done(path, settings)), place)
        if done:
            return path
        if not free:
            return None
        start = time.time()
        random_seed(job.seed)  # without the rank: what is new in the detector is the same in each process
        features, data_config = create_features(
            job.recipe.model, checkpoint, freeze_bn=job.recipe.freeze_bn and checkpoint is not None)
        detector = create_detector(features, len(data.train.classes), job.recipe, data_config).to(place.device)
        state_path = os.path.join(folder, f'{job.method}-{job.seed}.pth')
        dataset = DetectionDataset(data.train, True, job.recipe.flip)
        epochs = fine_tune(
            detector, dataset, job.recipe, job.seed, place, state_path, settings, f'{job.method} {job.seed}')
        precision = evaluate(
            detector, DetectionDataset(data.evaluate, False), place.device, workers=place.workers)
        if place.rank == 0:
            images = dict(train=len(dataset), evaluate=len(data.evaluate.annotations))
            result = dict(**precision, epochs=epochs, images=images, processes=place.world_size)
            result['seconds'] = time.time() - start  # of the last start, where the run was interrupted
            write_result(path, 'detection', settings, result)
        if place.world_size > 1:
            dist.barrier()  # the file is there when any of them goes on
    return path


def _settings(job: Job, checkpoint: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """Settings that make two runs comparable, as they are read back from JSON."""
    return dict(
        recipe=job.setting, method=job.method, seed=job.seed, budget=_budget(job.recipe), checkpoint=checkpoint)


def _budget(recipe: Recipe) -> Dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def _lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
    except BlockingIOError:
        return False
    return True


def _is_done(path: str, settings: Dict[str, Any]) -> bool:
    if not os.path.exists(path):
        return False
    found = _read_settings(path)
    if found != settings:
        names = [name for name in settings if found.get(name) != settings[name]]
        raise ValueError(
            f'--results: {path} is of another {", ".join(names) or "recipe"}: remove it, or choose another folder')
    return True


def _read_settings(path: str) -> Dict[str, Any]:
    try:
        return read_result(path)['settings']
    except ValueError as error:
        raise ValueError(f'--results: {error}') from error
