"""Checks of image folders, one per class, against mistakes that would make labels wrong."""
import argparse
import difflib
import logging
import os
from collections import Counter
from typing import Dict, Iterable, List, Set

from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from ..._checks import UsageError
from .classes import some

_logger = logging.getLogger('train')
_PREFIXES = ('torch/', 'hfds/', 'hfids/', 'tfds/', 'wds/')
_TORCH_NAMES = ('cifar10', 'cifar100', 'mnist', 'kmnist', 'fashion_mnist', 'qmnist', 'inaturalist', 'places365',
                'imagenet', 'image_folder')
# for a split with one of these names, timm looks for any in the same group
_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))


def check_root(args: argparse.Namespace) -> None:
    """Refuse a dataset whose prefix timm does not know, and a folder or split that does not exist."""
    if args.dataset:
        _check_name(args.dataset)
        return
    root = args.data_dir or args.data
    if not os.path.exists(root):
        raise UsageError(f'--data-dir {root}: no such folder')
    if args.train_split == args.val_split or not os.path.isdir(root):
        return
    for flag, split in (('--train-split', args.train_split), ('--val-split', args.val_split)):
        same = next((names for names in _SYNONYMS if split in names), (split,))
        if not any(os.path.exists(os.path.join(root, name.split('[')[0])) for name in same):
            folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
            raise UsageError(f'{flag} {split}: no such folder in {root}, which has {some(folders) or "no folders"}')


def _check_name(name: str) -> None:
    if name == 'digits' or name.lower().startswith(_PREFIXES):
        return
    close = difflib.get_close_matches(name.lower(), _TORCH_NAMES, n=1, cutoff=0.8)
    raise UsageError(
        f'--dataset must be digits or start with one of {", ".join(_PREFIXES)}, got {name!r}'
        f'{f" (did you mean torch/{close[0]}?)" if close else ""}; leave it out for a folder of images')


def check_folders(split: str, dataset: Dataset, args: argparse.Namespace) -> None:
    """Leave out hidden files and folders, and warn of everything that is skipped.

    Raises:
        ValueError: If images are outside the class folders, or the order of classes is not defined.
    """
    reader = getattr(dataset, 'reader', None)
    if not isinstance(reader, ReaderImageFolder):
        return
    root = reader.root
    _leave_out_hidden(split, reader, keep_classes=bool(args.class_map))
    _tell_passed_over(split, root, args.input_key.split(';') if args.input_key else get_img_extensions())
    folders = {os.path.relpath(os.path.dirname(path), root) for path, _ in reader.samples}
    if '.' in folders:
        loose = sorted(os.path.basename(path) for path, _ in reader.samples if os.path.dirname(path) == root)
        raise UsageError(
            f'{split}: every image must be in the folder of its class, got {some(loose)} in {root} itself')
    _check_order(split, reader.class_to_idx)
    _warn_of_shared_names(split, folders)
    used = {folder.split(os.sep)[0] for folder in folders}
    unused = sorted(entry.name for entry in os.scandir(root)
                    if entry.is_dir() and entry.name not in used and not entry.name.startswith('.'))
    if unused and args.class_map:
        _logger.warning(f'{split}: not in --class-map {args.class_map} and so left out: {some(unused)}.')
    elif unused:
        _logger.warning(f'{split}: no images in {some(unused)}; they do not become classes.')


def _leave_out_hidden(split: str, reader: ReaderImageFolder, keep_classes: bool) -> None:
    """Remove hidden files and folders, and renumber the classes unless a class map numbered them."""
    start = len(reader.root.rstrip(os.sep))
    samples = [sample for sample in reader.samples if not _is_hidden(sample[0][start:])]
    if not samples:
        raise UsageError(f"{split}: all images in {reader.root} are hidden: their name, or a folder's, starts with '.'")
    if len(samples) == len(reader.samples):
        return
    if not keep_classes:
        used = {label for _, label in samples}
        names = [name for name, label in reader.class_to_idx.items() if label in used]
        label_of = {reader.class_to_idx[name]: label for label, name in enumerate(names)}
        reader.class_to_idx = {name: label for label, name in enumerate(names)}
        samples = [(path, label_of[label]) for path, label in samples]
    reader.samples = samples


def _tell_passed_over(split: str, root: str, extensions: Iterable[str]) -> None:
    """Warn in one line of the files that are skipped."""
    extensions = {extension.lower() for extension in extensions}
    hidden: Counter = Counter()  # files, by the hidden file or folder
    others: Counter = Counter()  # files, by extension
    start = len(root.rstrip(os.sep))
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            path = os.path.join(folder, file)[start:]
            extension = os.path.splitext(file)[1].lower()
            if _is_hidden(path):
                hidden[next(part for part in path.split(os.sep) if part.startswith('.'))] += 1
            elif extension not in extensions:
                others[extension or 'no extension'] += 1
    passed_over = []
    for counter, noun, kind in ((hidden, 'hidden file', ''), (others, 'file', ' without the extension of an image')):
        if counter:
            count, names = sum(counter.values()), [f'{number} {name}' for name, number in sorted(counter.items())]
            passed_over.append(f'{count} {noun}{"s" * (count > 1)}{kind} ({some(names)})')
    if passed_over:
        _logger.warning(f'{split}: skipped {" and ".join(passed_over)} in {root}.')


def _is_hidden(path: str) -> bool:
    return f'{os.sep}.' in path


def _check_order(split: str, names: Iterable[str]) -> None:
    """Refuse names that timm sorts as equal (numbers by value, letters without case): their labels would be random."""
    seen: Dict[str, str] = {}
    for name in names:
        other = seen.setdefault(repr(natural_key(name)), name)
        if other is not name:
            raise UsageError(
                f'{split}: names of classes must differ in more than case and leading zeros, which sorting '
                f'ignores, got {some(sorted([other, name]))}')


def _warn_of_shared_names(split: str, folders: Set[str]) -> None:
    by_name: Dict[str, List[str]] = {}
    for folder in sorted(folders):
        by_name.setdefault(os.path.basename(folder), []).append(folder)
    for name, same in by_name.items():
        if len(same) > 1:
            _logger.warning(f'{split}: {some(same)} are one class, {name}: the last folder of a path is its name.')
