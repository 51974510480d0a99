"""Data sets in the layout of their download become folders of images."""
import csv
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from benchmarks import data

RNG = np.random.default_rng(0)
FINE = [f'fine_{index}' for index in range(100)]


def batch(count, label, **more):
    pixels = RNG.integers(256, size=(count, 3072), dtype=np.uint8)
    return {b'batch_label': b'a batch', f'{label}s'.encode(): [index % 10 for index in range(count)], b'data': pixels,
            b'filenames': [b'%d.png' % index for index in range(count)],
            **{name.encode(): value for name, value in more.items()}}


def cifar(kind, folder):
    """Write the files of the download; return the batches of the training and the test images."""
    if kind == 'cifar10':
        names, label, classes = [f'data_batch_{index}' for index in range(1, 6)], 'label', list('zyxwvutsrq')
        test, meta, more = 'test_batch', 'batches.meta', {}
    else:
        names, test, meta, label, classes = ['train'], 'test', 'meta', 'fine_label', FINE
        more = dict(coarse_labels=[0] * 12)
    folder.mkdir(parents=True)
    batches = {name: batch(12, label, **more) for name in [*names, test]}
    contents = {**batches, meta: {f'{label}_names'.encode(): [name.encode() for name in classes], b'num_vis': 3072}}
    for protocol, (name, content) in enumerate(contents.items()):
        pickled = pickle.dumps(content, protocol=2 + protocol % 2)
        (folder / name).write_bytes(pickled.replace(b'cnumpy._core.', b'cnumpy.core.'))  # as the old numpy names it
    (folder / 'readme.html').write_text('other')
    return names, test, batches, label, classes


@pytest.mark.parametrize('form', ['folder', 'above', 'tar'])
@pytest.mark.parametrize('kind', ['cifar10', 'cifar100'])
def test_cifar(kind, form, tmp_path):
    inner = data.KINDS[kind][0]
    names, test, batches, label, classes = cifar(kind, tmp_path / 'root' / inner)
    source = dict(folder=tmp_path / 'root' / inner, above=tmp_path / 'root', tar=tmp_path / 'download.tar.gz')[form]
    if form == 'tar':
        with tarfile.open(source, 'w:gz') as archive:
            archive.add(tmp_path / 'root' / inner, inner)
    dest = tmp_path / 'new' / 'dest'
    assert data.main([kind, str(source), str(dest)]) == 0
    assert sorted(os.listdir(dest)) == ['contents.json', 'test', 'train']
    for split, parts in (('train', names), ('test', [test])):
        pixels = np.concatenate([batches[part][b'data'] for part in parts])
        labels = [target for part in parts for target in batches[part][f'{label}s'.encode()]]
        assert sum(len(files) for _, _, files in os.walk(dest / split)) == len(labels)
        for index, (flat, target) in enumerate(zip(pixels, labels)):
            image = Image.open(dest / split / classes[target] / f'{index:05d}.png')
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1).ravel(), flat)
    assert len(create_dataset('', root=str(dest), split='train').reader.class_to_idx) == 10  # those that have images


def tiny_imagenet(root):
    """Write the folder of the download; return the boxes by the path in the result."""
    boxes = {}
    (root / 'test' / 'images').mkdir(parents=True)
    (root / 'test' / 'images' / 'test_0.JPEG').write_bytes(b'unlabelled')
    (root / 'wnids.txt').write_text('n02\nn01\n')
    annotations = ''
    for label in ('n01', 'n02'):
        (root / 'train' / label / 'images').mkdir(parents=True)
        lines = ''
        for index in range(3):
            name, box = f'{label}_{index}.JPEG', [str(x) for x in RNG.integers(64, size=4)]
            (root / 'train' / label / 'images' / name).write_bytes(f'{name} of train'.encode())
            lines += '\t'.join([name, *box]) + '\n'
            boxes[f'train/{label}/{name}'] = box
        (root / 'train' / label / f'{label}_boxes.txt').write_text(lines)
    (root / 'val' / 'images').mkdir(parents=True)
    for index, label in enumerate(['n02', 'n01', 'n02']):
        name, box = f'val_{index}.JPEG', ['0', '1', '62', '63']
        (root / 'val' / 'images' / name).write_bytes(f'{name} of train'.encode())
        annotations += '\t'.join([name, label, *box]) + '\n'
        boxes[f'val/{label}/{name}'] = box
    (root / 'val' / 'val_annotations.txt').write_text(annotations)
    return boxes


@pytest.mark.parametrize('form', ['folder', 'above', 'zip'])
def test_tiny_imagenet(form, tmp_path):
    folder = tmp_path / 'root' / 'tiny-imagenet-200'
    boxes = tiny_imagenet(folder)
    source = folder if form == 'folder' else folder.parent
    if form == 'zip':
        source = shutil.make_archive(tmp_path / 'download', 'zip', tmp_path / 'root')
    dest = tmp_path / 'dest'
    dest.mkdir()  # an empty folder is taken
    assert data.main(['tiny-imagenet', str(source), str(dest)]) == 0
    with open(dest / 'boxes.csv', newline='') as file:
        header, *rows = csv.reader(file)
    assert header == ['path', 'x0', 'y0', 'x1', 'y1'] and {path: box for path, *box in rows} == boxes
    for path in boxes:
        assert (dest / path).read_text() == f'{os.path.basename(path)} of train'
    assert sum(len(files) for _, _, files in os.walk(dest)) == len(boxes) + 2


def test_a_second_call_writes_nothing(tmp_path, capsys):
    tiny_imagenet(tmp_path / 'source')
    args = ['tiny-imagenet', str(tmp_path / 'source'), str(tmp_path / 'dest')]
    assert data.main(args) == 0
    (tmp_path / 'dest' / 'train' / 'n01' / 'n01_0.JPEG').write_text('kept')
    shutil.rmtree(tmp_path / 'source')  # and reads nothing
    assert data.main(args) == 0
    assert (tmp_path / 'dest' / 'train' / 'n01' / 'n01_0.JPEG').read_text() == 'kept'
    assert capsys.readouterr().out.splitlines() == [f'{tmp_path}/dest holds 10 files of tiny-imagenet'] * 2
    assert data.main(['cifar10', *args[1:]]) == 2
    assert 'DEST must be new, empty or hold cifar10, got' in capsys.readouterr().err


def test_a_broken_source_leaves_nothing_behind(tmp_path, capsys):
    cifar('cifar10', tmp_path / 'source')
    (tmp_path / 'source' / 'data_batch_5').write_bytes(b'\x80\x02}q')
    before = sorted(os.listdir(tmp_path))
    assert data.main(['cifar10', str(tmp_path / 'source'), str(tmp_path / 'dest')]) == 2
    assert 'data_batch_5 of SOURCE' in capsys.readouterr().err and sorted(os.listdir(tmp_path)) == before


class Payload:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ('unpickled',)


def changed(**values):
    return {**batch(4, 'label'), **{name.encode(): value for name, value in values.items()}}


@pytest.mark.parametrize('content, said', [
    (changed(more=Payload()), 'it asks for builtins.print'),
    (changed(data=np.array([Payload()], dtype=object)), 'it asks for builtins.print'),
    (changed(labels=[0, 1, 2, 10]), r'must hold data \[n, 3072\] and n labels'),
    (changed(labels=[0, 1, 2]), 'must hold data'),
    (changed(data=np.zeros((4, 3072))), 'must hold data'),
    ([1, 2], 'is not a batch of CIFAR'),
])
def test_other_pickles_are_refused(content, said, tmp_path, capsys):
    cifar('cifar10', tmp_path / 'source')
    (tmp_path / 'source' / 'data_batch_2').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=said):
        data.convert('cifar10', str(tmp_path / 'source'), str(tmp_path / 'dest'))
    assert not (tmp_path / 'dest').exists() and 'unpickled' not in capsys.readouterr().out


@pytest.mark.parametrize('change, said', [
    (lambda root: (root / 'val' / 'val_annotations.txt').unlink(), 'must hold val/val_annotations.txt'),
    (lambda root: shutil.rmtree(root / 'train'), 'must hold train/CLASS/CLASS_boxes.txt'),
    (lambda root: (root / 'train' / 'n01' / 'images' / 'n01_2.JPEG').unlink(), 'must hold train/n01/images/n01_2.JPEG'),
    (lambda root: (root / 'train' / 'n01' / 'n01_boxes.txt').write_text('a b\n'), "must have 5 columns.*'a b'"),
    (lambda root: (root / 'val' / 'val_annotations.txt').write_text('val_0.JPEG\t../x\t0\t0\t1\t1\n'), "name '../x'"),
    (lambda root: (root / 'val' / 'val_annotations.txt').write_text('val_0.JPEG\tn01\t0\t0\t1\t1\n' * 2), 'two images'),
])
def test_an_incomplete_tiny_imagenet_is_refused(change, said, tmp_path):
    tiny_imagenet(tmp_path / 'source')
    change(tmp_path / 'source')
    with pytest.raises(ValueError, match=said):
        data.convert('tiny-imagenet', str(tmp_path / 'source'), str(tmp_path / 'dest'))
    assert os.listdir(tmp_path) == ['source']


def test_a_source_that_is_no_archive_is_refused(tmp_path, capsys):
    for name, content in (('missing', None), ('text.tar.gz', b'text'), ('cut.zip', b'PK\x03\x04')):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert data.main(['cifar10', str(tmp_path / name), str(tmp_path / 'dest')]) == 2
        assert 'SOURCE must be a folder, a tar or a zip archive' in capsys.readouterr().err
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('cifar-10-batches-py/other', json.dumps({}))
    (tmp_path / 'other.zip').write_bytes(buffer.getvalue())
    assert data.main(['cifar10', str(tmp_path / 'other.zip'), str(tmp_path / 'dest')]) == 2
    assert 'must hold batches.meta' in capsys.readouterr().err
