"""Measure trained models on a folder of images: `python -m benchmarks.evaluate CHECKPOINT... --data-dir DIR`.

Takes every checkpoint that timm reads, whoever trained it; the model and its transform are those of the args.yaml
beside it, or of flags. Each checkpoint gets one JSON file, RESULTS/RECIPE/METHOD-SEED.json, named after its folder:
benchmarks.train writes RECIPE/METHOD-SEED/last.pth.tar. Measures that the file has are kept, so that others can be
added later.
"""
import argparse
import csv
import glob
import json
import logging
import math
import os
import sys
import time
from contextlib import nullcontext
from typing import Any, Dict, List, Optional

import torch
import yaml
from timm.models import load_checkpoint
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from timm_multimix import UsageError
from timm_multimix.checks import call_library
from timm_multimix.training.cli.parser import FLAGS, parse_args
from timm_multimix.training.data.classes import read_classes
from timm_multimix.training.model import create_train_model
from timm_multimix.training.runtime import Runtime

from . import records
from .measures import accuracy, boxes, embeddings, outliers, robustness
from .measures.subject import PixelModel, Subject
from .records import add_device, check_least, create_parser, digest_of, environment, mistakes, read_record, write_record
from .subset import CONTENTS

_logger = logging.getLogger('benchmarks')
MEASURES = dict(accuracy=accuracy, robustness=robustness, outliers=outliers, embeddings=embeddings, boxes=boxes)
_MODEL_FLAGS = (
    'model', 'num_classes', 'img_size', 'input_size', 'in_chans', 'gp', 'model_kwargs', 'mean', 'std', 'interpolation',
    'crop_pct')
_READING = ('class_map', 'input_key', 'target_key', 'input_img_mode')
_AVERAGES = {'state_dict_ema', 'model_ema'}


def training_args(path: str) -> Dict[str, Any]:
    """Return the args.yaml beside a checkpoint, of timm's script or ours; empty without one."""
    path = os.path.join(os.path.dirname(path), 'args.yaml')
    if not os.path.exists(path):
        return {}
    with open(path, encoding='utf-8') as file:
        return yaml.safe_load(file) or {}


def subject_of(path: str, args: argparse.Namespace) -> Subject:
    """Load a checkpoint in eval mode, with frozen weights; flags take precedence over its args.yaml.

    Raises:
        UsageError: If the model is unknown, or the checkpoint does not fit it.
    """
    check_least(args, batch_size=1, workers=0)
    if not args.data_dir and not args.dataset:
        raise UsageError('--data-dir is needed')
    written = training_args(path)
    given = {name: value for name in _MODEL_FLAGS if (value := getattr(args, name)) is not None}
    if 'model' not in given and not written.get('model'):
        raise UsageError(f'{path} has no args.yaml beside it: give --model, and --num-classes unless it is the default')
    if args.use_ema and (path.endswith('.safetensors') or not _AVERAGES & load_checkpoint_metadata(path).keys()):
        raise UsageError(f'{path} holds no averaged weights for --use-ema')
    settings, _ = parse_args([args.data_dir or 'DIR'])  # what neither says has the script's default
    vars(settings).update(written)
    if args.img_size and not args.input_size:
        settings.input_size = None  # of the training, which timm prefers
    # the weights are those of the checkpoint, on one device
    vars(settings).update(
        given, pretrained=False, pretrained_path=None, initial_checkpoint='', distributed=False, torchscript=False,
        fuser='', head_init_scale=None, head_init_bias=None)
    device = torch.device(args.device)
    model, data_config = create_train_model(settings, Runtime(device, False, nullcontext, None, None))
    fit = f'{path} does not fit --model {settings.model} with {model.num_classes} classes'
    call_library(  # a bad file can raise anything
        fit, load_checkpoint, model, path, use_ema=args.use_ema, device=args.device, errors=Exception)
    pixel_model = PixelModel(model, data_config['mean'], data_config['std']).to(device)
    pixel_model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Subject(
        pixel_model, data_config, device, args.dataset, args.data_dir,
        args.split or written.get('val_split') or 'validation', args.batch_size, args.workers,
        getattr(torch, args.amp_dtype) if args.amp_dtype else None,
        {name: value for name in _READING if (value := written.get(name))},
        read_classes(os.path.dirname(path)) or ())


def identity(path: str, written: Dict[str, Any], args: argparse.Namespace) -> Dict[str, Any]:
    """Return recipe, method and seed by the checkpoint's folders, RECIPE/METHOD-SEED, unless flags say otherwise."""
    folder, file = os.path.split(os.path.abspath(path))
    name = os.path.basename(folder)
    if not written:  # a file on its own
        folder, name = os.path.join(folder, file), file.split('.')[0]
    seed = written.get('seed', 0)
    method = name.removesuffix(f'-{seed}')
    recipe = args.recipe or os.path.basename(os.path.dirname(folder))
    return dict(recipe=recipe, method=args.method or method, seed=seed)


def training_of(path: str, written: Dict[str, Any]) -> Dict[str, Any]:
    """Return what is known of the training: flags that are not the defaults, commits, and the epochs of summary.csv."""
    folder = os.path.dirname(path)
    args = {
        name: value for name, value in sorted(written.items())
        if name not in records.PLACES and value not in (None, FLAGS[name].default if name in FLAGS else None)}
    training: Dict[str, Any] = dict(args=json.loads(json.dumps(args, default=str)))
    commits, summary = (os.path.join(folder, name) for name in ('commits.txt', 'summary.csv'))
    if os.path.exists(commits):
        with open(commits, encoding='utf-8') as file:
            training['commits'] = file.read().split()
    if written and os.path.exists(summary):
        with open(summary, newline='') as file:
            training['epochs'] = [
                # JSON has no NaN or infinity, which a diverged loss is
                {name: float(value) if math.isfinite(float(value)) else None for name, value in row.items() if value}
                for row in csv.DictReader(file)]
    return training


def digest_of_data(subject: Subject) -> str:
    """Identify the images: by what `benchmarks.train` recorded, by names and sizes of files, or by timm's name."""
    contents = os.path.join(subject.root, CONTENTS)
    if os.path.exists(contents):
        with open(contents, encoding='utf-8') as file:
            return json.load(file)['digest']
    if subject.dataset:
        return f'{subject.dataset} {subject.split}'
    dataset = subject.images()
    files = [(name, os.path.getsize(os.path.join(dataset.reader.root, name))) for name in dataset.filenames()]
    return digest_of(repr(files).encode())


def _base_names(value: Any) -> Any:
    """Leave out the folders of paths, which are those of this machine."""
    if isinstance(value, list):
        return [_base_names(each) for each in value]
    return os.path.basename(value.rstrip('/')) if isinstance(value, str) else value


def evaluate(path: str, args: argparse.Namespace) -> str:
    """Measure one checkpoint and return the path of its result, which is written after each measure.

    Raises:
        UsageError: If the result exists for other weights, or with other settings of a measure.
    """
    written = training_args(path)
    settings = identity(path, written, args)
    target = os.path.join(args.results, settings['recipe'], '{method}-{seed}.json'.format(**settings))
    with open(path, 'rb') as file:
        settings['checkpoint'] = digest_of(file.read())
    settings.update(model=args.model or written.get('model'), ema=args.use_ema)
    record = dict(benchmark='evaluate', settings=settings, training=training_of(path, written), measures={})
    if os.path.exists(target):
        existing = read_record(target)
        if any(existing['settings'][name] != settings[name] for name in ('checkpoint', 'ema')):
            raise UsageError(f'{target} is of other weights than {path}; delete it, or give other --results')
        record['measures'] = existing['measures']
    subject = subject_of(path, args)
    shared = dict(data=digest_of_data(subject), precision=args.amp_dtype or 'float32', pixels=json.loads(json.dumps(
        {name: subject.data_config[name] for name in ('input_size', 'interpolation', 'crop_pct', 'mean', 'std')})))
    for name in args.measures:
        module, existing = MEASURES[name], record['measures'].get(name)
        own = {**{each: _base_names(getattr(args, each)) for each in module.SETTINGS}, **shared}
        if existing is not None:
            changed = [each for each, value in own.items() if existing['settings'].get(each, value) != value]
            if changed:
                raise UsageError(
                    f'{target} has {name} with other settings ({", ".join(changed)}); delete it, or give other '
                    '--results')
            continue
        start = time.time()
        result = module.measure(subject, args)
        record['measures'][name] = dict(
            settings=own, environment=environment(), result=dict(result, seconds=round(time.time() - start, 2)))
        write_record(target, record)
    return target


def find_checkpoints(patterns: List[str]) -> List[str]:
    """Expand patterns that the shell did not; a folder stands for its last checkpoint.

    Raises:
        UsageError: If one matches nothing.
    """
    paths = []
    for pattern in patterns:
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        files = [os.path.join(path, 'last.pth.tar') if os.path.isdir(path) else path for path in found]
        missing = [path for path in files or [pattern] if not os.path.isfile(path)]
        if missing:
            raise UsageError(f'no checkpoint {missing[0]}')
        paths += files
    return paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `subject_of` takes."""
    group = parser.add_argument_group('model and images')
    group.add_argument('--data-dir', default='', metavar='DIR', help='folder of the images')
    group.add_argument('--dataset', default='', help="timm's name of a dataset in it, such as torch/cifar10")
    group.add_argument('--split', help='split to measure (that of args.yaml, or validation)')
    group.add_argument('--use-ema', action='store_true', help='the averaged weights of the checkpoint')
    group.add_argument('--batch-size', type=int, default=128)
    group.add_argument('--workers', type=int, default=2)
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), help='precision, but of attacks (float32)')
    add_device(group)
    group = parser.add_argument_group('the model, if it is not as in args.yaml')
    for name in _MODEL_FLAGS:
        FLAGS[name].add_to(group)
    parser.set_defaults(**dict.fromkeys(_MODEL_FLAGS))


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', help='files, folders of runs, or patterns')
    add_arguments(parser)
    parser.add_argument('--measures', nargs='+', choices=MEASURES, default=['accuracy'])
    parser.add_argument(
        '--images', type=int, default=1000, metavar='N',
        help='images of all measures but accuracy, spread over the classes (%(default)s; 0: all)')
    parser.add_argument('--unseen', metavar='DIR', help='images of classes that were not trained on')
    parser.add_argument('--results', default='output/results', metavar='DIR', help='(%(default)s)')
    parser.add_argument('--recipe', help='name of the group of results (the folder above that of the run)')
    parser.add_argument('--method', help='name of the method (of the folder)')
    for name, module in MEASURES.items():
        module.add_arguments(parser.add_argument_group(f'measure {name}'))
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(message)s')
    _logger.setLevel(logging.INFO)
    with mistakes(parser):
        check_least(args, images=0)
        paths = find_checkpoints(args.checkpoints)
        for index, path in enumerate(paths):
            _logger.info(f'[{index + 1}/{len(paths)}] {path}: {evaluate(path, args)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
