"""`benchmarks.evaluate` on checkpoints of our script and of timm's, and on files without settings."""
import argparse
import json
import shutil

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.utils import CheckpointSaver
from torch.utils.data import IterableDataset

from benchmarks import evaluate
from benchmarks.evaluate import MEASURES
from benchmarks.measures.subject import PixelModel, Subject, spread
from tests.support.benchmarks import check_schema
from tests.support.training_runs import accuracy, rows_of
from timm_multimix import MultiMixHead


@pytest.fixture
def measure(tmp_path):
    """Run the command and return the results by name."""
    def measure(*flags):
        place = ['--device', 'cpu', '--workers', '0', '--results', str(tmp_path / 'out')]
        assert evaluate.main([*map(str, flags), *place]) == 0
        return {path.relative_to(tmp_path / 'out').as_posix(): json.loads(path.read_text())
                for path in sorted((tmp_path / 'out').rglob('*.json'))}
    return measure


def refused(measure, capsys, *flags):
    with pytest.raises(SystemExit, match='2'):
        measure(*flags)
    return capsys.readouterr().err.splitlines()[-1]


def test_every_measure_of_two_runs(trained, image_folder, measure, capsys):
    data = trained / 'data' / 'tiny'
    with open(data / 'boxes.csv', 'w') as file:
        file.write('path,x0,y0,x1,y1\n' + ''.join(
            f'validation/{name}/{index}.png,4,4,16,16\n' for name in ('cat', 'dog') for index in range(3)))
    flags = [trained / 'tiny' / '*-0', '--data-dir', data, '--unseen', image_folder / 'validation',
             '--outliers', 'noise', 'digits']
    small = ['--images', 6, '--eps', 4, '--steps', 2, '--batch-size', 4]
    results = measure(*flags, '--measures', 'accuracy', *small)
    results = measure(*flags, '--measures', *MEASURES, *small)  # adds the others
    assert list(results) == ['tiny/dense-multimix-0.json', 'tiny/plain-0.json']
    record = results['tiny/plain-0.json']
    check_schema(record)
    assert record['settings'].items() >= dict(recipe='tiny', method='plain', seed=0, model='test_resnet').items()
    assert list(record['measures']) == list(MEASURES)
    digest = json.loads((data / 'contents.json').read_text())['digest']
    assert {measured['settings']['data'] for measured in record['measures'].values()} == {digest}
    row, training = rows_of(trained / 'tiny' / 'plain-0')[-1], record['training']
    found = record['measures']['accuracy']['result']
    assert found['top1'] == pytest.approx(float(row['eval_top1'])) and found['top5'] == 100.
    assert found['loss'] == pytest.approx(float(row['eval_loss']), rel=1e-4)
    assert len(training['epochs']) == 2 and training['args']['epochs'] == 2 and len(training['commits']) == 1
    outliers = record['measures']['outliers']['result']['sets']
    assert {name: each['images'] for name, each in outliers.items()} == dict(noise=6, digits=6, validation=6)
    robust = record['measures']['robustness']['result']
    assert robust['top1'] == found['top1'] and set(robust['attacks']['pgd']) == {'4'}
    assert 0. <= record['measures']['boxes']['result']['iou50'] <= 100.
    assert set(record['measures']['embeddings']['result']['unseen']) >= {'map', 'recall1', 'knn', '1-shot'}
    assert record['measures']['embeddings']['settings']['unseen'] == 'validation', 'a folder of this machine'
    assert str(trained) not in json.dumps(record)

    assert '-0.json has robustness with other settings (steps)' in refused(
        measure, capsys, *flags, '--measures', 'robustness', *small, '--steps', 3)
    shutil.copytree(trained / 'tiny' / 'plain-0', trained / 'again' / 'plain-0')
    torch.save(timm.create_model('test_resnet', num_classes=2).state_dict(), trained / 'again/plain-0/last.pth.tar')
    assert 'plain-0.json is of other weights than' in refused(
        measure, capsys, trained / 'again' / 'plain-0', '--data-dir', data, '--recipe', 'tiny')


@pytest.fixture(scope='module')
def stock(image_folder, tmp_path_factory):
    """A folder as timm's own train.py leaves it, and the accuracy of its model."""
    folder = tmp_path_factory.mktemp('train') / '20250101-120000-test_resnet-32'
    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3, global_pool='max')
    averaged = timm.create_model('test_resnet', num_classes=3, global_pool='max')
    args = argparse.Namespace(
        model='test_resnet', num_classes=3, gp='max', img_size=None, input_size=[3, 32, 32], in_chans=None, mean=None,
        std=None, interpolation='', crop_pct=None, model_kwargs={}, val_split='validation', seed=42, pretrained=True,
        initial_checkpoint='', experiment='', rank=0, world_size=1, distributed=False, device='cuda:0', synchronize=1)
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters(), 0.1), args, checkpoint_dir=str(folder),
                            recovery_dir=str(folder), model_ema=averaged)
    saver.save_checkpoint(0, metric=50.)
    (folder / 'args.yaml').write_text(yaml.safe_dump(vars(args)))
    (folder / 'summary.csv').write_text('epoch,train_loss,eval_loss,eval_top1,eval_top5\n0,1.5,nan,50.0,100.0\n')
    return folder, accuracy(model, image_folder), accuracy(averaged, image_folder)


def test_a_checkpoint_of_timms_own_script(stock, image_folder, measure):
    folder, expected, averaged = stock
    results = measure(folder / 'model_best.pth.tar', '--data-dir', image_folder)
    record, = results.values()
    check_schema(record)
    assert list(results) == [f'{folder.parent.name}/{folder.name}-42.json']
    assert record['measures']['accuracy']['result']['top1'] == pytest.approx(expected)
    assert record['training']['epochs'] == [
        dict(epoch=0., train_loss=1.5, eval_loss=None, eval_top1=50., eval_top5=100.)]
    results = measure(folder / 'last.pth.tar', '--data-dir', image_folder, '--use-ema', '--method', 'averaged')
    found = results[f'{folder.parent.name}/averaged-42.json']
    assert found['measures']['accuracy']['result']['top1'] == pytest.approx(averaged) and found['settings']['ema']


def test_a_file_of_weights_needs_its_model(stock, image_folder, tmp_path, measure, capsys):
    folder, expected, _ = stock
    weights = tmp_path / 'weights' / 'mine.pth'
    weights.parent.mkdir()
    torch.save(torch.load(folder / 'last.pth.tar', weights_only=False)['state_dict'], weights)
    flags = [weights, '--data-dir', image_folder / 'validation']
    assert 'no checkpoint nowhere.pth' in refused(measure, capsys, 'nowhere.pth', *flags[1:])
    assert 'no checkpoint' in refused(measure, capsys, str(weights.parent.parent / '*'), *flags[1:])
    assert 'holds no averaged weights' in refused(measure, capsys, *flags, '--model', 'test_resnet', '--use-ema')
    assert 'has no args.yaml beside it: give --model' in refused(measure, capsys, *flags)
    assert 'does not fit --model test_resnet with 5 classes' in refused(
        measure, capsys, *flags, '--model', 'test_resnet', '--num-classes', 5)
    assert 'did you mean test_resnet' in refused(measure, capsys, *flags, '--model', 'test_resnett')
    results = measure(
        *flags, '--model', 'test_resnet', '--num-classes', 3, '--gp', 'max', '--input-size', 3, 32, 32)
    record = results['weights/mine-0.json']
    assert record['measures']['accuracy']['result']['top1'] == pytest.approx(expected)


@pytest.mark.parametrize('flags, message', [
    (['--data-dir', 'nowhere'], 'nowhere must hold images that timm reads'),
    (['--images', '-1'], '--images must be >= 0, got -1'),
    (['--measures', 'boxes'], '--boxes must be a file with the columns path, x0, y0, x1, y1'),
    (['--measures', 'outliers', '--outliers', 'cars'], "--outliers must be folders of images or noise, .* got 'cars'"),
    (['--measures', 'embeddings', '--images', '3'], 'must give two images of each class, of two .* raise --images'),
    (['--dataset', 'cifar10'], "--dataset must be digits or start with .* got 'cifar10'"),
    (['--num-classes', '2'], 'does not fit --model test_resnet with 2 classes'),
])
def test_mistakes_are_refused(flags, message, stock, image_folder, measure, capsys):
    text = refused(measure, capsys, stock[0] / 'last.pth.tar', '--data-dir', image_folder, *flags)
    assert all(part in text for part in message.split('.*')), text


def test_classes_are_those_of_the_training(stock, image_folder, tmp_path, measure, capsys):
    run, data = tmp_path / 'runs' / 'mapped', tmp_path / 'data'
    shutil.copytree(stock[0], run)
    shutil.copytree(image_folder / 'validation', data / 'validation')
    names = sorted(path.name for path in (data / 'validation').iterdir())
    (run / 'classes.txt').write_text('\n'.join(names))
    (data / 'validation' / '.hidden').mkdir()
    shutil.copy(data / 'validation' / names[0] / '0.png', data / 'validation' / '.hidden')
    flags = [run / 'last.pth.tar', '--data-dir', data]
    result = measure(*flags)['runs/mapped-42.json']['measures']['accuracy']['result']
    assert result['images'] == 12 and result['top1'] == pytest.approx(stock[1])
    (tmp_path / 'map.txt').write_text('\n'.join(names[::-1]))
    args = yaml.safe_load((run / 'args.yaml').read_text())
    (run / 'args.yaml').write_text(yaml.safe_dump({**args, 'class_map': str(tmp_path / 'map.txt')}))
    assert f'must have the classes that the model was trained on, {", ".join(names)}, got' in refused(
        measure, capsys, *flags, '--recipe', 'other')
    (run / 'classes.txt').write_text('\n'.join(names[::-1]))
    subject = subject_with(run / 'last.pth.tar', data)
    assert [label for _, label in subject.images()] == [2] * 4 + [1] * 4 + [0] * 4
    shutil.rmtree(data / 'validation' / names[1])  # without the map, the next class would get its index
    (run / 'args.yaml').write_text(yaml.safe_dump(args))
    (run / 'classes.txt').write_text('\n'.join(names))
    assert 'must have the classes' in refused(measure, capsys, *flags, '--recipe', 'third')


def test_another_measurement_is_not_kept_as_this_one(stock, image_folder, measure, capsys):
    flags = [stock[0] / 'last.pth.tar', '--data-dir', image_folder, '--method', 'kept']
    measure(*flags)
    assert 'is of other weights' in refused(measure, capsys, *flags, '--use-ema')
    assert 'has accuracy with other settings (pixels)' in refused(measure, capsys, *flags, '--img-size', 64)


def test_images_are_read_as_in_training(stock, tmp_path):
    for name in ('a', 'b', 'c'):
        (tmp_path / 'validation' / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 257 * 100, dtype=np.uint16)).save(tmp_path / 'validation' / name / '0.png')
    subject = subject_with(stock[0] / 'last.pth.tar', tmp_path, '--img-size', '64')
    pixels, _ = next(subject.batches(subject.images()))
    torch.testing.assert_close(pixels, torch.full((3, 3, 64, 64), 100 / 255))
    (tmp_path / 'validation' / 'b' / '0.png').write_text('no image')
    with pytest.raises(ValueError, match='0.png cannot be read'):
        next(subject.batches(subject.images()))


def test_models_of_grey_images_are_measured(image_folder, tmp_path, measure):
    torch.save(timm.create_model('test_resnet', num_classes=3, in_chans=1).state_dict(), tmp_path / 'grey.pth')
    record, = measure(
        tmp_path / 'grey.pth', '--data-dir', image_folder, '--model', 'test_resnet', '--num-classes', 3,
        '--in-chans', 1, '--measures', 'accuracy', 'outliers', '--outliers', 'noise').values()
    assert record['measures']['outliers']['result']['sets']['noise']['images'] == 12


def subject_with(path, data, *more):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.subject_of(
        str(path), parser.parse_args(['--data-dir', str(data), '--device', 'cpu', '--workers', '0', *more]))


def test_images_are_those_of_validation_and_the_model_normalises(stock, image_folder):
    subject = subject_with(stock[0] / 'last.pth.tar', image_folder, '--batch-size', '5')
    batches = list(subject.batches(subject.images()))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches))
    with Image.open(image_folder / 'validation' / 'cat' / '0.png') as image:
        assert pixels.shape == (12, 3, *image.size) and 0. <= pixels.min() and pixels.max() <= 1.
    config = subject.data_config
    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    torch.testing.assert_close(subject.logits(pixels), subject.model.model((pixels - mean) / std))
    limited, _ = zip(*subject.batches(subject.images(), 4))
    assert torch.equal(torch.cat(limited), pixels[spread(12, 4)]) and spread(12, 4) == [0, 3, 6, 9]
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_embeddings_are_what_the_classifier_takes():
    model = PixelModel(timm.create_model('test_vit', num_classes=3).eval(), (0.5,) * 3, (0.5,) * 3)
    pixels = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(model.model.head(model.embed(pixels)), model(pixels))
    assert MultiMixHead(model.model, 'dense-multimix', input_size=(3, 160, 160)).dense is not None


class Stream(IterableDataset):
    """Seven images, one after another."""

    def __iter__(self):
        return iter([(torch.full((3, 2, 2), index, dtype=torch.uint8), index) for index in range(7)])


@pytest.mark.parametrize('limit, seen', [(None, 7), (5, 5)])
def test_of_a_stream_the_first_images_are_measured(limit, seen):
    subject = Subject(None, {}, torch.device('cpu'), '', '', batch_size=3)
    labels = [label for _, batch in subject.batches(Stream(), limit) for label in batch.tolist()]
    assert labels == list(range(seen))
