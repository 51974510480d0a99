"""One run: a backbone, a budget, a seed, and the file of its result."""
import glob
import os
import time
from contextlib import nullcontext
from typing import Any, Dict, NamedTuple, Optional

import torch.distributed as dist
from timm.utils import random_seed

from benchmarks.suite.results import RESULTS as ALL_RESULTS
from benchmarks.suite.results import write_result
from benchmarks.suite.running import exclusive
from benchmarks.suite.runs import existing_settings, read_result

from .backbone import create_features
from .checkpoint import read_checkpoint
from .data import DetectionDataset, Source, read_coco, read_voc
from .detector import create_detector
from .evaluate import evaluate
from .generate import as_json, generate
from .place import Place, agreed
from .recipes import Job, Recipe
from .train import fine_tune

RESULTS = os.path.join(ALL_RESULTS, 'detection')


class Data(NamedTuple):
    train: Source
    evaluate: Source


def prepare_data(recipe: Recipe, data_dir: Optional[str], folder: str) -> str:
    """Return the folder of the data; scenes are generated into `folder`."""
    if recipe.data != 'digits' and not data_dir:
        raise ValueError('--data-dir must be given: only digits need none')
    if recipe.scenes is not None:
        return generate(folder, recipe.scenes, data_dir if recipe.data == 'images' else None)
    return data_dir


def read_data(recipe: Recipe, folder: str) -> Data:
    """Read the sets of a recipe from the folder that `prepare_data` returned."""
    if recipe.data == 'coco':
        train = read_coco(folder, recipe.train_sets[0])
        return Data(train, read_coco(folder, recipe.eval_sets[0], train.classes))
    train = read_voc(folder, recipe.train_sets)
    return Data(train, read_voc(folder, recipe.eval_sets, train.classes))


def check_budget(results: str, setting: str, recipe: Recipe) -> None:
    """Check that all results of a setting, which are rows of one table, have the same budget."""
    budget = as_json(recipe)
    for path in sorted(glob.glob(os.path.join(glob.escape(results), glob.escape(setting), '*.json'))):
        found = read_result(path)['settings'].get('budget') or {}
        differing = [name for name in {**budget, **found} if found.get(name) != budget.get(name)]
        if differing:
            values = ', '.join(f'{name} {found.get(name)} instead of {budget.get(name)}' for name in differing)
            raise ValueError(
                f'--setting {setting} must have results of one budget, {path} has {values}: remove it, or choose '
                'another --setting')


def run(job: Job, data: Data, output: str, results: str, place: Place) -> Optional[str]:
    """Fine-tune, evaluate and write the result; return the path of its file, or None if another process has the run.

    All processes of a run call this; the first one writes. The state is saved in `output` after every epoch.
    """
    path, base = job.result_in(results), os.path.join(output, job.setting, job.name)
    # first, so that a mistake is found even if the result exists
    checkpoint = read_checkpoint(job.checkpoint, job.recipe.model, job.use_ema) if job.checkpoint else None
    settings = dict(
        recipe=job.setting, method=job.method, seed=job.seed, budget=as_json(job.recipe),
        checkpoint=checkpoint.record if checkpoint else None)
    os.makedirs(os.path.dirname(base), exist_ok=True)  # in every process: if it fails, none waits for another
    with exclusive(f'{base}.lock') if place.rank == 0 else nullcontext() as mine:
        free, done = agreed(lambda: (mine, _is_done(path, settings)), place)
        if done or not free:
            return path if done else None
        start = time.time()
        random_seed(job.seed)  # without the rank: new weights of the detector are the same in each process
        features, data_config = create_features(
            job.recipe.model, checkpoint, freeze_bn=job.recipe.freeze_bn and checkpoint is not None)
        detector = create_detector(features, len(data.train.classes), job.recipe, data_config).to(place.device)
        dataset = DetectionDataset(data.train, True, job.recipe.flip)
        epochs = fine_tune(detector, dataset, job, place, f'{base}.pth', settings)
        precision = evaluate(detector, DetectionDataset(data.evaluate, False), place.device, workers=place.workers)
        if place.rank == 0:
            images = dict(train=len(dataset), evaluate=len(data.evaluate.annotations))
            result = dict(**precision, epochs=epochs, images=images, processes=place.world_size)
            result['seconds'] = time.time() - start  # since the last start, if the run was interrupted
            write_result(path, 'detection', settings, result)
        if place.world_size > 1:
            dist.barrier()  # no process continues before the file exists
    return path


def _is_done(path: str, settings: Dict[str, Any]) -> bool:
    found = existing_settings(path)
    if found not in (None, settings):
        names = [name for name in settings if found.get(name) != settings[name]]
        raise ValueError(
            f'--results: {path} has another {", ".join(names) or "recipe"}: remove it, or choose another folder')
    return found is not None
