"""The parts of the suite on trained runs: their results are whole, made once, and of the weights they name."""
import argparse
import json
import os
import shutil

import pytest
import timm
import torch
from PIL import Image

from benchmarks import accuracy, attention, embedding_space, evidence, ood, recipes, robustness
from benchmarks.recipes import Recipe
from benchmarks.report import __main__ as report
from benchmarks.suite import running
from benchmarks.suite.runs import Run
from benchmarks.suite.subset import prepare_data
from benchmarks.suite.trained import PixelModel, apply, class_names, load_pixels, load_run, top1
from tests.support.benchmarks import check_schema
from timm_multimix import MultiMixHead

METHODS = ('plain', 'dense-multimix', 'multimix-distilled')
FLAGS = (
    '--model test_resnet --num-classes 2 --input-size 3 32 32 --epochs 1 --warmup-epochs 0 --batch-size 6 --lr 0.01 '
    '--workers 0 --device cpu --opt sgd')


@pytest.fixture(scope='module')
def trained(image_folder, tmp_path_factory):
    """The flags of a suite with three methods trained for a second, one with two seeds; and the suite's folder."""
    root = tmp_path_factory.mktemp('suite')
    patch = pytest.MonkeyPatch()
    recipe = Recipe(FLAGS, 6, 3, eval_split='validation', unseen_classes=('owl',), outliers=('noise', 'digits'))
    patch.setitem(recipes.RECIPES, 'tiny', recipe)
    shared = ['--recipe', 'tiny', '--data-dir', str(image_folder), '--output', str(root / 'output')]
    accuracy_results = ['--results', str(root / 'results' / 'accuracy')]
    accuracy.main([*shared, *accuracy_results, '--methods', *METHODS, '--seeds', '0'])
    accuracy.main([*shared, *accuracy_results, '--methods', 'plain', '--seeds', '1'])
    yield [*shared, '--results', str(root / 'results'), '--device', 'cpu'], root
    patch.undo()


def read(root, kind, name):
    with open(root / 'results' / kind / 'tiny' / f'{name}.json', encoding='utf-8') as file:
        record = json.load(file)
    check_schema(record)
    assert record['benchmark'] == kind
    return record


@pytest.mark.parametrize('method', METHODS)
def test_a_loaded_run_gives_the_accuracy_of_its_validation(trained, method):
    _, root = trained
    run = Run('tiny', method, 0, str(root / 'output' / 'tiny' / f'{method}-0'))
    model, config = load_run(run, 'cpu')
    pixels, labels = load_pixels(str(root / 'output' / 'data' / 'tiny' / 'validation'), config)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert pixels.shape == (6, 3, 32, 32) and 0. <= pixels.min() and pixels.max() <= 1.
    logits = apply(model, pixels, 'cpu')
    result = read(root, 'accuracy', f'{method}-0')['result']
    assert top1(logits, labels) == pytest.approx(result['top1'])
    if result['loss'] is not None:  # with a teacher the loss is not the model's
        assert float(torch.nn.functional.cross_entropy(logits, labels)) == pytest.approx(result['loss'], rel=1e-4)
    classifier = model.model.get_classifier()
    torch.testing.assert_close(classifier(apply(model.embed, pixels, 'cpu')), logits)


def test_images_are_spread_over_the_classes(trained):
    _, root = trained
    config = dict(input_size=(3, 32, 32), interpolation='bicubic', crop_pct=1.)
    _, labels = load_pixels(str(root / 'output' / 'data' / 'tiny' / 'validation'), config, 4)
    assert labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match='nowhere must be a folder with images'):
        load_pixels(str(root / 'nowhere'), config)


def test_unseen_classes_are_neither_trained_on_nor_tested(trained, image_folder, tmp_path):
    recipe = recipes.RECIPES['tiny']
    folder = prepare_data(recipe, str(image_folder), str(tmp_path / 'data')).folder
    splits = {entry.name: sorted(os.listdir(entry)) for entry in os.scandir(folder) if entry.is_dir()}
    assert splits == dict(train=['cat', 'dog'], validation=['cat', 'dog'], unseen=['owl'])


def test_robustness_covers_every_attack_and_corruption(trained):
    flags, root = trained
    assert robustness.main([*flags, '--methods', 'plain', '--seeds', '0', '--steps', '2']) == 0
    record = read(root, 'robustness', 'plain-0')
    run = Run('tiny', 'plain', 0, str(root / 'output' / 'tiny' / 'plain-0'))
    assert record['settings'] == dict(
        recipe='tiny', method='plain', seed=0, images=1000, steps=2, checkpoint=run.checksum(),
        data=read(root, 'accuracy', 'plain-0')['settings']['data'])
    result = record['result']
    assert result['images'] == 6 and result['top1'] == read(root, 'accuracy', 'plain-0')['result']['top1']
    attacks = {(row['attack'], row['eps_255']): row for row in result['attacks']}
    assert set(attacks) == {(attack, radius) for attack in ('fgsm', 'pgd') for radius in (1, 2, 4, 8)}
    assert attacks['pgd', 8] == dict(
        attack='pgd', eps_255=8, steps=2, step_size_255=2., random_start=True, top1=attacks['pgd', 8]['top1'])
    assert len(result['corruptions']) == 12


def test_accuracy_under_attack_is_that_of_the_attacked_images():
    """A linear model of two pixels, whose prediction one step flips if the margin is small."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.eye(2)
    model.requires_grad_(False)
    margins = torch.tensor([0.005, 0.015, 0.03, 0.2])  # both pixels move: a margin below twice the radius flips
    pixels = torch.stack([0.5 + margins, torch.full((4,), 0.5)], dim=1).view(4, 1, 1, 2)
    rows = robustness.attack_all(
        model, pixels, torch.zeros(4, dtype=torch.long), argparse.Namespace(steps=10, device='cpu'))
    found = {(row['attack'], row['eps_255']): row['top1'] for row in rows}
    expected = {radius: 100. * float((margins > 2. * radius / 255.).float().mean()) for radius in robustness.RADII}
    assert found == {(name, radius): top1 for name in ('fgsm', 'pgd') for radius, top1 in expected.items()}
    assert set(expected.values()) == {75., 50., 25.}


def test_accuracy_under_corruption_is_that_of_the_corrupted_images():
    """The model tells images of high contrast from those of low contrast."""
    pixels = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def model(images):
        contrast = images.std(dim=(1, 2, 3))
        return torch.stack([contrast, torch.full_like(contrast, 0.15)], dim=1)

    rows = robustness.corrupt_all(model, pixels, torch.zeros(8, dtype=torch.long), 'cpu')
    found = {(row['corruption'], row['level']): row['top1'] for row in rows}
    # a standard deviation of 0.29, times 0.6, 0.4 and 0.2
    assert [found['contrast', level] for level in (1, 2, 3)] == [100., 0., 0.]
    assert [found['noise', level] for level in (1, 2, 3)] == [100., 100., 100.]


def test_inputs_with_low_scores_count_as_outliers():
    inside = torch.tensor([[9., 0.], [8., 0.]])
    outside = [torch.full((3, 2), 0.1), torch.tensor([[20., 0.]] * 3)]  # less certain than inside, and more
    for logits, auroc in zip(outside, (1., 0.)):
        found = ood.detect(lambda pixels, logits=logits: logits, inside, torch.zeros(3, 3, 2, 2), 'cpu')
        assert [found[name]['auroc'] for name in ood.SCORES] == [auroc, auroc]
        assert [found[name]['fpr95'] for name in ood.SCORES] == [1. - auroc, 1. - auroc]


def test_ood_measures_every_set_of_outliers(trained, image_folder, tmp_path, capsys):
    flags, root = trained
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'red.png')
    flags = [*flags, '--methods', 'plain', 'multimix-distilled', '--seeds', '0', '--outlier-folders', str(tmp_path)]
    assert ood.main(flags) == 0
    result = read(root, 'ood', 'multimix-distilled-0')['result']
    images = {name: outliers['images'] for name, outliers in result['sets'].items()}
    assert images == {'noise': 6, 'digits': 6, 'unseen classes': 4 - 1, tmp_path.name: 1}
    for outliers in result['sets'].values():
        for score in ('msp', 'energy'):
            assert all(0. <= value <= 1. for value in outliers[score].values())
    assert 0. <= result['ece'] <= 1. and isinstance(result['margin'], float)
    Image.new('RGB', (40, 30), 'blue').save(tmp_path / 'blue.png')  # like another folder of that name
    with pytest.raises(SystemExit, match='2'):
        ood.main(flags)
    assert 'folders must be' in capsys.readouterr().err


def test_embedding_space_measures_the_checkpoints_embeddings(trained):
    flags, root = trained
    assert embedding_space.main([*flags, '--methods', 'plain', '--seeds', '0', '1', '--projection', 'pca']) == 0
    picture = read(root, 'embedding_space', 'plain-0')['result']['picture']
    assert len(picture['x']) == len(picture['y']) == 6 and picture['label'] == [0, 0, 0, 1, 1, 1]
    result = read(root, 'embedding_space', 'plain-1')['result']
    assert 'picture' not in result  # only one seed has a picture
    assert 0. <= result['alignment'] <= 4. and result['uniformity'] <= 0. and len(result['spread_per_class']) == 2
    model, config = load_run(Run('tiny', 'plain', 1, str(root / 'output' / 'tiny' / 'plain-1')), 'cpu')
    pixels, labels = load_pixels(str(root / 'output' / 'data' / 'tiny' / 'validation'), config)
    embeddings = apply(model.embed, pixels, 'cpu')
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    distances = [
        float((embeddings[i] - embeddings[j]).square().sum())
        for i in range(6) for j in range(i) if labels[i] == labels[j]]
    assert result['alignment'] == pytest.approx(sum(distances) / len(distances), rel=1e-4)


def test_attention_maps_and_weights_sum_to_one(trained):
    flags, root = trained
    assert attention.main([*flags, '--images', '4']) == 0
    for method in ('plain', 'dense-multimix'):
        result = read(root, 'attention', f'{method}-0')['result']
        maps, weights = torch.tensor(result['attention']), torch.tensor(result['weights'])
        torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(4), atol=1e-2, rtol=0.)
        assert weights.shape == (3, *maps.shape)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, *maps.shape[1:]), atol=1e-3, rtol=0.)
        assert result['labels'] == [0, 0, 1, 1] and result['classes'] == ['cat', 'dog']


def test_attention_maps_are_those_of_the_default_head():
    torch.manual_seed(0)
    model = PixelModel(timm.create_model('test_resnet', num_classes=3), (0.5,) * 3, (0.25,) * 3).eval()
    pixels, labels = torch.rand(4, 3, 96, 96), torch.tensor([0, 1, 2, 0])
    maps = torch.tensor(attention.maps(model, pixels, labels)['attention'])
    head = MultiMixHead(model.model, mode='dense-multimix', num_tuples=1)
    attended = head.outputs(model.model.forward_features(model.normalise(pixels)), labels).attention
    assert maps.shape == (4, 3, 3) and float((maps - 1. / 9.).abs().max()) > 1e-3
    torch.testing.assert_close(maps.flatten(1), attended, atol=1e-4, rtol=0.)


def test_existing_results_are_kept_and_other_settings_refused(trained, capsys, monkeypatch):
    flags, root = trained
    command = [*flags, '--methods', 'plain', '--seeds', '0', '--projection', 'pca']
    assert embedding_space.main(command) == 0
    path = root / 'results' / 'embedding_space' / 'tiny' / 'plain-0.json'
    written = path.read_bytes()
    monkeypatch.setattr(running, 'load_run', None)  # would raise
    assert embedding_space.main(command) == 0
    assert path.read_bytes() == written
    with pytest.raises(SystemExit) as exit_info:
        embedding_space.main([*command, '--images', '5'])
    assert exit_info.value.code == 2
    assert f'images must be 1000, as in {path}, got 5; delete that file' in capsys.readouterr().err
    checkpoint = root / 'output' / 'tiny' / 'plain-0' / 'last.pth.tar'
    shutil.copy(checkpoint, root / 'kept')
    checkpoint.write_bytes(b'other weights')
    try:
        with pytest.raises(SystemExit):
            embedding_space.main(command)
        assert f'{checkpoint} must be the checkpoint of ' in capsys.readouterr().err
    finally:
        os.replace(root / 'kept', checkpoint)


def test_a_run_of_another_process_is_left_alone(trained):
    flags, root = trained
    with running.exclusive(str(root / 'output' / 'tiny' / 'dense-multimix-0.embedding_space.lock')) as mine:
        assert mine
        assert embedding_space.main([*flags, '--methods', 'dense-multimix', '--seeds', '0']) == 0
    assert not (root / 'results' / 'embedding_space' / 'tiny' / 'dense-multimix-0.json').exists()


@pytest.mark.parametrize('part, more, message', [
    (robustness, ['--steps', '0'], '--steps must be >= 1, got 0'),
    (robustness, ['--device', 'gpu'], "--device: must be a device torch can use here, got 'gpu'"),
    (robustness, ['--images', '0'], '--images must be >= 1, got 0'),
    (embedding_space, ['--images', '3'], '--images must be >= 4, two of each class, got 3'),
    (robustness, ['--methods', 'cutmix'], 'must have runs of benchmarks.accuracy'),
    (ood, ['--outlier-folders', 'nowhere'], '--outlier-folders must be folders of images, got nowhere'),
    (ood, ['--data-dir', 'nowhere'], 'data_dir must have the folder'),
])
def test_mistakes_are_refused(trained, part, more, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        part.main([*trained[0], *more])
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


def test_one_command_makes_every_part_and_can_be_repeated(trained, tmp_path, monkeypatch):
    flags, root = trained
    command = [*flags, '--methods', 'plain', 'dense-multimix', '--seeds', '1', '--images', '6']
    command += ['--results', str(tmp_path / 'results'), '--output', str(tmp_path / 'output')]
    monkeypatch.setitem(evidence.step_time._DEFAULTS['cpu'], 'rounds', 2)
    assert evidence.main(command) == 0
    for kind in ('accuracy', 'robustness', 'ood', 'embedding_space'):
        names = sorted(os.listdir(tmp_path / 'results' / kind / 'tiny'))
        assert names == ['dense-multimix-1.json', 'plain-1.json']
    assert sorted(os.listdir(tmp_path / 'results' / 'report')) == ['tiny.html', 'tiny.md']
    files = sorted((tmp_path / 'results').rglob('*.json'))
    written = [path.stat().st_mtime_ns for path in files]
    monkeypatch.setattr(report, 'build', lambda *args: [])
    assert evidence.main(command) == 0
    assert [path.stat().st_mtime_ns for path in files] == written

    path = tmp_path / 'results' / 'step_time' / 'tiny.json'
    assert evidence.measure_step_time('tiny', ['cutmix'], 'cpu', str(path)) == 0
    methods = json.loads(path.read_text())['result']['runs'][0]['methods']
    assert list(methods) == ['plain', 'cutmix', 'dense-multimix']  # beside those timed before

    settings = json.loads(path.read_text())['settings']
    for name, value in (('models', ['resnet50']), ('batch_size', [7]), ('device', 'cuda')):
        path.write_text(json.dumps(dict(json.loads(path.read_text()), settings=dict(settings, **{name: value}))))
        with pytest.raises(ValueError, match=f'tiny.json must have .*, got another {name}; delete it'):
            evidence.measure_step_time('tiny', ['cutmix'], 'cpu', str(path))

    path.unlink()
    with running.exclusive(str(tmp_path / 'output' / 'tiny.step_time.lock')):  # another process times steps
        assert evidence.main(command) == 0
    assert not path.exists()


def test_after_a_failed_run_the_others_are_still_evaluated(trained, tmp_path, monkeypatch):
    called = []
    for name in ('accuracy', 'robustness', 'ood', 'embedding_space', 'attention', 'report'):
        monkeypatch.setattr(getattr(evidence, name), 'main', lambda argv, name=name: called.append(name) or codes[name])
    monkeypatch.setattr(evidence, 'measure_step_time', lambda *args: 0)
    codes = dict.fromkeys(('robustness', 'ood', 'embedding_space', 'attention', 'report'), 0)
    command = [*trained[0], '--output', str(tmp_path)]
    codes['accuracy'] = 1
    assert evidence.main(command) == 1
    assert called == ['accuracy', 'robustness', 'ood', 'embedding_space', 'attention', 'report']
    called.clear()
    codes['accuracy'] = accuracy.INTERRUPTED
    assert evidence.main(command) == accuracy.INTERRUPTED and called == ['accuracy']


def test_a_part_that_fails_names_the_run(trained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(robustness, 'attack_all', None)
    with pytest.raises(TypeError):
        robustness.main([*trained[0], '--methods', 'dense-multimix', '--seeds', '0', '--steps', '3'])
    assert 'robustness of dense-multimix with seed 0 failed, on ' in caplog.text


def test_finished_items_do_not_count_in_the_time_left(monkeypatch, caplog):
    clock = iter(range(0, 6000, 60))  # every reading is a minute later
    monkeypatch.setattr(running.time, 'time', lambda: next(clock))
    with caplog.at_level('INFO', logger='benchmarks'):
        running.work_through(['a', 'b', 'c', 'd'], lambda item: item, str, lambda item: item in 'bc')
    assert [text.partition('; ')[2] for text in caplog.messages][:2] == ['about 2 min left', 'about 2 min left']


@pytest.mark.parametrize('more, message', [
    (['--images', '3'], '--images must be >= 4, two of each class, got 3'),
    (['--device', 'gpu'], "--device: must be a device torch can use here, got 'gpu'"),
    (['--outlier-folders', 'nowhere'], '--outlier-folders must be folders of images, got nowhere'),
    (['--flags=--epochs 9'], '--flags must not change the budget'),
])
def test_mistakes_are_reported_before_the_training(more, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence.accuracy, 'main', None)  # would raise
    with pytest.raises(SystemExit, match='2'):
        evidence.main([*trained[0], *more])
    assert message in capsys.readouterr().err


def test_an_empty_folder_of_outliers_is_refused(trained, tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        ood.main([*trained[0], '--outlier-folders', str(tmp_path)])
    assert f'--outlier-folders must be folders of images, got {tmp_path}' in capsys.readouterr().err


def test_results_without_their_checkpoints_are_refused(trained, tmp_path, capsys):
    flags = [*trained[0], '--output', str(tmp_path / 'output')]
    with pytest.raises(SystemExit, match='2'):
        robustness.main(flags)
    assert 'results without their checkpoints: choose other --results' in capsys.readouterr().err


def test_class_names_are_in_the_order_of_the_labels(tmp_path):
    for name in ('9', '10', '8'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / name / '0.png')
    assert class_names(str(tmp_path)) == ['8', '9', '10']
