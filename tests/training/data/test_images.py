"""Images that cannot be read and labels that fit no class end a run with their path; folders are checked before."""
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset

import train_timm
from timm_multimix import UsageError
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.images import BadSample, CheckedImages, ClassIndex
from timm_multimix.training.data.loaders import create_loaders
from timm_multimix.training.runtime import create_runtime


@pytest.fixture
def data(image_folder, tmp_path):
    """A copy of the images, to spoil."""
    return shutil.copytree(image_folder, tmp_path / 'data')


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


@pytest.mark.parametrize('more', [
    ['--workers', '2'], ['--no-prefetcher'], ['--train-img-sizes', '32'], ['--aug-splits', '2'],
    ['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9']], ids=' '.join)
def test_an_unreadable_image_ends_the_run_with_every_kind_of_loader(more, train, data):
    path = data / 'train' / 'dog' / '3.png'
    truncated_jpeg(path)
    code, error = train(*more)
    assert code == 2
    assert error.startswith(f'train_timm.py: error: {path} cannot be read: ') and 'Traceback' not in error


def test_an_unreadable_image_ends_the_run_in_validation(train, data):
    path = data / 'validation' / 'owl' / '0.png'
    truncate(path)
    code, error = train('--workers', '1')
    assert code == 2 and f'{path} cannot be read' in error


def test_timms_environment_variable_lets_unreadable_images_be_skipped(train, data, monkeypatch, caplog):
    monkeypatch.setenv('TIMM_DATASET_MAX_RETRIES', '2')
    path = data / 'train' / 'dog' / '3.png'
    truncate(path)
    with caplog.at_level(logging.WARNING, 'train'):
        assert train()[0] == 0
    assert any(f'{path} cannot be read' in record.getMessage() for record in caplog.records)
    truncate(data / 'train' / 'dog' / '4.png')
    code, error = train()
    assert code == 2 and '4.png cannot be read' in error


def test_a_batch_is_at_most_the_images_of_a_process(data, monkeypatch):
    argv = ['--data-dir', str(data), '--num-classes', '3', '--device', 'cpu', '--workers', '0', '--batch-size']
    config = dict(input_size=(3, 32, 32), mean=(0.5,), std=(0.5,), interpolation='bicubic', crop_pct=1., num_classes=3)
    for batch_size in (13, 12):
        args, _ = parse_args([*argv, str(batch_size)])
        runtime = create_runtime(args)._replace(world_size=2, distributed=True)
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 2)
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda *_: 0)
        if batch_size == 12:
            assert len(create_loaders(args, config, runtime)[0]) == 1
        else:
            with pytest.raises(UsageError, match='at most the 12 training images per process, got 13'):
                create_loaders(args, config, runtime)


@pytest.mark.parametrize('target', [-1, 3, 2.5, None, 'a', [1, 2]])
def test_labels_that_fit_no_class_are_refused(target):
    with pytest.raises(BadSample, match='--num-classes is 3, so labels must be from 0 to 2, got '):
        ClassIndex(3)(target)
    assert [ClassIndex(3)(label) for label in (0, np.int64(2), 1.)] == [0, 2, 1]
    assert ClassIndex(3, lambda label: label - 1)(3) == 2


def test_a_bad_sample_of_a_worker_keeps_its_message():
    assert str(BadSample('Caught BadSample in worker 0.\nTraceback\n  x.BadSample: a.png cannot be read\n')) == \
        'a.png cannot be read'


def test_classes_that_differ_are_named(train, data):
    (data / 'validation' / 'owl').rename(data / 'validation' / 'ant')
    code, error = train()
    assert code == 2 and 'only train has owl; only validation has ant' in error
    shutil.rmtree(data / 'validation' / 'ant')
    code, error = train()
    assert code == 2 and 'got 3 and 2; only train has owl' in error


@pytest.mark.parametrize('more, message', [
    ([], 'train: no images in ant, so they do not become classes.'),
    (['--num-classes', '7'], 'The model has 7 classes, the data 3; --num-classes 3 fits them.'),
])
def test_empty_folders_and_surplus_classes_are_warned_of(more, message, train, data, caplog):
    (data / 'train' / 'ant').mkdir()
    with caplog.at_level(logging.WARNING, 'train'):
        assert train(*more)[0] == 0
    assert message in [record.getMessage() for record in caplog.records]


def test_folders_of_one_name_are_one_class(train, data, caplog):
    for split in ('train', 'validation'):
        shutil.copytree(data / split / 'dog', data / split / 'more' / 'dog')
    with caplog.at_level(logging.WARNING, 'train'):
        assert train()[0] == 0
    assert f'train: dog, {os.path.join("more", "dog")} are one class' in caplog.text


@pytest.mark.parametrize('first, second', [('Cat', 'cat'), ('01', '1')])
def test_class_names_of_ambiguous_order_are_refused(first, second, train, data):
    for split in ('train', 'validation'):
        (data / split / 'dog').rename(data / split / first)
        if not (data / split / second).exists():
            (data / split / 'cat').rename(data / split / second)
    code, error = train()
    assert code == 2 and f'got {first}, {second}' in error


def test_classes_that_a_class_map_leaves_out_are_named(train, data, caplog):
    (data / 'map.txt').write_text('cat\nowl\n')
    with caplog.at_level(logging.WARNING, 'train'):
        assert train('--class-map', str(data / 'map.txt'), '--num-classes', '2')[0] == 0
    assert 'train: no images in dog, or not in --class-map' in caplog.text


@pytest.mark.parametrize('more, message', [
    (['--class-map', '/does/not/exist.txt'], 'Cannot locate specified class map file'),
    (['--train-split', 'train/dog', '--val-split', 'validation/dog'], 'every image must be in the folder'),
])
def test_other_mistakes_are_refused(more, message, train):
    code, error = train(*more)
    assert code == 2 and message in error


@pytest.mark.parametrize('content, message', [
    ([], '--train-split train: no such folder in {}, which has no folders'),
    (['train/cat', 'validation/cat'], 'Found 0 images in subfolders of'),
])
def test_folders_without_images_are_refused(content, message, flags, tmp_path, capsys):
    root = tmp_path / 'empty'
    root.mkdir()
    for name in content:
        (root / name).mkdir(parents=True)
    assert train_timm.main([*flags, '--data-dir', str(root)]) == 2
    assert message.format(root) in capsys.readouterr().err.splitlines()[-1]


def test_transforms_that_do_not_take_a_mode_do_not_blame_the_image(train, data):
    for path in data.rglob('*.png'):
        Image.fromarray(np.asarray(Image.open(path)), 'LAB').save(path.with_suffix('.tif'))
        path.unlink()
    code, error = train('--input-img-mode', 'LAB', '--color-jitter', '0.4', '--input-key', '.tif')
    assert code == 2 and 'error: the transforms do not accept an image of mode LAB, 32 x 32 (' in error
    assert 'give other augmentation flags or another --input-img-mode; conversion from LAB' in error
