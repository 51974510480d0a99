"""Checks of image folders, one per class, against mistakes that would make labels wrong."""
import argparse
import difflib
import logging
import os
from collections import Counter
from typing import Callable, Iterable, List, Optional

from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from ..._timm_compat import class_indices, image_paths, keep_images, source_of
from ...checks import UsageError
from .classes import some

_logger = logging.getLogger('train')
_PREFIXES = ('torch/', 'hfds/', 'hfids/', 'tfds/', 'wds/')
_TORCH_NAMES = ('cifar10', 'cifar100', 'mnist', 'kmnist', 'fashion_mnist', 'qmnist', 'inaturalist', 'places365',
                'imagenet', 'image_folder')
# for a split with one of these names, timm looks for any in the same group
_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))


def check_root(args: argparse.Namespace) -> None:
    """Refuse a dataset whose prefix timm does not know, and a folder or split that does not exist."""
    if name := args.dataset:
        if name != 'digits' and not name.lower().startswith(_PREFIXES):
            close = difflib.get_close_matches(name.lower(), _TORCH_NAMES, n=1, cutoff=0.8)
            raise UsageError(
                f'--dataset must be digits or start with one of {", ".join(_PREFIXES)}, got {name!r}'
                f'{f" (did you mean torch/{close[0]}?)" if close else ""}; leave it out for a folder of images')
        return
    root = args.data_dir or args.data
    if not os.path.exists(root):
        raise UsageError(f'--data-dir {root}: no such folder')
    if args.train_split == args.val_split or not os.path.isdir(root):
        return
    for flag, split in (('--train-split', args.train_split), ('--val-split', args.val_split)):
        same = next((names for names in _SYNONYMS if split in names), (split,))
        if not any(os.path.exists(os.path.join(root, name.split('[')[0])) for name in same):
            found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() or entry.name.endswith('.tar'))
            raise UsageError(f'{flag} {split}: no such folder in {root}, which has {some(found) or "no folders"}')


def check_folders(split: str, dataset: Dataset, class_map: str, input_key: Optional[str]) -> None:
    """Leave out hidden files and folders, also of a tar file, and warn of everything that is skipped.

    Raises:
        UsageError: If images are outside the class folders, or the order of classes is not defined.
    """
    reader = source_of(dataset)
    in_tar = isinstance(reader, ReaderImageInTar)
    if not in_tar and not isinstance(reader, ReaderImageFolder):
        return
    files = image_paths(reader)
    kept = [index for index, file in enumerate(files) if not _hidden_part(file)]
    if not kept:
        raise UsageError(f"{split}: all images in {reader.root} are hidden: their name, or a folder's, starts with '.'")
    if len(kept) < len(files):
        keep_images(reader, kept, keep_classes=bool(class_map))
    paths = [files[index] for index in kept]
    loose, names = sorted(path for path in paths if os.sep not in path), class_indices(reader)
    if loose and ('' in names or '.' in names):
        raise UsageError(
            f'{split}: every image must be in the folder of its class, got {some(loose)} in {reader.root} itself')
    # timm sorts numbers by value and letters without case, so that the order of names that it takes as equal is random
    if not class_map and (ambiguous := _alike(names, lambda name: repr(natural_key(name)))):
        raise UsageError(
            f'{split}: names of classes must differ in more than case and leading zeros, which sorting ignores, got '
            f'{some(ambiguous)}')
    folders = {os.path.dirname(path) for path in paths}
    if shared := _alike(folders, os.path.basename):
        _logger.warning(f'{split}: {some(shared)} are one class for each name: the last folder of a path is its name.')
    if not in_tar:
        start = len(reader.root.rstrip(os.sep)) + 1
        files = [os.path.join(folder, file)[start:]
                 for folder, _, files in os.walk(reader.root, followlinks=True) for file in files]
        unused = {entry.name for entry in os.scandir(reader.root) if entry.is_dir() and not _hidden_part(entry.name)}
        if unused := sorted(unused - {folder.split(os.sep)[0] for folder in folders}):
            why = f'or not in --class-map {class_map}' if class_map else 'so they do not become classes'
            _logger.warning(f'{split}: no images in {some(unused)}, {why}.')
    extensions = [extension.lower() for extension in (input_key or '').split(';') if extension]
    _warn_skipped_files(split, reader.root, files, extensions or get_img_extensions(as_set=True))


def _alike(names: Iterable[str], key: Callable) -> List[str]:
    """The names that share their key with another, sorted."""
    count = Counter(map(key, names))
    return sorted(name for name in names if count[key(name)] > 1)


def _warn_skipped_files(split: str, root: str, files: Iterable[str], extensions: Iterable[str]) -> None:
    skipped: Counter = Counter()
    for file in files:
        hidden, extension = _hidden_part(file), os.path.splitext(file)[1].lower()
        if hidden or extension not in extensions:
            skipped[hidden or extension or 'no extension'] += 1
    if skipped:
        names = some(f'{count} {name}' for name, count in sorted(skipped.items()))
        _logger.warning(f'{split}: skipped {skipped.total()} files in {root} that are hidden or no images ({names}).')


def _hidden_part(path: str) -> str:
    return next((part for part in path.split(os.sep) if part.startswith('.')), '')
