"""The part of a folder of images that a recipe uses."""
import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.recipes import Recipe
from benchmarks.subset import prepare_data

RECIPE = Recipe('', 6, 3, eval_split='validation')


def prepared(recipe, data_dir, folder):
    prepare_data(recipe, data_dir, folder)
    return folder


@pytest.mark.parametrize('pad', [0, 4])
def test_the_subset_is_the_first_images_of_each_class(pad, data, tmp_path):
    for name in ('cat/0.txt', 'cat/.hidden', '.DS_Store'):
        (data / 'train' / name).write_text('a note')
    recipe = dataclasses.replace(RECIPE, pad=pad)
    folder = prepared(recipe, str(data), str(tmp_path / 'subset'))
    for split, count in (('train', 6), ('validation', 3)):
        assert sorted(os.listdir(os.path.join(folder, split))) == ['cat', 'dog', 'owl']
        for name in ('cat', 'dog', 'owl'):
            images = sorted(os.listdir(os.path.join(folder, split, name)))
            assert images == [f'{index}.png' for index in range(count)]
            assert os.path.getsize(os.path.join(folder, split, name, images[0])) > 0
    assert prepared(recipe, str(data), folder) == folder  # a second call keeps it


def test_padded_images_get_a_black_border(image_folder, tmp_path):
    padded = dataclasses.replace(RECIPE, pad=4)
    folder = prepared(padded, str(image_folder), str(tmp_path / 'padded'))
    with Image.open(image_folder / 'train' / 'cat' / '0.png') as image:
        original = np.asarray(image.convert('RGB'))
    path = os.path.join(folder, 'train', 'cat', '0.png')
    with Image.open(path) as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels, np.pad(original, ((4, 4), (4, 4), (0, 0))))
    assert sorted(os.listdir(os.path.dirname(path))) == [f'{index}.png' for index in range(6)]
    assert os.path.islink(os.path.join(folder, 'validation', 'cat', '0.png'))  # validation images are never padded
    written = os.stat(path).st_mtime_ns
    prepare_data(padded, str(image_folder), folder)
    assert os.stat(path).st_mtime_ns == written


def test_label_noise_changes_labels_and_keeps_every_image(image_folder, tmp_path):
    noisy = dataclasses.replace(RECIPE, label_noise=0.5, pad=4)
    folders = [prepared(noisy, str(image_folder), str(tmp_path / name)) for name in ('noisy', 'again')]
    found = [
        sorted(os.path.relpath(os.path.join(root, name), os.path.join(folder, 'train'))
               for root, _, names in os.walk(os.path.join(folder, 'train')) for name in names)
        for folder in folders]
    assert found[0] == found[1]
    labels, names = zip(*(os.path.split(path) for path in found[0]))
    assert sorted(names) == sorted(f'{name}-{i}.png' for name in ('cat', 'dog', 'owl') for i in range(6))
    moved = sum(label != name.split('-')[0] for label, name in zip(labels, names))
    assert 1 <= moved <= 12  # a third of 18 on average
    assert sorted(os.listdir(os.path.join(folders[0], 'validation', 'cat'))) == ['0.png', '1.png', '2.png']
    assert prepare_data(RECIPE, str(image_folder), str(tmp_path / 'clean')) != prepare_data(
        dataclasses.replace(RECIPE, label_noise=0.5), str(image_folder), str(tmp_path / 'other'))


def test_the_rest_of_the_images_is_held_out(image_folder, tmp_path):
    shutil.copytree(image_folder / 'train', tmp_path / 'images' / 'train')
    for split in ('validation', 'more'):  # distinct names, as in the splits of one collection
        for path in sorted((image_folder / 'validation').glob('*/*.png')):
            target = tmp_path / 'images' / split / path.parent.name / f'{split}-{path.name}'
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    images = tmp_path / 'images'
    everything = {path.name for path in images.glob('*/cat/*')}
    for count in (4, None):
        recipe = dataclasses.replace(RECIPE, train_per_class=count, eval_per_class=None, eval_rest=True)
        folder = prepared(recipe, str(images), str(tmp_path / f'share-{count}'))
        train, rest = (set(os.listdir(os.path.join(folder, split, 'cat'))) for split in ('train', 'validation'))
        assert len(train) == (count or len(list((images / 'train' / 'cat').iterdir())))
        assert not train & rest and train | rest == everything


def test_the_digest_depends_on_the_images_and_not_on_their_location(image_folder, tmp_path):
    def digest(name, recipe=RECIPE):
        return prepare_data(recipe, str(tmp_path / name), str(tmp_path / f'{name}-{len(os.listdir(tmp_path))}'))

    for name in ('here', 'there', 'larger'):
        shutil.copytree(image_folder, tmp_path / name)
    Image.new('RGB', (64, 64)).save(tmp_path / 'larger' / 'train' / 'cat' / '0.png')
    assert digest('here') == digest('there')
    changed = [dataclasses.replace(RECIPE, pad=4), dataclasses.replace(RECIPE, outliers=('noise',))]
    digests = [digest('here'), digest('larger'), *(digest('here', recipe) for recipe in changed)]
    assert len(set(digests)) == 4


def test_images_of_one_name_and_folders_in_a_class_are_refused(data, tmp_path):
    cats, padded = data / 'train' / 'cat', dataclasses.replace(RECIPE, pad=4)
    with Image.open(cats / '0.png') as image:
        image.convert('RGB').save(cats / '0.jpg')
    with pytest.raises(ValueError, match='images of different names in a class, got .*cat/0.jpg and .*cat/0.png'):
        prepare_data(padded, str(data), str(tmp_path / 'subset'))
    (cats / '0.jpg').unlink()
    (cats / 'more').mkdir()
    with pytest.raises(ValueError, match='the images of a class in one folder, got more in .*cat'):
        prepare_data(padded, str(data), str(tmp_path / 'subset'))
    assert not (tmp_path / 'subset').exists()


@pytest.mark.parametrize('change', [
    dict(train_per_class=1), dict(eval_per_class=1), dict(pad=2), dict(unseen_classes=('cat',)), 'another folder',
    'an image more'])
def test_a_folder_of_another_subset_is_refused(change, image_folder, data, tmp_path):
    """Otherwise it would become the union of both, or stay as it was."""
    folder = str(tmp_path / 'subset')
    prepare_data(RECIPE, str(data), folder)
    if change == 'an image more':  # one of the first six
        shutil.copy(data / 'train/cat/0.png', data / 'train/cat/00.png')
    recipe = dataclasses.replace(RECIPE, **change) if isinstance(change, dict) else RECIPE
    with pytest.raises(ValueError, match='subset must hold .*, got .*; delete it to rebuild it'):
        prepare_data(recipe, str(image_folder if change == 'another folder' else data), folder)
    assert len(os.listdir(tmp_path / 'subset' / 'train' / 'cat')) == 6


def test_unknown_or_too_few_images_are_refused(image_folder, tmp_path):
    with pytest.raises(ValueError, match='must have 99 images of each class, got 8 in'):
        prepare_data(Recipe('', 99, 1, 'validation'), str(image_folder), str(tmp_path / 'subset'))
    assert not (tmp_path / 'subset').exists()  # so that the next try is not refused
    (tmp_path / 'subset' / 'train').mkdir(parents=True)
    with pytest.raises(ValueError, match='got unknown images; delete it'):
        prepare_data(RECIPE, str(image_folder), str(tmp_path / 'subset'))
