"""The picture of a batch."""
import re
import sys

import pytest
import torch

from tests.support.models import build
from timm_multimix import MultiMix, MultiMixHead, show
from timm_multimix.picture import grid_of

GREYS = torch.tensor([0., 1.]).view(2, 1, 1, 1).expand(2, 3, 64, 32).contiguous()  # a black and a white image
LABELS = torch.tensor([2, 5])


@pytest.mark.parametrize('make', [
    lambda model: MultiMixHead(model, 'dense-multimix', alpha=1.),
    lambda model: MultiMixHead(model, 'multimix'),
    pytest.param(lambda model: _task(model, 'dense-multimix'), id='dense task'),
    pytest.param(lambda model: _task(model, 'multimix'), id='task'),
])
def test_the_picture_shows_weights_mixed_images_and_targets(make):
    for row in _rows(show(make(build('resnet').train()), GREYS, LABELS, num_tuples=2, class_names=['', '', 'owl'])):
        shares = dict(axis.get_title().rsplit(' ', 1) for axis in row[:2])
        owl, other = (float(shares[name].strip('%')) / 100. for name in ('owl', 'class 5'))
        assert owl + other == pytest.approx(1., abs=0.011)
        mixed = row[2].images[0].get_array()
        assert mixed.mean() == pytest.approx(other, abs=0.006)  # that of the white image
        bars = dict(zip((text.get_text() for text in row[3].get_yticklabels()), row[3].patches))
        assert bars['owl'].get_width() == pytest.approx(owl, abs=0.006)
        assert float(row[0].get_title().split()[-1].strip('%')) >= 50., 'the largest weight is first'


def test_the_share_of_examples_that_are_not_drawn_is_told():
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    axes = show(MultiMixHead(build('resnet'), 'multimix', alpha=100.), images, torch.arange(7), num_tuples=1).axes
    shares = [float(axis.get_title().split()[-1].strip('%')) for axis in axes[:4]]
    rest = re.fullmatch(r'mixed, rest (\d+)%', axes[4].get_title())
    assert float(rest[1]) + sum(shares) == pytest.approx(100., abs=2.5)


def test_nothing_but_the_file_changes(tmp_path):
    model = build('resnet').train()
    head = MultiMixHead(model, 'dense-multimix')
    state, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    show(head, GREYS[:, :, :32], LABELS, str(tmp_path / 'mixing.png'))
    assert (tmp_path / 'mixing.png').read_bytes().startswith(b'\x89PNG')
    assert torch.equal(torch.get_rng_state(), random) and all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('make, kwargs, message', [
    (lambda model: MultiMix(num_classes=7).attach(model), {}, 'a MultiMixTask or a MultiMixHead, got MultiMix'),
    (lambda model: model, {}, 'task must be a MultiMixTask or a MultiMixHead, got ResNet'),
    (MultiMixHead, dict(target=LABELS + 5), 'target must hold class indices in 0..6, got 10'),
    (MultiMixHead, dict(num_tuples=0), 'num_tuples must be >= 1, got 0'),
    (MultiMixHead, dict(path='/does/not/exist.png'), 'path /does/not/exist.png: '),
    (MultiMixHead, dict(path='picture.doc'), 'path picture.doc: '),
])
def test_mistakes_are_named(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        show(make(build('resnet')), **{**dict(images=GREYS, target=LABELS), **kwargs})


@pytest.mark.parametrize('size, grid', [((32, 128), (2, 8)), ((224, 224), (4, 4)), ((48, 32), (5, 3))])
def test_positions_form_the_grid_of_the_image(size, grid):
    assert grid_of(grid[0] * grid[1], *size) == grid


def test_without_matplotlib_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ValueError, match='show needs matplotlib'):
        show(MultiMixHead(build('resnet'), 'dense-multimix'), GREYS, LABELS)


def _task(model, mode):
    tasks = pytest.importorskip('timm_multimix.tasks.multimix', exc_type=ImportError)
    return tasks.MultiMixTask(model, mode=mode, verbose=False)


def _rows(figure):
    axes = figure.axes
    assert len(axes) == 8
    return axes[:4], axes[4:]
