"""Generated scenes: valid VOC, equal for equal seeds, and nothing shared by the two sets."""
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.detection import generate as generator
from benchmarks.detection.data import read_voc
from benchmarks.detection.generate import Scenes, generate, main

pytest.importorskip('sklearn')
SCENES = Scenes(num_train=6, num_eval=4, size=64, num_objects=(2, 3), object_size=(14, 24))


def pixels_of(folder):
    source = read_voc(folder, ('2007:trainval', '2007:test'))
    return [np.asarray(source.images[index][0]) for index in range(len(source.images))], source


def test_scenes_hold_digits_in_separate_boxes_within_the_image(tmp_path):
    images, source = pixels_of(generate(str(tmp_path / 'a'), SCENES))
    assert len(images) == 10 and all(image.shape == (64, 64, 3) for image in images)
    assert set(source.classes) <= set('0123456789')
    for entry in source.annotations:
        assert 1 <= len(entry.boxes) <= 3 and not entry.ignored.any()
        sides = entry.boxes[:, 2:] - entry.boxes[:, :2]
        assert (sides >= 3).all() and (sides <= 24).all()
        assert (entry.boxes >= 0).all() and (entry.boxes <= 64).all()
        for index, box in enumerate(entry.boxes):
            for other in entry.boxes[:index]:
                assert (np.minimum(box[2:], other[2:]) <= np.maximum(box[:2], other[:2])).any()  # no overlap


def test_boxes_are_where_the_objects_are(tmp_path, monkeypatch):
    monkeypatch.setattr(generator, '_backgrounds', lambda split: [np.full((80, 80, 3), 255, dtype=np.uint8)])
    images, source = pixels_of(generate(str(tmp_path / 'a'), replace(SCENES, num_objects=(1, 1))))
    for image, entry in zip(images, source.annotations):
        rows, columns = (np.flatnonzero((image.mean(axis=-1) < 190).any(axis=axis)) for axis in (1, 0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(entry.boxes[0], seen, atol=1)  # JPEG softens edges


def test_equal_seeds_give_equal_pixels(tmp_path):
    first, second, other = (
        pixels_of(generate(str(tmp_path / name), replace(SCENES, seed=seed)))[0]
        for name, seed in (('a', 0), ('b', 0), ('c', 1)))
    assert all(np.array_equal(one, two) for one, two in zip(first, second))
    assert not any(np.array_equal(one, two) for one, two in zip(first, other))


def test_existing_scenes_are_kept_and_other_contents_refused(tmp_path):
    folder = generate(str(tmp_path / 'a'), SCENES)
    path = os.path.join(folder, 'VOCdevkit', 'VOC2007', 'JPEGImages', '000000.jpg')
    written = os.stat(path).st_mtime_ns
    assert generate(folder, SCENES) == folder and os.stat(path).st_mtime_ns == written
    with pytest.raises(ValueError, match='holds scenes with other settings'):
        generate(folder, replace(SCENES, seed=5))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    with pytest.raises(ValueError, match='exists and holds no generated scenes'):
        generate(str(tmp_path / 'full'), SCENES)
    assert sorted(os.listdir(tmp_path)) == ['a', 'full']  # no partial folder is left


def test_the_two_sets_share_nothing():
    train, evaluate = (generator._digits(split) for split in generator.SPLITS)
    assert len(train) + len(evaluate) == 1797
    left, right = (generator._backgrounds(split) for split in generator.SPLITS)
    assert [one.shape[1] + two.shape[1] for one, two in zip(left, right)] == [640, 640]


@pytest.fixture
def classes_folder(tmp_path):
    """train/ and test/ with two classes; the colour tells the class, the split and, in train/, the image."""
    for split, count in (('train', 3), ('test', 2)):
        for green, name in ((40, 'car'), (200, 'frog')):
            folder = tmp_path / 'objects' / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                color = (250 if split == 'test' else 80 * index, green, 10)
                Image.new('RGB', (32, 32), color).save(folder / f'{index}.png')
    return str(tmp_path / 'objects')


def test_objects_may_come_from_a_folder_of_images(tmp_path, classes_folder):
    scenes = replace(SCENES, num_objects=(1, 1), skip=2)
    images, source = pixels_of(generate(str(tmp_path / 'a'), scenes, classes_folder))
    assert source.classes == ['car', 'frog']
    for index, (image, entry) in enumerate(zip(images, source.annotations)):
        x, y = (entry.boxes[0, :2] + entry.boxes[0, 2:]).astype(int) // 2
        red = 160 if index < 6 else 250  # training has only its third image, the test set its own
        np.testing.assert_allclose(image[y, x], (red, {1: 40, 2: 200}[entry.labels[0]], 10), atol=12)
    with open(tmp_path / 'a' / 'scenes.json') as file:
        assert json.load(file)['objects'] == classes_folder


def test_folders_without_enough_images_are_refused(tmp_path, classes_folder, capsys):
    with pytest.raises(ValueError, match='more than 3 images per class in .*train, got fewer of car'):
        generate(str(tmp_path / 'a'), replace(SCENES, skip=3), classes_folder)
    with pytest.raises(SystemExit) as exit_info:
        main(['--output', str(tmp_path / 'b'), '--data-dir', str(tmp_path / 'nowhere')])
    assert exit_info.value.code == 2 and 'must have the folder' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['objects']


@pytest.mark.parametrize('flags, message', [
    ('--size 40', '--size must be 44 (the largest object) to 427 (about twice the narrowest background), got 40'),
    ('--size 428', ' to 427 (about twice the narrowest background), got 428'),
    ('--seed -1', '--seed must be 0 or more, got -1'),
    ('--num-train -1', '--num-train must be 1 or more, got -1'),
    ('--num-train 0', '--num-train must be 1 or more, got 0'),
    ('--num-eval 0', '--num-eval must be 1 or more, got 0'),
    ('--skip -3', '--skip must be 0 or more, got -3'),
])
def test_flags_out_of_range_are_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(['--output', str(tmp_path / 'a'), *flags.split()])
    assert exit_info.value.code == 2 and message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_sizes_and_numbers_of_objects_out_of_range_are_refused():
    for low, high in ((7, 24), (24, 14)):
        with pytest.raises(ValueError, match=rf'object_size must be two values of 8 or more .*, got \({low}, {high}'):
            replace(SCENES, object_size=(low, high))
    for low, high in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match=rf'num_objects must be two values of 1 or more .*, got \({low}, {high}'):
            replace(SCENES, num_objects=(low, high))


@pytest.mark.parametrize('size', [44, 427])
def test_the_smallest_and_the_largest_size_work(size, tmp_path):
    scenes = Scenes(num_train=12, num_eval=12, size=size)
    images, _ = pixels_of(generate(str(tmp_path / 'a'), scenes))
    assert len(images) == 24 and all(image.shape == (size, size, 3) for image in images)


@pytest.mark.parametrize('error', [RuntimeError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_no_partial_folder(error, tmp_path, monkeypatch):
    def fail(path, *args):
        assert os.listdir(os.path.join(os.path.dirname(os.path.dirname(path)), 'JPEGImages'))
        raise error

    monkeypatch.setattr(generator, '_write_annotation', fail)
    with pytest.raises(error):
        generate(str(tmp_path / 'a'), SCENES)
    assert not os.listdir(tmp_path)


def test_the_command_line_writes_scenes(tmp_path):
    assert main(f'--output {tmp_path / "a"} --num-train 2 --num-eval 1 --size 64'.split()) == 0
    assert len(pixels_of(str(tmp_path / 'a'))[0]) == 3
