"""A recipe's share of a folder of images, and scikit-learn's digits as such a folder."""
import contextlib
import hashlib
import json
import os
import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

from PIL import Image, ImageOps
from timm.data.readers import get_img_extensions

from timm_multimix import UsageError
from timm_multimix.training.data.digits import Digits

from .recipes import Recipe

CONTENTS = 'contents.json'
"""File in a prepared folder that says what it holds, with a digest of the images."""


def prepare_data(recipe: Recipe, data_dir: str, folder: str) -> str:
    """Prepare the recipe's share of `data_dir` in `folder`: the first images of each class in order of name, as links.

    Padded images are new files, without loss.

    Returns:
        A digest of the names and sizes of the images and of what the recipe does with them, but not of their location.

    Raises:
        UsageError: If a class has fewer images than asked for, subfolders, or two images of the same name, or if the
            folder holds another share.
    """
    files = list(_files(recipe, data_dir, folder))
    _check_names(files)
    share = dict(
        train_per_class=recipe.train_per_class, eval_per_class=recipe.eval_per_class, eval_split=recipe.eval_split,
        pad=recipe.pad, unseen_classes=list(recipe.unseen_classes), outliers=list(recipe.outliers))
    # only if set, so that digests of earlier results stay
    share.update({name: value for name in ('label_noise', 'eval_rest') if (value := getattr(recipe, name))})
    sizes = sorted((os.path.relpath(target, folder), os.path.getsize(source)) for source, target, _ in files)
    digest = hashlib.sha256(json.dumps([share, sizes]).encode()).hexdigest()[:12]
    _claim(folder, dict(share, data_dir=os.path.abspath(data_dir), digest=digest))
    for source, target, pad in files:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if pad:
            _write_padded(source, target, pad)
        else:
            with contextlib.suppress(FileExistsError):  # from an earlier or a parallel run
                os.symlink(source, target)
    return digest


def write_digits(folder: str) -> str:
    """Write scikit-learn's digits: `train/` and `test/`, each with a folder of 8 x 8 PNG files per digit."""
    for split, name in (('train', 'train'), ('validation', 'test')):
        for index, (image, target) in enumerate(Digits(split)):
            path = os.path.join(folder, name, str(target), f'{index:04d}.png')
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                image.save(f'{path}.{os.getpid()}', format='png')
                os.replace(f'{path}.{os.getpid()}', path)
    return folder


def _files(recipe: Recipe, data_dir: str, folder: str) -> Iterator[Tuple[str, str, int]]:
    """Yield the path, the new path and the border width of every image."""
    draws = random.Random(0)
    count = recipe.train_per_class
    train = {name: images for name, images in _classes(data_dir, 'train') if name not in recipe.unseen_classes}
    classes = list(train)
    for name, images in train.items():
        for image in _first(images, count):
            label, file = name, os.path.basename(image)
            if recipe.label_noise:
                file = f'{name}-{file}'
                if draws.random() < recipe.label_noise:
                    label = draws.choice(classes)
            yield image, os.path.join(folder, 'train', label, file), recipe.pad
        if recipe.eval_rest and count is not None:
            for image in images[count:]:
                yield image, os.path.join(folder, recipe.eval_split, name, os.path.basename(image)), 0
    splits = [recipe.eval_split]
    if recipe.eval_rest:
        splits = [entry.name for entry in _sorted_entries(data_dir) if entry.is_dir() and entry.name != 'train']
    for split in splits:
        for name, images in _classes(data_dir, split):
            target = os.path.join(folder, 'unseen' if name in recipe.unseen_classes else recipe.eval_split, name)
            for image in _first(images, recipe.eval_per_class):
                yield image, os.path.join(target, os.path.basename(image)), 0


def _classes(data_dir: str, split: str) -> List[Tuple[str, List[str]]]:
    """List the classes of a split with the paths of their images, in order of name."""
    classes, extensions = [], get_img_extensions(as_set=True)
    for class_folder in _sorted_entries(os.path.join(data_dir, split)):
        if not class_folder.is_dir():
            continue
        source = os.path.abspath(class_folder.path)
        entries = _sorted_entries(source)
        nested = [entry.name for entry in entries if entry.is_dir()]
        if nested:  # timm would read their images too
            raise UsageError(f'data_dir must have the images of a class in one folder, got {nested[0]} in {source}')
        images = [  # timm's readers ignore other files
            os.path.join(source, entry.name) for entry in entries
            if os.path.splitext(entry.name)[1].lower() in extensions]
        classes.append((class_folder.name, images))
    return classes


def _first(images: List[str], count: Optional[int]) -> List[str]:
    if count is not None and len(images) < count:
        where = os.path.dirname(images[0]) if images else 'a class without any'
        raise UsageError(f'data_dir must have {count} images of each class, got {len(images)} in {where}')
    return images[:count]


def _check_names(files: List[Tuple[str, str, int]]) -> None:
    """Check that no two images get the same new path; a padded image becomes a PNG file."""
    sources: Dict[str, str] = {}
    for source, target, pad in files:
        other = sources.setdefault(_padded_name(target) if pad else target, source)
        if other != source:
            raise UsageError(f'data_dir must have images of different names in a class, got {other} and {source}')


def _claim(folder: str, contents: Dict[str, Any]) -> None:
    """Record what the folder will hold while it is empty, or check that it holds the same."""
    path = os.path.join(folder, CONTENTS)
    os.makedirs(folder, exist_ok=True)
    fresh, found = not os.listdir(folder), None
    if os.path.exists(path):  # checked after the listing, as it is the first file that another process writes
        with open(path, encoding='utf-8') as file:
            found = json.load(file)
    elif fresh:
        partial = f'{folder}.{os.getpid()}'
        with open(partial, 'w', encoding='utf-8') as file:
            json.dump(contents, file)
        os.replace(partial, path)
        found = contents
    if found != contents:
        raise UsageError(f'{folder} must hold {contents}, got {found or "unknown images"}; delete it to rebuild it')


def _write_padded(source: str, target: str, pad: int) -> None:
    target = _padded_name(target)
    if not os.path.exists(target):
        partial = f'{target}.{os.getpid()}'
        with Image.open(source) as image:
            ImageOps.expand(image.convert('RGB'), border=pad).save(partial, format='png')
        os.replace(partial, target)  # another process may read or write the same file


def _padded_name(target: str) -> str:
    return f'{os.path.splitext(target)[0]}.png'


def _sorted_entries(folder: str) -> List[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:  # finds folders without a system call for each entry
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f'data_dir must have the folder {folder} ({error.strerror})') from error
