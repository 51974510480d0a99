"""Checkpoints as train_timm.py writes them, and tiny versions of VOC and COCO in their real format."""
import argparse
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from benchmarks.detection import generate, recipes

from .tiny import RECIPE, two_digits


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(generate, '_digits', two_digits)
    return RECIPE


@pytest.fixture
def recipe(tiny, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, 'tiny', tiny)
    return 'tiny'


@pytest.fixture
def save_checkpoint(tmp_path):
    """A function that writes a checkpoint of a timm model with random weights and returns its path."""
    def save(model='test_resnet', name='last.pth.tar', seed=0, num_classes=5, **args):
        torch.manual_seed(seed)
        kwargs = dict(args.get('model_kwargs', {}))
        kwargs.update({name: args[name] for name in ('img_size', 'in_chans') if name in args})
        weights = timm.create_model(model, num_classes=num_classes, **kwargs).state_dict()
        args = argparse.Namespace(**{'model': model, 'num_classes': num_classes, 'seed': seed, **args})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(epoch=3, arch=model, state_dict=weights, args=args, version=2), path)
        return str(path)
    return save


def voc_object(name, box, difficult=0, more=''):
    sides = ''.join(f'<{side}>{value}</{side}>' for side, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    return (f'<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>'
            f'<difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{more}</object>')


@pytest.fixture
def voc_folder(tmp_path):
    """VOCdevkit/VOC2007 with trainval and test, VOC2012 with trainval; images of 60 x 40 pixels."""
    part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>'
    objects = {
        ('2007', 'trainval'): {
            '000005': [voc_object('dog', (1, 1, 60, 40)), voc_object('cat', (11, 6, 30, 25), difficult=1)],
            '000007': [voc_object('cat', (20, 10, 19, 30))],  # no width
        },
        ('2007', 'test'): {
            '000001': [voc_object('person', (8.5, 12, 35.5, 39), more=part), voc_object('dog', (50, 30, 80, 55))],
            '000002': [],
        },
        ('2012', 'trainval'): {'2008_000008': [voc_object('person', (5, 5, 20, 36))]},
    }
    rng = np.random.default_rng(0)
    for (year, split), images in objects.items():
        root = tmp_path / 'voc' / 'VOCdevkit' / f'VOC{year}'
        for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text(''.join(f'{name}\n' for name in images))
        for name, entries in images.items():
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / 'JPEGImages' / f'{name}.jpg')
            (root / 'Annotations' / f'{name}.xml').write_text(
                f'<annotation><folder>VOC{year}</folder><filename>{name}.jpg</filename><size><width>60</width>'
                f'<height>40</height><depth>3</depth></size><segmented>0</segmented>{"".join(entries)}</annotation>')
    return str(tmp_path / 'voc')


@pytest.fixture
def coco_folder(tmp_path):
    """train2017, val2017 and annotations; categories 1, 17 and 90, a crowd, an empty box, an image without boxes."""
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    categories = [
        dict(id=90, name='toothbrush', supercategory='indoor'),
        dict(id=1, name='person', supercategory='person'),
        dict(id=17, name='cat', supercategory='animal'),
    ]
    boxes = [  # image, category, x, y, width, height, crowd
        (139, 17, 10., 5., 20.5, 30., 0),
        (139, 1, 0., 0., 60., 40., 1),
        (139, 90, 50., 30., 40., 20., 0),  # ends outside the image
        (285, 1, 3., 3., 0., 12., 0),  # no width
        (632, 1, 2., 2., 30., 30., 1),  # only a crowd
        (785, 1, 12., 8., 24., 24., 0),
    ]
    rng = np.random.default_rng(0)
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        images = [
            dict(id=id, file_name=f'{id:012d}.jpg', width=60, height=40) for id in (785, 139, 285, 632, 724)]
        for image in images:
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / image['file_name'])
        annotations = [
            dict(id=index, image_id=image, category_id=category, bbox=[x, y, width, height],
                 area=0.5 * width * height, iscrowd=crowd, segmentation=[])
            for index, (image, category, x, y, width, height, crowd) in enumerate(boxes)]
        with open(root / 'annotations' / f'instances_{split}.json', 'w') as file:
            json.dump(dict(info={}, licenses=[], images=images, annotations=annotations, categories=categories), file)
    return str(root)
