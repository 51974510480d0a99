"""Images that cannot be read and labels that fit no class end a run with their path; folders are checked before."""
import multiprocessing
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset

import train_timm
from tests.support.training_runs import loaders_of
from timm_multimix import UsageError
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.datasets import create_datasets
from timm_multimix.training.data.folders import check_folders, check_root
from timm_multimix.training.data.images import BadSample, CheckedImages, ClassIndex


@pytest.fixture
def train(flags, data, capsys):
    """A function that trains on `data` and returns the exit code and the last line of the error."""
    def run(*more):
        code = train_timm.main([*flags, '--data-dir', str(data), '--epochs', '1', *more])
        error = capsys.readouterr().err.splitlines()
        return code, error[-1] if error else ''

    return run


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def save_as(path, mode, **kwargs):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).convert(mode).save(
        path, **kwargs)


def truncated_jpeg(path):
    save_as(path, 'RGB', format='JPEG')
    path.write_bytes(path.read_bytes()[:400])


def huge(path):
    """Write a header that announces more pixels than Pillow accepts."""
    save_as(path, 'RGB', format='PNG')
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4, 'big') * 2
    path.write_bytes(bytes(content))


CORRUPT = {
    'truncated png': truncate,
    'truncated jpeg': truncated_jpeg,
    'empty': lambda path: path.write_bytes(b''),
    'text': lambda path: path.write_text('no image at all'),
    'huge': huge,
    'gone': lambda path: (path.unlink(), path.symlink_to(path.with_name('gone'))),
}


@pytest.mark.parametrize('kind', CORRUPT)
def test_an_image_that_cannot_be_read_is_named(kind, data):
    path = data / 'train' / 'dog' / '3.png'
    CORRUPT[kind](path)
    dataset = CheckedImages(create_dataset('', root=str(data), split='train'))
    index = dataset.filenames(absolute=True).index(str(path))
    with pytest.raises(BadSample) as error:
        dataset[index]
    assert str(error.value).startswith(f'{path} cannot be read: ') and '0x' not in str(error.value)
    assert [dataset[i][1] for i in range(len(dataset)) if i != index] == [0] * 8 + [1] * 7 + [2] * 8


@pytest.mark.parametrize('name, more', [
    ('validation/owl/0.png', ['--workers', '1']), *(('train/dog/3.png', more) for more in (
        ['--workers', '2'], ['--no-prefetcher'], ['--train-img-sizes', '32'], ['--aug-splits', '2'],
        ['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9']))], ids=str)
def test_an_unreadable_image_ends_the_run_with_every_kind_of_loader(name, more, train, data):
    truncated_jpeg(data / name)
    code, error = train(*more)
    assert code == 2 and error.startswith(f'train_timm.py: error: {data / name} cannot be read: ')
    assert not multiprocessing.active_children()  # ended at once, not when garbage is collected


def test_timms_environment_variable_lets_unreadable_images_be_skipped(train, data, monkeypatch, caplog):
    monkeypatch.setenv('TIMM_DATASET_MAX_RETRIES', '2')
    path = data / 'train' / 'dog' / '3.png'
    truncate(path)
    assert train()[0] == 0
    assert any(f'{path} cannot be read' in record.getMessage() for record in caplog.records)
    truncate(data / 'train' / 'dog' / '4.png')
    code, error = train()
    assert code == 2 and '4.png cannot be read' in error


def test_a_batch_is_at_most_the_images_of_a_process(data, monkeypatch):
    argv = ['--data-dir', str(data), '--num-classes', '3', '--device', 'cpu', '--workers', '0', '--batch-size']
    loaders = partial(loaders_of, world_size=2, distributed=True)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 2)
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda *_: 0)
    assert len(loaders([*argv, '12'])[0][0]) == 1
    with pytest.raises(UsageError, match='at most the 12 training images per process, got 13'):
        loaders([*argv, '13'])


@pytest.mark.parametrize('target', [-1, 3, 2.5, None, 'a', [1, 2]])
def test_labels_that_fit_no_class_are_refused(target):
    with pytest.raises(BadSample, match='--num-classes is 3, so labels must be from 0 to 2, got '):
        ClassIndex(3)(target)
    assert [ClassIndex(3)(label) for label in (0, np.int64(2), 1.)] == [0, 2, 1]
    assert ClassIndex(3, lambda label: label - 1)(3) == 2


def test_a_bad_sample_of_a_worker_keeps_its_message():
    assert str(BadSample('Caught BadSample in worker 0.\nTraceback\n  x.BadSample: a.png cannot be read\n')) == \
        'a.png cannot be read'


def rename(old, new):
    """Rename a class in both splits."""
    return lambda data: [(data / split / old).rename(data / split / new) for split in ('train', 'validation')]


def one_class(data):
    for name in ('cat', 'owl'):
        shutil.rmtree(data / 'train' / name)
        shutil.rmtree(data / 'validation' / name)


def without_images(data):
    for path in data.rglob('*.png'):
        path.unlink()


REFUSED = {  # how the folders are spoilt, flags, and a part of the message
    'another class in validation': (
        lambda data: (data / 'validation/owl').rename(data / 'validation/ant'), '',
        'only train has owl; only validation has ant'),
    'a class less in validation': (
        lambda data: shutil.rmtree(data / 'validation/owl'), '', 'got 3 and 2; only train has owl'),
    'names that differ in case': (rename('dog', 'Cat'), '', 'got Cat, cat'),
    'names that differ in zeros': (lambda data: (rename('dog', '01')(data), rename('cat', '1')(data)), '', 'got 01, 1'),
    'no class map': (lambda data: None, '--class-map /does/not/exist.txt', 'Cannot locate specified class map file'),
    'a split of one class': (
        lambda data: None, '--train-split train/dog --val-split validation/dog', 'every image must be in the folder'),
    'no folders': (
        lambda data: [shutil.rmtree(data / split) for split in ('train', 'validation')], '',
        '--train-split train: no such folder in {}, which has no folders'),
    'no images': (without_images, '', 'Found 0 images in subfolders of'),
    'hidden images': (
        lambda data: [path.rename(path.with_name(f'.{path.name}')) for path in (data / 'train').glob('[a-z]*')], '',
        'train: all images in {}/train are hidden'),
    'one class': (one_class, '', 'train has one class, dog, from which cross-entropy learns nothing; '),
}
TOLD = {
    'an empty folder': (
        lambda data: (data / 'train/ant').mkdir(), '', 'train: no images in ant, so they do not become classes.'),
    'a model of more classes': (
        lambda data: None, '--num-classes 7', 'The model has 7 classes, the data 3; --num-classes 3 fits them.'),
    'folders of one name': (
        lambda data: [shutil.copytree(data / split / 'dog', data / split / 'more/dog') for split in (
            'train', 'validation')], '', f'train: dog, {os.path.join("more", "dog")} are one class'),
    'a class map that leaves one out': (
        lambda data: (data / 'map.txt').write_text('cat\nowl\n'), '--num-classes 2 --class-map {}/map.txt',
        'train: no images in dog, or not in --class-map'),
    'one class under binary cross-entropy': (one_class, '--num-classes 1 --bce-loss', ''),
    'one class under MultiMix': (one_class, '--num-classes 1 --bce-loss --mixup-mode multimix', ''),
}


@pytest.mark.parametrize('spoil, more, message', REFUSED.values(), ids=REFUSED)
def test_folders_that_cannot_be_right_are_refused(spoil, more, message, train, data):
    spoil(data)
    code, error = train(*more.split())
    assert code == 2 and message.format(data) in error


@pytest.mark.parametrize('spoil, more, message', TOLD.values(), ids=TOLD)
def test_folders_that_may_be_meant_train_with_a_warning(spoil, more, message, train, data, caplog):
    spoil(data)
    assert train(*more.format(data).split())[0] == 0
    assert message in caplog.text


def test_transforms_that_do_not_take_a_mode_do_not_blame_the_image(train, data):
    for path in data.rglob('*.png'):
        Image.fromarray(np.asarray(Image.open(path)), 'LAB').save(path.with_suffix('.tif'))
        path.unlink()
    code, error = train('--input-img-mode', 'LAB', '--color-jitter', '0.4', '--input-key', '.tif')
    assert code == 2 and 'error: the transforms do not accept an image of mode LAB, 32 x 32 (' in error
    assert 'give other augmentation flags or another --input-img-mode; conversion from LAB' in error


@pytest.mark.parametrize('class_map', [False, True])
def test_hidden_files_and_folders_are_not_read(class_map, data, caplog):
    (data / 'train' / '.ipynb_checkpoints').mkdir()  # of Jupyter; it sorts before the classes
    shutil.copy(data / 'train' / 'dog' / '3.png', data / 'train' / '.ipynb_checkpoints')
    (data / 'train' / 'dog' / '._3.png').write_bytes(b'not an image')  # of macOS
    for name in ('notes.TXT', 'labels.csv', 'README'):
        (data / 'train' / 'owl' / name).write_text('')
    argv = ['--data-dir', str(data)]
    if class_map:
        (data / 'map.txt').write_text('owl\ndog\ncat\n')
        argv += ['--class-map', str(data / 'map.txt')]
    args, _ = parse_args(argv)
    dataset, _ = create_datasets(args, dict(input_size=(3, 32, 32), num_classes=3))
    names = ('owl', 'dog', 'cat') if class_map else ('cat', 'dog', 'owl')
    assert dataset.reader.class_to_idx == {name: index for index, name in enumerate(names)}
    found = [(name, names[label]) for name, label in (
        (path.rsplit('/', 2)[-2], label) for path, label in dataset.reader.samples)]
    assert found == [(name, name) for name in ('cat', 'dog', 'owl') for _ in range(8)]
    assert [record.getMessage() for record in caplog.records] == [
        f'train: skipped 5 files in {data / "train"} that are hidden or no images '
        f'(1 ._3.png, 1 .csv, 1 .ipynb_checkpoints, 1 .txt, 1 no extension).']


BESIDE = {  # a path in the folder of the split, and a part of the message about it
    'a hidden folder in a class': ('dog/.cache/3.png', 'that are hidden or no images (1 .cache)'),
    'notes next to the classes': ('README.txt', 'that are hidden or no images (1 .txt)'),
    'an archive': ('dog.zip', 'that are hidden or no images (1 .zip)'),
    'an empty folder': ('fox/', 'no images in fox, so they do not become classes'),
    'a folder of notes': ('fox/notes.txt', 'no images in fox, so they do not become classes'),
    'an image next to the classes': ('loose.png', 'must be in the folder of its class, got loose.png'),
}


@pytest.mark.parametrize('path, said', BESIDE.values(), ids=BESIDE)
def test_other_files_next_to_the_images_are_reported_and_make_no_class(path, said, data, caplog):
    target = data / 'train' / path
    (target if path.endswith('/') else target.parent).mkdir(exist_ok=True)
    if not path.endswith('/'):
        shutil.copy(data / 'train' / 'dog' / '3.png', target)
    args, _ = parse_args(['--data-dir', str(data)])
    dataset = create_dataset('', root=str(data), split='train')
    if 'must be' in said:
        with pytest.raises(UsageError, match=said):
            check_folders('train', dataset, args.class_map, args.input_key)
        return
    check_folders('train', dataset, args.class_map, args.input_key)
    assert any(said in record.getMessage() for record in caplog.records)
    assert dataset.reader.class_to_idx == {'cat': 0, 'dog': 1, 'owl': 2}
    assert len(dataset) == 24


def test_sources_are_checked_before_the_model_is_built(flags, capsys, monkeypatch):
    monkeypatch.setattr(train_timm, 'create_train_model', lambda *_: pytest.fail('a model was built'))
    assert train_timm.main([*flags, '--dataset', 'cifar10']) == 2
    message = "got 'cifar10' (did you mean torch/cifar10?); leave it out for a folder of images"
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('name', ['digits', 'torch/cifar10', 'HFDS/some/name', 'hfids/x', 'tfds/x', 'wds/x'])
def test_dataset_names_that_timm_reads_are_accepted(name):
    check_root(parse_args(['--dataset', name, '--data-dir', 'nowhere'])[0])


@pytest.mark.parametrize('train, val', [('train', 'val'), ('training', 'eval'), ('train/cat', 'validation/cat')])
def test_synonyms_of_splits_are_accepted(train, val, image_folder):
    check_root(parse_args(['--data-dir', str(image_folder), '--train-split', train, '--val-split', val])[0])
