"""Every kind of data that timm reads: a run reads the same images, with the same labels and in the same order."""
import itertools
import json
import os
import random
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_dataset, create_loader
from timm.data.readers.reader_image_tar import ReaderImageTar
from torchvision.datasets import FashionMNIST

import train_timm
from tests.support.command_line import SCRIPT
from tests.support.training_runs import loaders_of
from tests.support.training_states import read
from timm_multimix.__main__ import main as launch
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.classes import class_names, write_classes
from timm_multimix.training.data.datasets import create_datasets
from timm_multimix.training.data.images import CheckedImages

TARS = ['--train-split', 'train.tar', '--val-split', 'validation.tar']
SPLITS = ('train', 'validation')


def pack(folder, path):
    with tarfile.open(path, 'w') as tar:
        for path in sorted(folder.rglob('*')):
            tar.add(path, arcname=path.relative_to(folder), recursive=False)


def tar(images, root):
    for split in SPLITS:
        pack(images / split, root / f'{split}.tar')
    return TARS


def tar_of_tars(images, root):
    for split in SPLITS:
        (root / split).mkdir()
        for folder in (images / split).iterdir():
            pack(folder, root / split / f'{folder.name}.tar')
        pack(root / split, root / f'{split}.tar')
    return TARS


def hfds(images, root):
    pytest.importorskip('datasets')
    return ['--dataset', f'hfds/{images}']


def hfids(images, root):
    pytest.importorskip('datasets')
    return ['--dataset', f'hfids/{images}', '--train-num-samples', '24', '--val-num-samples', '12']


def wds(images, root):
    pytest.importorskip('webdataset')
    splits = {}
    for split in SPLITS:
        paths = sorted((images / split).rglob('*.png'))
        with tarfile.open(root / f'{split}-0.tar', 'w') as shard:
            for index, path in enumerate(paths):
                shard.add(path, arcname=f'{index}.png')
                label = root / 'label'
                label.write_text(str(['cat', 'dog', 'owl'].index(path.parent.name)))
                shard.add(label, arcname=f'{index}.cls')
        splits[split] = dict(
            name=split, num_samples=len(paths), filenames=[f'{split}-0.tar'], shard_lengths=[len(paths)])
    (root / 'info.json').write_text(json.dumps(dict(splits=splits)))
    return ['--dataset', 'wds/it']


def image_folder_of_torchvision(images, root):
    shutil.copytree(images, root, dirs_exist_ok=True)
    return ['--dataset', 'torch/image_folder']


def imagenet(images, root):
    """A torchvision ImageNet, whose classes have several names."""
    for split, name in zip(SPLITS, ('train', 'val')):
        shutil.copytree(images / split, root / name)
    torch.save(({'cat': ('cat', 'tabby'), 'dog': ('dog',), 'owl': ('owl', 'night bird')}, []), root / 'meta.bin')
    return ['--dataset', 'torch/imagenet']


def mnist(folder, images, root):
    """A torchvision dataset of gray images in one file."""
    root = root / folder / 'raw'
    root.mkdir(parents=True)
    for split, name in zip(SPLITS, ('train', 't10k')):
        paths = sorted((images / split).rglob('*.png'))
        pixels = np.stack([np.asarray(Image.open(path).convert('L')) for path in paths])
        labels = np.array([['cat', 'dog', 'owl'].index(path.parent.name) for path in paths], dtype=np.uint8)
        for kind, array in (('images-idx3', pixels), ('labels-idx1', labels)):
            header = bytes((0, 0, 8, array.ndim)) + b''.join(size.to_bytes(4, 'big') for size in array.shape)
            (root / f'{name}-{kind}-ubyte').write_bytes(header + array.tobytes())
    return ['--dataset', 'torch/fashion_mnist', '--num-classes', '10']


def fashion_mnist(images, root):
    return [*mnist('FashionMNIST', images, root), '--in-chans', '1']


KINDS = {
    'folder': lambda images, root: shutil.copytree(images, root, dirs_exist_ok=True) and [],
    **{make.__name__: make for make in (
        tar, tar_of_tars, hfds, hfids, wds, image_folder_of_torchvision, imagenet, fashion_mnist)}}


@pytest.fixture
def argv(image_folder, tmp_path, monkeypatch):
    """A function that makes the data of a kind in tmp_path / 'data' and returns flags of a short run on it."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')

    def argv(make, *more):
        root = tmp_path / 'data'
        root.mkdir()
        return [
            '--data-dir', str(root), '--num-classes', '3', '--model', 'test_resnet', '--img-size', '32',
            '--epochs', '1', '--batch-size', '8', '--workers', '0', '--mixup-mode', 'multimix', '--device', 'cpu',
            '--output', str(tmp_path), '--experiment', 'run', *make(image_folder, root), *more]

    return argv


def loaders(argv):
    """Return our loaders and those of timm's own script."""
    ours, args, config = loaders_of([*argv, '--worker-seeding', 'part'])
    stock = []
    for training in (True, False):
        dataset = create_dataset(
            args.dataset, root=args.data_dir, split=args.train_split if training else args.val_split,
            is_training=training, class_map='', batch_size=8, seed=42, input_img_mode='L' if args.in_chans else 'RGB',
            num_samples=args.train_num_samples if training else args.val_num_samples)
        augmentation = dict(scale=args.scale, ratio=args.ratio, color_jitter=0.4, interpolation='random')
        stock.append(create_loader(
            dataset, config['input_size'], 8, is_training=training, num_workers=0, device=torch.device('cpu'),
            mean=config['mean'], std=config['std'], worker_seeding='part',
            **(augmentation if training else dict(crop_pct=1., interpolation='bicubic'))))
    return zip(ours, stock)


def batches(loader):
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    return [*loader]


NAMES = {
    'imagenet': ['cat, tabby', 'dog', 'owl, night bird'],
    'fashion_mnist': FashionMNIST.classes,
    'hfids': [], 'wds': [],  # streams, which know only numbers
}


@pytest.mark.parametrize('kind', KINDS)
def test_images_labels_and_order_are_those_of_timm_and_classes_have_their_names(kind, argv):
    for ours, stock in loaders(argv(KINDS[kind])):
        assert class_names(ours.dataset) == NAMES.get(kind, ['cat', 'dog', 'owl'])
        pairs = list(zip(batches(ours), batches(stock), strict=True))
        assert sum(len(labels) for (_, labels), _ in pairs) in (12, 24)
        for (images, labels), (stock_images, stock_labels) in pairs:
            assert torch.equal(images, stock_images) and torch.equal(labels, stock_labels)


def test_the_names_of_the_classes_of_a_tar_file_are_in_folder_and_checkpoint(argv, tmp_path):
    assert train_timm.main(argv(tar)) == 0
    assert (tmp_path / 'run' / 'classes.txt').read_text().split() == ['cat', 'dog', 'owl']
    assert read(tmp_path / 'run' / 'last.pth.tar')['args'].class_names == ['cat', 'dog', 'owl']


def test_the_older_reader_of_tar_files_is_read_too(argv, tmp_path):
    argv(tar)
    ours, stock = (ImageDataset(None, reader=ReaderImageTar(str(tmp_path / 'data' / 'train.tar'))) for _ in range(2))
    for (image, label), (other, other_label) in zip(CheckedImages(ours), stock, strict=True):
        assert image.tobytes() == other.tobytes() and label == other_label


def launcher_argv(argv):
    """The flags that the stock script has."""
    own = ('--img-size', '--output', '--experiment')
    pairs = [pair for pair in zip(argv[::2], argv[1::2]) if pair[0] not in own]
    return [SCRIPT, *itertools.chain(*pairs), '--input-size', '3', '32', '32', '--record', os.devnull]


STARTS = {'script': lambda argv: train_timm.main(argv), 'launcher': lambda argv: launch(launcher_argv(argv))}


def spoilt(change):
    """Tar files of images that are changed first."""
    def make(images, root):
        images = shutil.copytree(images, root / 'images')
        change(images)
        return tar(images, root)
    return make


def put(name):
    """Add an image to the training images."""
    def change(images):
        (images / 'train' / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / 'train' / 'dog' / '3.png', images / 'train' / name)
    return change


@pytest.mark.parametrize('start, kind', [('script', 'wds'), ('launcher', 'wds'), ('launcher', 'tar')])
def test_other_data_than_folders_trains(start, kind, argv, tmp_path):
    assert STARTS[start](argv(KINDS[kind])) == 0
    assert not (tmp_path / 'run' / 'classes.txt').exists(), 'a stream has no names'


@pytest.mark.parametrize('start', STARTS.values(), ids=STARTS)
@pytest.mark.parametrize('make, message', [
    (spoilt(lambda images: shutil.rmtree(images / 'validation' / 'cat')),
     'train.tar and validation.tar must have the same classes, got 3 and 2; only train.tar has cat'),
    (spoilt(put('0.png')), 'train.tar: every image must be in the folder of its class, got 0.png in '),
    (spoilt(put('DOG/0.png')), 'names of classes must differ in more than case and leading zeros'),
    (spoilt(lambda images: (images / 'train/dog/3.png').write_text('')), 'train.tar/dog/3.png cannot be read: '),
], ids=['a class without images', 'an image next to the classes', 'no order', 'an unreadable image'])
def test_mistakes_in_tar_files_are_refused_as_in_folders(make, message, start, argv, capsys):
    assert start(argv(make, '--batch-size', '24')) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_unreadable_image_of_torchvision_is_named(argv, tmp_path, capsys):
    flags = argv(image_folder_of_torchvision)
    path = tmp_path / 'data' / 'train' / 'dog' / '3.png'
    path.write_text('')
    assert train_timm.main([*flags, '--batch-size', '24']) == 2
    assert f'error: {path} cannot be read: ' in capsys.readouterr().err.splitlines()[-1]


def test_hidden_files_and_folders_of_a_tar_file_are_not_read(argv, caplog):
    def change(images):
        put('.ipynb_checkpoints/3.png')(images)
        put('dog/._3.png')(images)

    args, _ = parse_args(argv(spoilt(change)))
    dataset, _ = create_datasets(args, dict(input_size=(3, 32, 32), num_classes=3))
    assert class_names(dataset) == ['cat', 'dog', 'owl']
    assert [label for _, label in dataset] == [0] * 8 + [1] * 8 + [2] * 8
    assert 'data/train.tar that are hidden or no images (1 ._3.png, 1 .ipynb_checkpoints)' in caplog.text


@pytest.mark.parametrize('make', [
    lambda images, root: ['--data-dir', str(shutil.move(tar(images, root) and root / 'train.tar', root / 'one.tar'))],
    lambda images, root: ['--dataset', 'torch/image_folder', '--data-dir', str(images / 'train')],
], ids=['a tar file', 'torchvision'])
def test_validation_on_the_training_images_is_refused(make, argv, capsys):
    assert train_timm.main([*argv(make)]) == 2
    assert 'read the same images' in capsys.readouterr().err.splitlines()[-1]


def gray(images, root):
    return mnist('FashionMNIST', images, root)


@pytest.mark.parametrize('start, make, more', [
    ('script', gray, []), ('launcher', gray, []), ('script', gray, ['--in-chans', '3', '--input-img-mode', 'YCbCr']),
    ('script', image_folder_of_torchvision, ['--in-chans', '1'])])
def test_images_get_the_channels_of_the_model(start, make, more, argv):
    assert STARTS[start](argv(make, *more)) == 0


@pytest.mark.parametrize('torchvision', [False, True])
def test_an_order_in_which_timm_and_torchvision_differ_is_told(torchvision, argv, caplog):
    def make(images, root):
        for split in SPLITS:
            for name, new in (('cat', '2'), ('dog', '10'), ('owl', '3')):
                shutil.copytree(images / split / name, root / split / new)
        return ['--dataset', 'torch/image_folder'] if torchvision else []

    args, _ = parse_args(argv(make))
    dataset, _ = create_datasets(args, dict(input_size=(3, 32, 32), num_classes=3))
    assert class_names(dataset) == (['10', '2', '3'] if torchvision else ['2', '3', '10'])
    said = f"Class 0 is {'10' if torchvision else '2'}: it is 2 in timm's order and 10 in torchvision's"
    assert said in caplog.text


def test_classes_txt_is_a_class_map_that_gives_its_order(argv, image_folder, tmp_path):
    path = tmp_path / 'classes.txt'
    write_classes(str(tmp_path), ['owl', 'cat', 'dog'])
    args, _ = parse_args(argv(tar, '--class-map', str(path)))
    datasets = create_datasets(args, dict(input_size=(3, 32, 32), num_classes=3))
    assert [class_names(dataset) for dataset in datasets] == [['owl', 'cat', 'dog']] * 2


def test_a_folder_of_a_run_with_other_classes_is_told(tmp_path, caplog):
    write_classes(str(tmp_path), ['a b', 'c'])
    write_classes(str(tmp_path), ['a b', 'c'])
    assert not caplog.text
    write_classes(str(tmp_path), ['c', 'a b'])
    assert 'was of other classes: a b, c; now c, a b.' in caplog.text
