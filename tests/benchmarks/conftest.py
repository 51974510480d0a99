"""A recipe that trains in seconds, and its runs."""
import pytest

import train_timm
from benchmarks import recipes, train
from benchmarks.recipes import Recipe

TINY = Recipe(
    '--model test_resnet --num-classes 2 --input-size 3 32 32 --epochs 2 --warmup-epochs 0 --batch-size 6 --lr 0.01 '
    '--workers 0 --device cpu', 6, 3, eval_split='validation', unseen_classes=('owl',))


@pytest.fixture
def tiny(monkeypatch):
    """The recipe 'tiny'; its runs are in this process, which is faster."""
    monkeypatch.setitem(recipes.RECIPES, 'tiny', TINY)
    monkeypatch.setattr(train, 'launch', lambda flags, args: train_timm.main(flags))
    return TINY


@pytest.fixture(scope='session')
def trained(image_folder, tmp_path_factory):
    """The folder of two runs, plain-0 and dense-multimix-0, in 'tiny'; their images are in 'data/tiny'."""
    folder = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, 'tiny', TINY)
        patch.setattr(train, 'launch', lambda flags, args: train_timm.main(flags))
        assert train.main([
            '--recipe', 'tiny', '--data-dir', str(image_folder), '--output', str(folder), '--methods', 'plain',
            'dense-multimix']) == 0
    return folder
