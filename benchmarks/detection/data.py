"""Images and boxes in the formats of Pascal VOC and COCO, by torchvision's datasets."""
import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset
from torchvision.datasets import CocoDetection, VOCDetection
from torchvision.transforms.functional import pil_to_tensor

from timm_multimix.checks import call_library


class Annotation(NamedTuple):
    """The boxes of one image.

    `boxes` `[n, 4]` are half-open xmin, ymin, xmax, ymax in pixels from 0; `labels` start at 1 (0 is background);
    `ignored` marks boxes that are neither trained on nor counted: COCO's crowds, VOC's difficult objects.
    """
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    area: np.ndarray


class Source(NamedTuple):
    """Images and their boxes: `images[i][0]` is a PIL image, `classes[k - 1]` the name of label k."""
    images: Sequence[Tuple[Any, Any]]
    annotations: List[Annotation]
    classes: List[str]


def read_voc(root: str, sets: Sequence[str], classes: Optional[List[str]] = None) -> Source:
    """Read the union of sets such as '2007:trainval', from `root`/VOCdevkit/VOC2007 and so on.

    Pass the classes of the training set for evaluation; None takes those found, in order of name.
    """
    parts = []
    for entry in sets:
        year, _, image_set = entry.partition(':')
        what = f'--data-dir {root}: no set {entry} of VOC in {root}/VOCdevkit/VOC{year}'
        parts.append(call_library(what, VOCDetection, root, year=year, image_set=image_set))
    trees = [_read_tree(root, path) for part in parts for path in part.annotations]
    found = sorted({entry['name'] for tree in trees for entry in tree['object']})
    classes = found if classes is None else classes
    if not set(found) <= set(classes):
        unknown = ', '.join(sorted(set(found) - set(classes)))
        raise ValueError(f'--data-dir {root}: {" ".join(sets)} has classes that are not in training: {unknown}')
    labels = {name: index + 1 for index, name in enumerate(classes)}
    return Source(ConcatDataset(parts), [_voc_annotation(tree, labels) for tree in trees], classes)


def _read_tree(root: str, path: str) -> Dict[str, Any]:
    what, errors = f'--data-dir {root}: {path} is not an annotation of VOC', (OSError, ElementTree.ParseError)
    tree = call_library(what, ElementTree.parse, path, errors=errors)
    return call_library(what, VOCDetection.parse_voc_xml(tree.getroot()).__getitem__, 'annotation')


def _voc_annotation(tree: Dict[str, Any], labels: Dict[str, int]) -> Annotation:
    rows = []
    for entry in tree['object']:
        xmin, ymin, xmax, ymax = (float(entry['bndbox'][side]) for side in ('xmin', 'ymin', 'xmax', 'ymax'))
        # VOC counts pixels from 1, and a box includes its last one
        rows.append((xmin - 1, ymin - 1, xmax, ymax, labels[entry['name']], entry.get('difficult') == '1', math.nan))
    return _annotation(rows, tuple(int(tree['size'][side]) for side in ('width', 'height')))


def read_coco(root: str, split: str, classes: Optional[List[str]] = None) -> Source:
    """Read a split such as 'train2017': `root`/train2017 and `root`/annotations/instances_train2017.json.

    The ids of categories, which have gaps, become labels without gaps in the same order.
    """
    path = os.path.join(root, 'annotations', f'instances_{split}.json')
    what = f'--data-dir {root}: {path} is not a file of COCO instances'
    dataset = call_library(what, CocoDetection, os.path.join(root, split), path)
    coco = dataset.coco
    ids = sorted(coco.cats)
    found = [coco.cats[category]['name'] for category in ids]
    if classes is not None and found != classes:
        raise ValueError(f'--data-dir {root}: the categories of {split} are not those of training')
    labels = {category: index + 1 for index, category in enumerate(ids)}
    annotations = []
    for image in dataset.ids:
        rows = []
        for entry in coco.imgToAnns[image]:
            left, top, width, height = entry['bbox']
            area = math.nan if entry.get('area') is None else entry['area']
            label = labels[entry['category_id']]
            rows.append((left, top, left + width, top + height, label, entry.get('iscrowd', 0), area))
        annotations.append(_annotation(rows, (coco.imgs[image]['width'], coco.imgs[image]['height'])))
    return Source(dataset, annotations, found)


def _annotation(rows: List[Tuple], size: Tuple[int, int]) -> Annotation:
    """Clip boxes to the image, and leave out those without an inside, which no detector takes.

    Args:
        rows: xmin, ymin, xmax, ymax, label, whether it is ignored, and the area, NaN for that of the box.
        size: Width and height of the image.
    """
    table = np.array(rows).reshape(-1, 7)
    boxes = table[:, :4].astype(np.float32).clip(0, np.array([*size, *size], dtype=np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= 0.5).all(axis=1)
    area = np.where(np.isnan(table[:, 6]), sides.prod(axis=1), table[:, 6]).astype(np.float32)
    return Annotation(boxes[kept], table[kept, 4].astype(np.int64), table[kept, 5].astype(bool), area[kept])


class DetectionDataset(Dataset):
    """Pairs of an image `[3, h, w]` in [0, 1] and a target as torchvision's detectors, or the metric, take it.

    Training leaves out ignored boxes, and images that have no others. Evaluation has every image and every box, with
    `iscrowd` and `area` in the target. `flip` is the probability of a horizontal flip in training.
    """

    def __init__(self, source: Source, train: bool, flip: float = 0.):
        self.source, self.train, self.flip = source, train, flip
        with_boxes = [index for index, entry in enumerate(source.annotations) if not entry.ignored.all()]
        if not with_boxes:
            raise ValueError(f'--data-dir: no box to {"train on" if train else "evaluate on"}')
        self.indices = with_boxes if train else list(range(len(source.annotations)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        index = self.indices[index]
        image = pil_to_tensor(self.source.images[index][0]).float() / 255
        entry = self.source.annotations[index]
        if not self.train:
            return image, dict(
                boxes=torch.from_numpy(entry.boxes),
                labels=torch.from_numpy(entry.labels),
                iscrowd=torch.from_numpy(entry.ignored).long(),
                area=torch.from_numpy(entry.area),
            )
        boxes = torch.from_numpy(entry.boxes[~entry.ignored])
        labels = torch.from_numpy(entry.labels[~entry.ignored])
        if torch.rand(()) < self.flip:
            image = image.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, dict(boxes=boxes, labels=labels)


def collate(batch):
    """Keep images of different sizes as a list."""
    return tuple(map(list, zip(*batch)))
