"""What lies beside the images of a data folder, and sources of data that nobody reads."""
import logging
import shutil

import pytest
from timm.data import create_dataset

import train_timm
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.folders import check_folders


@pytest.fixture
def data(image_folder, tmp_path):
    """A copy of the images, to add to."""
    return shutil.copytree(image_folder, tmp_path / 'data')


def hide(data, split='train'):
    """A checkpoint folder of Jupyter, which sorts before the classes, and a resource file of macOS."""
    (data / split / '.ipynb_checkpoints').mkdir()
    shutil.copy(data / split / 'dog' / '3.png', data / split / '.ipynb_checkpoints')
    (data / split / 'dog' / '._3.png').write_bytes(b'not an image')


@pytest.mark.parametrize('class_map', [False, True])
def test_hidden_files_and_folders_are_not_read(class_map, data, caplog):
    hide(data)
    for name in ('notes.TXT', 'labels.csv', 'README'):
        (data / 'train' / 'owl' / name).write_text('')
    argv = ['--data-dir', str(data)]
    if class_map:
        (data / 'map.txt').write_text('owl\ndog\ncat\n')
        argv += ['--class-map', str(data / 'map.txt')]
    args, _ = parse_args(argv)
    dataset = create_dataset('', root=str(data), split='train', class_map=args.class_map)
    with caplog.at_level(logging.WARNING, 'train'):
        check_folders('train', dataset, args)
    names = ('owl', 'dog', 'cat') if class_map else ('cat', 'dog', 'owl')
    assert dataset.reader.class_to_idx == {name: index for index, name in enumerate(names)}
    found = [(name, names[label]) for name, label in (
        (path.rsplit('/', 2)[-2], label) for path, label in dataset.reader.samples)]
    assert found == [(name, name) for name in ('cat', 'dog', 'owl') for _ in range(8)]
    assert [record.getMessage() for record in caplog.records] == [
        f'train: passed over 2 hidden files (1 ._3.png, 1 .ipynb_checkpoints) and 3 files without the extension of an '
        f'image (1 .csv, 1 .txt, 1 no extension) in {data / "train"}.']


def test_a_hidden_folder_is_no_class_of_a_run(flags, data, capsys):
    hide(data)
    hide(data, 'validation')
    assert train_timm.main([*flags, '--data-dir', str(data), '--epochs', '1']) == 0


def test_images_that_are_all_hidden(flags, data, capsys):
    for name in ('cat', 'dog', 'owl'):
        (data / 'train' / name).rename(data / 'train' / f'.{name}')
    assert train_timm.main([*flags, '--data-dir', str(data)]) == 2
    assert f'train: all images in {data / "train"} are hidden' in capsys.readouterr().err.splitlines()[-1]


def test_too_few_classes_names_those_found(flags, capsys):
    assert train_timm.main([*flags, '--num-classes', '2']) == 2
    assert 'the 3 classes of the data, got 2; the data has cat, dog, owl' in capsys.readouterr().err.splitlines()[-1]
