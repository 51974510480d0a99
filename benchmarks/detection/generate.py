"""Scenes of real pixels in Pascal VOC's format, without a download: `python -m benchmarks.detection.generate`.

Objects are the handwritten digits of scikit-learn, or the images of any folder of classes; backgrounds are the
photographs of scikit-learn. Scenes for training and for evaluation share no object and no pixel of background.
"""
import contextlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Tuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from benchmarks.suite.cli import add_integers, create_parser, mistakes

SPLITS = ('trainval', 'test')
_TRAIN_SHARE = 2 / 3  # of the digits, and of the width of each photograph
Objects = List[Tuple[str, object]]  # name of the class, and an array of ink or the path of an image


@dataclass(frozen=True)
class Scenes:
    """Scenes to generate: sizes are in pixels, and ranges include both ends.

    `skip` leaves out the first images of each class of a folder's `train/`, which the backbone was trained on.
    """
    num_train: int = 400
    num_eval: int = 400
    size: int = 128
    num_objects: Tuple[int, int] = (1, 4)
    object_size: Tuple[int, int] = (20, 44)
    skip: int = 0
    seed: int = 0

    def __post_init__(self):
        for name, least in (('num_train', 1), ('num_eval', 1), ('skip', 0), ('seed', 0)):
            if getattr(self, name) < least:
                raise ValueError(f'--{name.replace("_", "-")} must be {least} or more, got {getattr(self, name)}')
        for name, least in (('num_objects', 1), ('object_size', 8)):  # digits are 8 pixels wide
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f'{name} must be two values of {least} or more in ascending order, got {(low, high)}')


def as_json(settings: Any) -> Dict[str, Any]:
    """Convert a dataclass to what reading it back from JSON would give."""
    return json.loads(json.dumps(asdict(settings)))


def generate(folder: str, scenes: Scenes, objects_dir: Optional[str] = None) -> str:
    """Write `folder`/VOCdevkit/VOC2007 with the sets trainval and test, unless it exists.

    Equal scenes give equal pixels. `objects_dir` has train/ and test/, each with a folder per class; None means digits.
    """
    settings = dict(as_json(scenes), objects=os.path.abspath(objects_dir) if objects_dir else 'digits')
    made = os.path.join(folder, 'scenes.json')
    if not os.path.exists(made):
        partial = f'{folder}.{os.getpid()}'
        try:
            _write(partial, scenes, objects_dir)
            with open(os.path.join(partial, 'scenes.json'), 'w', encoding='utf-8') as file:
                json.dump(settings, file, indent=2)
            with contextlib.suppress(OSError):  # another process was first, or something else is there
                os.rename(partial, folder)
        finally:  # leave nothing incomplete
            shutil.rmtree(partial, ignore_errors=True)
    if not os.path.exists(made):
        raise ValueError(f'{folder} exists and holds no generated scenes')
    with open(made, encoding='utf-8') as file:
        if json.load(file) != settings:
            raise ValueError(f'{folder} holds scenes with other settings: remove it, or choose another folder')
    return folder


def _write(partial: str, scenes: Scenes, objects_dir: Optional[str]) -> None:
    photographs = [_backgrounds(split) for split in SPLITS]
    # a patch of a background is at least half as wide as a scene
    largest = 2 * min(side for images in photographs for image in images for side in image.shape[:2]) + 1
    if not scenes.object_size[1] <= scenes.size <= largest:
        raise ValueError(
            f'--size must be {scenes.object_size[1]} (the largest object) to {largest} (about twice the narrowest '
            f'background), got {scenes.size}')
    root = os.path.join(partial, 'VOCdevkit', 'VOC2007')
    for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    first = 0
    for split, count, backgrounds in zip(SPLITS, (scenes.num_train, scenes.num_eval), photographs):
        objects = _folder_objects(objects_dir, split, scenes.skip) if objects_dir else _digits(split)
        names = [f'{index:06d}' for index in range(first, first + count)]
        for name in names:
            pixels, boxes = _compose(np.random.default_rng([scenes.seed, int(name)]), scenes, objects, backgrounds)
            Image.fromarray(pixels).save(os.path.join(root, 'JPEGImages', f'{name}.jpg'), quality=95)
            _write_annotation(os.path.join(root, 'Annotations', f'{name}.xml'), scenes.size, boxes)
        with open(os.path.join(root, 'ImageSets', 'Main', f'{split}.txt'), 'w') as file:
            file.writelines(f'{name}\n' for name in names)
        first += count


def _compose(rng, scenes, objects, backgrounds):
    """Compose a scene: pixels `[h, w, 3]`, and (class, xmin, ymin, xmax, ymax), half open, of each object."""
    background = backgrounds[rng.integers(len(backgrounds))]
    height, width = background.shape[:2]
    side = int(rng.integers(scenes.size // 2, min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    patch = Image.fromarray(background[top:top + side, left:left + side]).resize((scenes.size,) * 2, Image.BICUBIC)
    pixels = np.asarray(patch, dtype=np.float32)[:, ::rng.choice([-1, 1])].copy()
    boxes = []
    for _ in range(rng.integers(scenes.num_objects[0], scenes.num_objects[1] + 1)):
        name, source = objects[rng.integers(len(objects))]
        size = int(rng.integers(scenes.object_size[0], scenes.object_size[1] + 1))
        color, alpha = _draw(source, size)
        for _ in range(20):  # find a free place; a crowded scene gets fewer objects
            y, x = rng.integers(scenes.size - alpha.shape[0] + 1), rng.integers(scenes.size - alpha.shape[1] + 1)
            box = (x, y, x + alpha.shape[1], y + alpha.shape[0])
            if all(not _overlap(box, other[1:]) for other in boxes):
                area = pixels[box[1]:box[3], box[0]:box[2]]
                if color is None:  # visible ink: dark on bright, bright on dark
                    color = rng.integers(0, 56, 3) + (0. if area.mean() > 127 else 200.)
                area += alpha[..., None] * (color - area)
                boxes.append((name, *map(int, box)))
                break
    return pixels.clip(0, 255).astype(np.uint8), boxes


def _draw(source, size):
    """Return colours `[h, w, 3]`, None for ink, and opacity `[h, w]` of an object, cropped to its visible part."""
    if isinstance(source, str):
        with Image.open(source) as image:
            color = np.asarray(image.convert('RGB').resize((size, size), Image.BICUBIC), dtype=np.float32)
        # rounded and soft at the border, as a straight edge would give an object away
        steps = np.abs(np.linspace(-1, 1, size)) ** 4
        return color, ((1.15 - (steps[:, None] + steps)) / 0.3).clip(0, 1).astype(np.float32)
    ink = np.asarray(Image.fromarray(source).resize((size, size), Image.BICUBIC), dtype=np.float32).clip(0, 1)
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return None, ink


def _overlap(box, other):
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _digits(split: str) -> Objects:
    from sklearn.datasets import load_digits
    digits = load_digits()
    cut = round(len(digits.images) * _TRAIN_SHARE)
    chosen = slice(cut) if split == SPLITS[0] else slice(cut, None)
    return [
        (str(label), (image / 16).astype(np.float32))
        for label, image in zip(digits.target[chosen], digits.images[chosen])]


def _folder_objects(folder: str, split: str, skip: int) -> Objects:
    part = os.path.join(folder, 'train' if split == SPLITS[0] else 'test')
    try:
        classes = sorted(entry.name for entry in os.scandir(part) if entry.is_dir())
    except OSError as error:
        raise ValueError(f'--data-dir must have the folder {part} ({error.strerror})') from error
    objects: Objects = []
    for name in classes:
        images = sorted(os.listdir(os.path.join(part, name)))[skip if split == SPLITS[0] else 0:]
        if not images:
            raise ValueError(f'--data-dir must have more than {skip} images per class in {part}, got fewer of {name}')
        objects += [(name, os.path.join(part, name, image)) for image in images]
    if not objects:
        raise ValueError(f'--data-dir must have a folder of images per class in {part}, got none')
    return objects


def _backgrounds(split: str) -> List[np.ndarray]:
    from sklearn.datasets import load_sample_images
    cuts = [(image, round(image.shape[1] * _TRAIN_SHARE)) for image in load_sample_images().images]
    return [image[:, :cut] if split == SPLITS[0] else image[:, cut:] for image, cut in cuts]


def _write_annotation(path: str, size: int, boxes: List[Tuple[str, int, int, int, int]]) -> None:
    """Write VOC's XML: pixels are counted from 1, and a box includes its last one."""
    objects = ''.join(
        f'<object><name>{escape(name)}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>'
        f'<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>'
        '</object>\n' for name, left, top, right, bottom in boxes)
    image = os.path.basename(path).replace('.xml', '.jpg')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(
            f'<annotation><folder>VOC2007</folder><filename>{image}</filename><segmented>0</segmented>\n'
            f'<size><width>{size}</width><height>{size}</height><depth>3</depth></size>\n{objects}</annotation>\n')


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--output', required=True, help='folder to write; what VOCDetection calls root')
    parser.add_argument(
        '--data-dir', help='folder with train/ and test/, each with a folder of images per class (default: digits)')
    flags = ('skip', 'num_train', 'num_eval', 'size', 'seed')  # see Scenes
    add_integers(parser, **{name: getattr(Scenes, name) for name in flags})
    args = parser.parse_args(argv)
    with mistakes(parser):
        generate(args.output, Scenes(**{name: getattr(args, name) for name in flags}), args.data_dir)
    print(f'{args.num_train} scenes to train on and {args.num_eval} to evaluate on: {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
