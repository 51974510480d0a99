"""Reading VOC and COCO: what is trained on, what is evaluated, and what is refused."""
import json
import os

import numpy as np
import pytest
import torch

from benchmarks.detection.data import DetectionDataset, collate, read_coco, read_voc


def test_two_years_of_voc_are_joined(voc_folder):
    source = read_voc(voc_folder, ('2007:trainval', '2012:trainval'))
    assert source.classes == ['cat', 'dog', 'person'] and len(source.images) == len(source.annotations) == 3
    first, second, third = source.annotations
    np.testing.assert_array_equal(first.boxes, [[0, 0, 60, 40], [10, 5, 30, 25]])  # 1-based, inclusive to half open
    assert first.labels.tolist() == [2, 1] and first.ignored.tolist() == [False, True]
    assert second.boxes.shape == (0, 4) and second.labels.shape == (0,)
    assert third.labels.tolist() == [3] and third.area.tolist() == [16 * 32]
    assert source.images[2][0].size == (60, 40)

    train = DetectionDataset(source, train=True)
    assert len(train) == 2  # one image has only an empty box
    image, target = train[0]
    assert image.shape == (3, 40, 60) and 0 <= image.min() < image.max() <= 1
    assert target['boxes'].tolist() == [[0, 0, 60, 40]] and target['labels'].tolist() == [2]


def test_the_test_set_of_voc_uses_the_class_indices_of_training(voc_folder):
    classes = read_voc(voc_folder, ('2007:trainval', '2012:trainval')).classes
    source = read_voc(voc_folder, ('2007:test',), classes)
    assert source.classes == classes
    np.testing.assert_array_equal(source.annotations[0].boxes, [[7.5, 11, 35.5, 39], [49, 29, 60, 40]])
    assert source.annotations[0].labels.tolist() == [3, 2]
    dataset = DetectionDataset(source, train=False)
    assert len(dataset) == 2 and dataset[1][1]['boxes'].shape == (0, 4)  # detections there count as mistakes
    with pytest.raises(ValueError, match='2007:test has classes that are not in training: person'):
        read_voc(voc_folder, ('2007:test',), ['cat', 'dog'])


def test_missing_sets_and_annotations_are_refused(voc_folder, coco_folder):
    pytest.importorskip('pycocotools')
    for entry in ('2007:val', '2010:trainval', '1999:trainval', '2007'):
        with pytest.raises(ValueError, match=f'--data-dir .*: no set {entry} of VOC'):
            read_voc(voc_folder, (entry,))
    with pytest.raises(ValueError, match='--data-dir .*instances_test2017.json is not a file of COCO instances'):
        read_coco(coco_folder, 'test2017')
    os.remove(os.path.join(voc_folder, 'VOCdevkit', 'VOC2012', 'Annotations', '2008_000008.xml'))
    with pytest.raises(ValueError, match='2008_000008.xml is not an annotation of VOC'):
        read_voc(voc_folder, ('2012:trainval',))


def test_coco_with_gaps_crowds_and_empty_images(coco_folder):
    pytest.importorskip('pycocotools')
    source = read_coco(coco_folder, 'train2017')
    assert source.classes == ['person', 'cat', 'toothbrush']  # ids 1, 17 and 90
    assert [len(entry.labels) for entry in source.annotations] == [3, 0, 1, 0, 1]  # in order of the images' ids
    first = source.annotations[0]
    np.testing.assert_array_equal(first.boxes, [[10, 5, 30.5, 35], [0, 0, 60, 40], [50, 30, 60, 40]])
    assert first.labels.tolist() == [2, 1, 3] and first.ignored.tolist() == [False, True, False]
    assert first.area.tolist() == [307.5, 1200, 400]  # of the segments, not of the boxes

    train = DetectionDataset(source, train=True)
    assert [train[index][1]['labels'].tolist() for index in range(len(train))] == [[2, 3], [1]]
    evaluated = DetectionDataset(source, train=False)
    assert len(evaluated) == 5 and evaluated[0][1]['iscrowd'].tolist() == [0, 1, 0]
    images, targets = collate([evaluated[0], evaluated[1]])
    assert len(images) == len(targets) == 2 and targets[1]['boxes'].shape == (0, 4)


def test_categories_that_differ_are_refused(coco_folder):
    pytest.importorskip('pycocotools')
    path = os.path.join(coco_folder, 'annotations', 'instances_val2017.json')
    with open(path) as file:
        content = json.load(file)
    content['categories'][0]['name'] = 'broom'
    with open(path, 'w') as file:
        json.dump(content, file)
    with pytest.raises(ValueError, match='categories of val2017 are not those of training'):
        read_coco(coco_folder, 'val2017', read_coco(coco_folder, 'train2017').classes)


def test_a_flip_also_flips_the_boxes(voc_folder):
    source = read_voc(voc_folder, ('2012:trainval',))
    (image, target), (flipped, other) = (DetectionDataset(source, True, flip)[0] for flip in (0., 1.))
    assert torch.equal(flipped, image.flip(-1)) and not torch.equal(flipped, image)
    assert target['boxes'].tolist() == [[4, 4, 20, 36]] and other['boxes'].tolist() == [[40, 4, 56, 36]]
    assert DetectionDataset(source, True, 1.)[0][1]['boxes'].tolist() == [[40, 4, 56, 36]]  # not flipped in place


def test_a_training_set_without_boxes_is_refused(voc_folder):
    source = read_voc(voc_folder, ('2007:trainval',))
    with pytest.raises(ValueError, match='no box to train on'):
        DetectionDataset(source._replace(annotations=source.annotations[1:]), True)
