"""`python -m benchmarks.detection`: from a checkpoint to a result, made once; interrupted runs continue."""
import argparse
import fcntl
import importlib.util
import json
import os
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.detection import __main__ as detection
from benchmarks.detection import recipes, run, train
from benchmarks.detection.recipes import RECIPES
from benchmarks.suite import running
from benchmarks.suite.results import write_result
from tests.support.benchmarks import check_schema

pytest.importorskip('sklearn')
pytest.importorskip('torchmetrics')
pytest.importorskip('pycocotools')


@pytest.fixture
def suite(recipe, tmp_path, save_checkpoint):
    for seed in range(2):
        save_checkpoint(name=f'runs/plain-{seed}/last.pth.tar', seed=seed)

    def suite(*flags):
        return detection.main([
            '--recipe', recipe, '--checkpoint', str(tmp_path / 'runs' / '{method}-{seed}' / 'last.pth.tar'),
            '--output', str(tmp_path / 'output'), '--results', str(tmp_path / 'results'), '--device', 'cpu',
            '--methods', 'plain', '--seeds', '0', *flags])
    return suite


def read(tmp_path, name, setting='tiny'):
    return json.loads((tmp_path / 'results' / setting / f'{name}.json').read_text())


def test_two_steps_end_to_end(suite, tmp_path, tiny, monkeypatch):
    assert suite('--methods', 'scratch', 'plain', '--seeds', '0', '1') == 0
    assert sorted(os.listdir(tmp_path / 'results' / 'tiny')) == [
        'plain-0.json', 'plain-1.json', 'scratch-0.json', 'scratch-1.json']
    record = read(tmp_path, 'plain-1')
    check_schema(record)
    settings, result = record['settings'], record['result']
    assert record['benchmark'] == 'detection'
    assert (settings['recipe'], settings['method'], settings['seed']) == ('tiny', 'plain', 1)
    assert settings['budget'] == json.loads(json.dumps(asdict(tiny)))
    assert settings['checkpoint']['arch'] == 'test_resnet' and settings['checkpoint']['seed'] == 1
    assert read(tmp_path, 'scratch-1')['settings']['checkpoint'] is None
    assert all(0 <= result[metric] <= 100 for metric in ('ap', 'ap50', 'ap75'))
    assert result['images'] == dict(train=4, evaluate=3) and result['processes'] == 1
    (epoch,) = result['epochs']
    parts = ('loss_classifier', 'loss_box_reg', 'loss_objectness', 'loss_rpn_box_reg')
    assert epoch['loss'] == pytest.approx(sum(epoch[part] for part in parts), rel=1e-4) and epoch['loss'] > 0.5
    names = ('plain-0', 'plain-1', 'scratch-0')
    assert len({read(tmp_path, name)['result']['epochs'][0]['loss'] for name in names}) == 3

    monkeypatch.setattr(run, 'fine_tune', None)  # would raise
    assert suite('--methods', 'scratch', 'plain', '--seeds', '0', '1') == 0


def test_a_run_trains_the_checkpoints_weights_and_is_reproducible(suite, tmp_path):
    suite()
    state = torch.load(tmp_path / 'output' / 'tiny' / 'plain-0.pth', weights_only=True)['detector']
    with torch.serialization.safe_globals([argparse.Namespace]):
        start = torch.load(tmp_path / 'runs' / 'plain-0' / 'last.pth.tar', weights_only=True)['state_dict']
    name = 'layer2.0.conv1.weight'
    trained = state[f'backbone.features.{name}']
    assert not torch.equal(trained, start[name]) and torch.allclose(trained, start[name], atol=0.01)  # near its start
    suite('--output', str(tmp_path / 'other'), '--results', str(tmp_path / 'other'))
    again = torch.load(tmp_path / 'other' / 'tiny' / 'plain-0.pth', weights_only=True)['detector']
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(suite, tmp_path, monkeypatch):
    flags = ('--setting', 'two', '--epochs', '2')
    suite(*flags)
    whole = torch.load(tmp_path / 'output' / 'two' / 'plain-0.pth', weights_only=True)['detector']
    epochs, train_epoch = [], train._train_epoch

    def interrupted(*args):
        epochs.append(args[-1])
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(train, '_train_epoch', interrupted)
    other = ('--output', str(tmp_path / 'other'), '--results', str(tmp_path / 'other'))
    with pytest.raises(KeyboardInterrupt):
        suite(*flags, *other)
    assert not (tmp_path / 'other' / 'two' / 'plain-0.json').exists()
    assert suite(*flags, *other) == 0
    assert epochs == [0, 1, 1]
    resumed = torch.load(tmp_path / 'other' / 'two' / 'plain-0.pth', weights_only=True)['detector']
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def refused(suite, capsys, *flags):
    with pytest.raises(SystemExit) as exit_info:
        suite(*flags)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def test_results_and_states_of_other_settings_are_refused(suite, save_checkpoint, capsys, tmp_path):
    suite()
    save_checkpoint(name='runs/plain-0/last.pth.tar', seed=7)
    assert 'plain-0.json has another checkpoint: remove it' in refused(suite, capsys)
    (tmp_path / 'results' / 'tiny' / 'plain-0.json').write_text('{"settings": ')
    assert 'plain-0.json is not a result' in refused(suite, capsys)
    os.remove(tmp_path / 'results' / 'tiny' / 'plain-0.json')
    assert 'plain-0.pth is not the state of this run (its settings differ)' in refused(suite, capsys)


def test_a_setting_has_one_budget(suite, capsys, tmp_path, tiny, monkeypatch):
    path = tmp_path / 'results' / 'big' / 'other-7.json'
    budget = json.loads(json.dumps(asdict(replace(tiny, epochs=20))))
    write_result(str(path), 'detection', dict(method='other', seed=7, budget=budget), dict(ap=1.))
    ran = []
    monkeypatch.setattr(detection, 'run', lambda job, *args: ran.append(job.recipe.epochs))
    monkeypatch.setattr(detection, 'prepare_data', lambda *args: ran.append('data') or str(tmp_path))
    monkeypatch.setattr(detection, 'read_data', lambda *args: None)
    message = f'--setting big must have results of one budget, {path} has '
    error = refused(suite, capsys, '--setting', 'big', '--epochs', '40')
    assert message + 'epochs 20 instead of 40: remove it' in error
    error = refused(suite, capsys, '--setting', 'big', '--epochs', '20', '--amp')
    assert message + 'amp False instead of True: remove it' in error
    assert not ran
    assert suite('--setting', 'big', '--epochs', '20') == suite('--setting', 'other', '--epochs', '40') == 0
    assert ran == ['data', 20, 'data', 40]
    for content in ('[1]', '{"settings": 1}', '{"settings": {"method"'):
        path.write_text(content)
        assert 'other-7.json is not a result' in refused(suite, capsys, '--setting', 'big', '--epochs', '20')


def test_the_time_left_is_logged_once_it_is_known(suite, monkeypatch, caplog):
    """The first run has a result already, the second takes 50 minutes, another process has the third."""
    clock, runs = [0.], [(0., 'a.json'), (3000., 'b.json'), (9000., None), (0., 'd.json')]

    def run_one(*args):
        seconds, path = runs.pop(0)
        clock[0] += seconds
        return path

    monkeypatch.setattr(detection, 'run', run_one)
    monkeypatch.setattr(running, 'time', SimpleNamespace(time=lambda: clock[0]))
    assert suite('--methods', 'scratch', '--seeds', '0', '1', '2', '3') == 0
    assert caplog.messages == [
        '[1/4] scratch 0: a.json', '[2/4] scratch 1: b.json; about 100 min left',
        '[3/4] scratch 2: running in another process; about 50 min left', '[4/4] scratch 3: d.json; about 0 min left']


def test_mistakes_are_reported_before_anything_runs(suite, capsys, tmp_path, save_checkpoint, monkeypatch):
    monkeypatch.setattr(run, 'fine_tune', None)
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'foreign.pth')
    other = save_checkpoint('test_efficientnet', name='other.pth.tar')
    for flags, message in (
            (('--checkpoint', str(tmp_path / 'foreign.pth')), 'holds arch and state_dict, this one holds weight'),
            (('--checkpoint', other), 'the checkpoint is of test_efficientnet, not of test_resnet'),
            (('--seeds', '0', '5'), 'plain-5/last.pth.tar: no such file'),
            (('--methods', 'plain', 'cutmix', '--checkpoint', other), '--checkpoint must contain {method}'),
            (('--seeds', '0', '1', '--checkpoint', other),
             f'--checkpoint must contain {{seed}} for several seeds, got {other}'),
            (('--methods', 'plain', '--checkpoint', ''), '--checkpoint must give the checkpoints of plain'),
            (('--epochs', '2'), '--setting must name a folder of results for flags that change the recipe (--'),
            (('--epochs', '0', '--setting', 'a'), '--epochs must be positive, got 0'),
            (('--detector', 'yolo'), 'invalid choice'),
            (('--workers', '-1'), '--workers must be 0 or more, got -1'),
            (('--seeds', '0', '-3'), '--seeds must be 0 or more, got -3'),
            (('--device', 'no_such'), '--device no_such: '),
    ):
        assert message in refused(suite, capsys, *flags)
    assert not (tmp_path / 'results').exists()


def test_a_batch_larger_than_the_training_set_is_refused(suite, capsys):
    assert '--batch-size 99 is more than the 4 training images' in refused(
        suite, capsys, '--batch-size', '99', '--setting', 'a')


def test_a_missing_package_is_named(suite, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *args: None if name == 'pycocotools' else find_spec(name, *args))
    assert "pycocotools must be installed: pip install -e '.[bench]'" in refused(suite, capsys)


def test_missing_data_is_refused(suite, capsys, monkeypatch, tiny, tmp_path):
    for data, message in (('voc', 'no set 2007:trainval of VOC'), ('coco', 'is not a file of COCO instances')):
        monkeypatch.setitem(recipes.RECIPES, 'tiny', replace(tiny, data=data, scenes=None))
        assert '--data-dir must be given' in refused(suite, capsys)
        assert message in refused(suite, capsys, '--data-dir', str(tmp_path))


@pytest.mark.parametrize('data', ['voc', 'coco'])
def test_voc_and_coco_end_to_end(data, suite, monkeypatch, tiny, tmp_path, voc_folder, coco_folder):
    full = RECIPES['voc0712' if data == 'voc' else 'coco']
    monkeypatch.setitem(recipes.RECIPES, 'tiny', replace(
        tiny, data=data, scenes=None, train_sets=full.train_sets, eval_sets=full.eval_sets, freeze_bn=True))
    assert suite('--data-dir', voc_folder if data == 'voc' else coco_folder) == 0
    result = read(tmp_path, 'plain-0')['result']
    assert result['images'] == (dict(train=2, evaluate=2) if data == 'voc' else dict(train=2, evaluate=5))
    assert result['ap'] >= 0.


def test_a_run_of_another_process_is_left_alone(suite, tmp_path):
    folder = tmp_path / 'output' / 'tiny'
    folder.mkdir(parents=True)
    with open(folder / 'plain-0.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert suite() == 0
    assert not (tmp_path / 'results').exists()


def test_a_loss_that_is_not_finite_stops_the_run(suite, tmp_path):
    with pytest.raises(RuntimeError, match='the loss is not finite at step 1 of epoch 0: loss nan'):
        suite('--lr', '1e30', '--setting', 'a')
    assert not (tmp_path / 'results').exists()


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_are_consistent_and_their_schedules_warm_up_and_decay(name):
    recipe = RECIPES[name]
    assert (recipe.scenes is not None) == (recipe.data in ('digits', 'images'))
    assert all('2007' in entry or '2012' in entry or '2017' in entry for entry in recipe.train_sets)
    schedule = train.lr_factor(recipe, 1000)
    factors = [schedule(step) for step in range(1000)]
    assert factors[0] < 0.1 and max(factors) == 1. and 0 < factors[-1] < 1e-3
