"""Other files next to the images of a data folder, and sources of data that cannot be read."""
import logging
import shutil

import pytest
from timm.data import create_dataset

import train_timm
from timm_multimix.checks import UsageError
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.datasets import create_datasets
from timm_multimix.training.data.folders import check_folders, check_root


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
    with caplog.at_level(logging.WARNING, 'train'):
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
    with caplog.at_level(logging.WARNING, 'train'):
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
