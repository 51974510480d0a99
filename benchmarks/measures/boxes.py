"""Localisation: the box of the largest region where the map of the image's class is above a threshold.

The map is the class's dense logit, scaled to [0, 1] over the image. Boxes, in pixels of the files, come from a CSV file
with the columns path, x0, y0, x1 and y1; those that cover at least half of what the model sees are left out. Also how
much of each kind of attention falls into the boxes, and how even it is: its entropy over that of even attention.
"""
import argparse
import csv
import os
from collections import defaultdict
from functools import partial
from typing import Any, Dict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy import ndimage

from timm_multimix import MultiMixHead, UsageError

from .subject import Subject, class_map, look, spread

SETTINGS = ('boxes', 'images')
THRESHOLDS = tuple(step / 20. for step in range(2, 19))


def add_arguments(parser: Any) -> None:
    parser.add_argument('--boxes', metavar='CSV', help='boxes of the test images (boxes.csv in --data-dir)')


def measure(subject: Subject, args: argparse.Namespace) -> Dict[str, Any]:
    """In percent, boxes found with an IoU of at least 0.5, at the threshold that is best for all, and attention."""
    path = args.boxes or os.path.join(subject.root, 'boxes.csv')
    if not os.path.exists(path):
        raise UsageError(f'--boxes must be a file with the columns path, x0, y0, x1, y1, got {path}')
    with open(path, newline='') as file:
        rows = [*csv.DictReader(file)]
    boxes = {os.path.realpath(os.path.join(os.path.dirname(path), row['path'])): row for row in rows}
    if len(boxes) < len(rows):
        raise UsageError(f'{path} must have one box for each image, got {len(rows)} for {len(boxes)} images')
    dataset, transform, ious = subject.images(), subject.transform(), []
    names = [os.path.realpath(name) for name in dataset.filenames(absolute=True)]
    boxed = [index for index, name in enumerate(names) if name in boxes]
    create = partial(
        MultiMixHead, subject.model.model, 'dense-multimix', input_size=tuple(subject.data_config['input_size']))
    heads, shares = dict(gap=create()), defaultdict(list)
    if heads['gap'].dense.classifier is not None:
        heads['cam'] = create(attention='cam')
    for index in [boxed[each] for each in spread(len(boxed), args.images or len(boxed))]:
        x0, y0, x1, y1 = (float(boxes[names[index]][name]) for name in ('x0', 'y0', 'x1', 'y1'))
        with Image.open(names[index]) as image:  # the box goes through the same transform as the image
            picture = Image.new('RGB', image.size)
        ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), fill='white')
        box = transform(picture)[0].numpy() > 127
        if 0. < box.mean() < 0.5:
            image, label = dataset[index]
            pixels = torch.as_tensor(image)[None].to(subject.device) / 255.
            for kind, head in heads.items():
                outputs, grid = look(subject, head, pixels, torch.tensor([label], device=subject.device))
                inside = F.adaptive_avg_pool2d(torch.from_numpy(box)[None].float(), grid).flatten()
                attention = outputs.attention[0].double().cpu()
                shares[f'{kind}_inside'].append(float(attention @ inside.double()))
                even = np.log(max(len(attention), 2))  # a single position has no entropy
                shares[f'{kind}_entropy'].append(float(torch.special.entr(attention).sum() / even))
            shares['area'].append(box.mean())
            heat = class_map(outputs.dense_logits[0, :, label], grid, image.shape[1:])
            regions = [largest_box(heat >= threshold) for threshold in THRESHOLDS]
            ious.append([(region & box).sum() / (region | box).sum() for region in regions])
    if not ious:
        raise UsageError(f'{path} must have boxes of the test images that cover less than half, got none')
    found = 100. * (np.array(ious) >= 0.5).mean(axis=0)
    return dict(
        images=len(ious), iou50=float(found.max()), threshold=THRESHOLDS[int(found.argmax())],
        attention={name: 100. * float(np.mean(values)) for name, values in shares.items()})


def largest_box(mask: np.ndarray) -> np.ndarray:
    """Fill the bounding box of the largest connected region."""
    regions, _ = ndimage.label(mask)
    box = np.zeros_like(mask)
    box[ndimage.find_objects(regions)[np.bincount(regions.flat)[1:].argmax()]] = True
    return box
