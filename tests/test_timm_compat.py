"""What is private in timm and torch is where _timm_compat expects it; an older timm is refused where it must be."""
import importlib
import os
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import auto_augment, create_dataset
from timm.scheduler.plateau_lr import PlateauLRScheduler
from timm.utils import CheckpointSaver, ModelEmaV3
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import timm_multimix
from timm_multimix import _timm_compat


def test_gammas_are_drawn_from_the_generator():
    alpha = torch.full((1000,), 2.)
    draws = [_timm_compat.standard_gamma(alpha, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*draws) and draws[0].mean() == pytest.approx(2., abs=0.2)


def test_torch_says_whether_ddp_is_in_its_forward(monkeypatch):
    assert _timm_compat.in_ddp_forward() is False
    monkeypatch.delattr(DistributedDataParallel, '_get_active_ddp_module')
    assert _timm_compat.in_ddp_forward() is True, 'the check is left out if torch no longer says so'


def test_averages_of_bfloat16_have_a_generator():
    assert isinstance(_timm_compat.rounding_generator(ModelEmaV3(torch.nn.Linear(1, 1))), torch.Generator)
    assert _timm_compat.rounding_generator(object()) is None


def test_the_dataset_of_a_loader_can_be_replaced():
    loader = DataLoader([1, 2])
    _timm_compat.set_dataset(loader, [3, 4])
    assert torch.cat(list(loader)).tolist() == [3, 4]


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_posterize_to_black(mode, monkeypatch):
    """timm's own function would end the run on Pillow 13."""
    for name in ('Posterize', 'PosterizeIncreasing', 'PosterizeOriginal'):
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, auto_augment.NAME_TO_OP[name])
    _timm_compat.allow_posterize_to_black()
    image = Image.new(mode, (4, 4), 'white')
    assert np.asarray(auto_augment.AugmentOp('PosterizeIncreasing', prob=1., magnitude=10)(image)).max() == 0
    assert np.asarray(_timm_compat.posterize(image, 1)).max() == 128
    assert _timm_compat.posterize(image, 8) is image


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')
def test_the_state_of_plateau_is_read_and_set():
    def scheduler():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        return PlateauLRScheduler(optimizer, patience_t=3)

    first, second = scheduler(), scheduler()
    for epoch, metric in enumerate([3., 1., 2.], start=1):
        first.step(epoch, metric)
    state = _timm_compat.plateau_state(first)
    assert state['num_bad_epochs'] == 2 and state['best'] == 3.
    without_noise = state.pop('without_noise')
    _timm_compat.set_plateau_state(second, state, without_noise)
    assert _timm_compat.plateau_state(second) == dict(state, without_noise=without_noise)


def test_images_of_a_folder_can_be_left_out(image_folder):
    dataset = create_dataset('', root=str(image_folder), split='train')
    reader = _timm_compat.source_of(dataset)
    paths = _timm_compat.image_paths(reader)
    assert len(paths) == 24 and paths[0].startswith('cat' + os.sep)
    assert _timm_compat.labels_of(dataset) == [0] * 8 + [1] * 8 + [2] * 8
    _timm_compat.keep_images(reader, list(range(8, 24)), keep_classes=False)
    assert _timm_compat.class_indices(dataset) == {'dog': 0, 'owl': 1}
    assert [label for _, label in dataset] == [0] * 8 + [1] * 8


def test_timm_calls_our_way_to_write_files(tmp_path):
    """Each of the three methods, or a kill could leave a damaged file."""
    def watched(name):
        def method(self, *args):
            calls.append(name)
            getattr(_timm_compat.AtomicFiles, name)(self, *args)
        assert callable(getattr(CheckpointSaver, name))
        return method

    calls, names = [], ('_save', '_replace', '_duplicate')
    saver_class = type('Saver', (_timm_compat.AtomicFiles,), {name: watched(name) for name in names})
    model = timm.create_model('test_resnet', num_classes=3)
    saver = saver_class(
        model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, 1.)
    assert calls == ['_save', '_replace', '_duplicate', '_duplicate']
    assert sorted(os.listdir(tmp_path)) == ['checkpoint-0.pth.tar', 'last.pth.tar', 'model_best.pth.tar']


@pytest.mark.parametrize('package', ['timm_multimix.tasks', 'timm_multimix.training'])
def test_tasks_and_scripts_say_which_timm_they_need(package, monkeypatch):
    monkeypatch.setattr(timm, '__version__', '1.0.30')
    for name in [name for name in sys.modules if name.startswith(('timm_multimix.tasks', package))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ('tasks', 'training'):
        monkeypatch.delattr(timm_multimix, name, raising=False)
    with pytest.raises(ImportError, match='need timm 1.0.31 or newer, got timm 1.0.30; MultiMixLoss'):
        importlib.import_module(package)


def test_the_package_lists_its_tasks_and_refuses_other_names():
    assert {*timm_multimix.__all__} <= {*dir(timm_multimix)}
    assert timm_multimix.MultiMixTask.__module__ == 'timm_multimix.tasks.multimix'
    with pytest.raises(AttributeError, match="module 'timm_multimix' has no attribute 'MultiMixer'"):
        timm_multimix.MultiMixer  # noqa: B018
