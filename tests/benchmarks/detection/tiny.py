"""A budget of two steps on scenes of two classes, too few scenes for all ten; and its run in each of two processes."""
import contextlib
import io
import os

import pytest
import torch

from benchmarks.detection import __main__ as detection
from benchmarks.detection import generate, recipes, run
from benchmarks.detection.generate import Scenes
from benchmarks.detection.recipes import Recipe

RECIPE = Recipe(
    'digits', 'test_resnet', scenes=Scenes(num_train=4, num_eval=3, size=64, num_objects=(2, 3), object_size=(16, 24)),
    epochs=1, batch_size=2, opt='adamw', lr=1e-3, warmup_steps=1, freeze_bn=False, flip=0.5, min_size=(64,),
    max_size=64, min_stride=4, pyramid_channels=8, hidden=8, regions=8, proposals=(20, 10))
_digits = generate._digits


def two_digits(split):
    return [entry for entry in _digits(split) if entry[0] in '01']


def one_of_two(rank, folder, port):
    """Run `python -m benchmarks.detection` as torchrun starts it, and save the weights that are evaluated.

    Then run it again, when the result exists, and with another budget, which each process refuses.
    """
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    recipes.RECIPES['tiny'] = RECIPE
    generate._digits = two_digits
    evaluate = run.evaluate

    def evaluate_and_save(detector, *args, **kwargs):
        torch.save(detector.state_dict(), os.path.join(folder, f'{rank}.pt'))
        return evaluate(detector, *args, **kwargs)

    run.evaluate = evaluate_and_save
    flags = [
        '--recipe', 'tiny', '--methods', 'scratch', '--seeds', '0', '--device', 'cpu',
        '--output', os.path.join(folder, 'output'), '--results', os.path.join(folder, 'results')]
    for _ in range(2):  # the second time, the result exists
        if os.path.exists(os.path.join(folder, 'results')):
            run.fine_tune = None
        assert detection.main(flags) == 0
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as told:
        detection.main([*flags, '--setting', 'tiny', '--epochs', '2'])
    assert 'scratch-0.json has epochs 1 instead of 2' in told.getvalue()
