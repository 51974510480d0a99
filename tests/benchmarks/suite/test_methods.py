"""A method of the benchmarks is one entry, from which everything else follows."""
import argparse
import re

import pytest
import torch

from benchmarks import accuracy, step_time
from benchmarks.report import figures
from benchmarks.report.metrics import TABLES, best_other, verdicts
from benchmarks.suite import methods
from benchmarks.suite.budget import budget
from benchmarks.suite.methods import KNOBS, METHODS, Method
from timm_multimix import MultiMixTask, Settings


def stepper(*names, **changes):
    args = dict(seed=0, device='cpu', num_classes=5, channels_last=False, amp=False, tuples=None, methods=names)
    return step_time.Stepper('test_resnet', 4, 32, argparse.Namespace(**{**args, **changes}))


@pytest.fixture(params=[False, True])
def new(request, monkeypatch):
    """A method that is declared nowhere else."""
    entry = Method(
        'Slow MultiMix', '--smoothing 0.2 --mixup-mode multimix --multimix-alpha 7 --multimix-teacher-decay 0.875',
        '#123456', 'X', ours=request.param)
    monkeypatch.setitem(methods.METHODS, 'slow', entry)
    return entry


def test_a_new_method_is_one_entry(new, tmp_path, capsys):
    assert budget('digits', 'slow', 3).endswith(f' {new.flags} --seed 3')
    with pytest.raises(SystemExit, match='2'):  # which comes after the check of the methods' names
        accuracy.main(['--recipe', 'digits', '--data-dir', str(tmp_path / 'nowhere'), '--methods', 'slow'])
    assert 'must have the folder' in capsys.readouterr().err

    timed = stepper('plain', 'slow')
    task = timed.methods['slow'].task
    assert (task.loss.alpha, task.label_smoothing, task.teacher.ema.decay) == (7., 0.2, 0.875)
    timed.step('slow', timed.images)

    assert figures.style('slow')['color'] == '#123456' and figures.style('slow')['marker'] == 'X'
    runs = {name: [dict(settings=dict(seed=0), result=dict(top1=top1, loss=1.))]
            for name, top1 in (('plain', 70.), ('slow', 80.))}
    drawn = figures.accuracy(runs).axes[0]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ['plain', 'Slow MultiMix']
    assert drawn.lines[-1].get_color() == '#123456'
    top1 = TABLES['Accuracy: held-out images'][0]
    assert best_other(top1, dict(accuracy=runs)) == ('plain' if new.ours else 'slow')
    assert any(row[1] == 'Slow MultiMix' for row in verdicts(dict(accuracy=runs), 10.)) == new.ours


@pytest.mark.parametrize('name', METHODS)
def test_a_method_is_timed_as_it_is_trained(name):
    timed = stepper(name).methods[name]
    teacher = 'distilled' in name
    assert timed.two_views == teacher  # as in training, where two views are the default
    if isinstance(timed.task, MultiMixTask):
        assert (timed.task.teacher is not None) == teacher
        assert not teacher or (timed.task.teacher.ema.decay, timed.task.settings.single_view) == (0.99, False)
        mixes = timed.task.settings.mixes_images
        assert mixes == ('mixup' in name.split('+')[0] or name == 'auto') - (name == 'manifold-mixup')
    assert (timed.mix is not None) == (name in ('mixup', 'cutmix', 'mixup-cutmix', 'mixup-half'))


@pytest.mark.parametrize('name, tuples', [('multimix', 9), ('manifold-mixup', 128), ('multimix-tuples-64', 64)])
def test_a_methods_own_number_of_tuples_takes_precedence(name, tuples):
    assert stepper(name, tuples=9).methods[name].task.settings.num_tuples == tuples


def test_the_number_of_tuples_defaults_to_the_librarys():
    task = stepper('dense-multimix').methods['dense-multimix'].task
    positions = task.trainable_module.head.dense.example_positions
    assert task.settings.num_tuples == Settings().tuples(positions)


def test_labels_are_readable_and_unique():
    entries = {**METHODS, **KNOBS}
    assert len({entry.label for entry in entries.values()}) == len(entries)
    for name, entry in METHODS.items():
        assert not re.search('[a-z]-[a-z]', entry.label.replace('self-distilled', '')), entry.label
        assert entry.ours == ('multimix' in name or name == 'auto'), name
    assert methods.find('scratch').label == 'scratch'


def test_timed_images_do_not_depend_on_the_method():
    assert torch.equal(stepper('plain').images, stepper('multimix').images)
