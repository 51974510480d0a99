"""One thread per process: more do not help small tensors, and the threads of parallel processes would compete."""
import os
import shutil

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from PIL import Image  # noqa: E402

pytest.register_assert_rewrite('tests.support')  # failures there show their values, as in tests
from tests.support.command_line import SCRIPT  # noqa: E402

torch.set_num_threads(1)

CLASSES = ('cat', 'dog', 'owl')


@pytest.fixture
def process_group():
    """A group of this process alone, in which what needs one can run."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    """3 classes, 8 training and 4 validation images of 32 x 32 each; every class has its own colour."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('validation', 4)):
        for index, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
                pixels[..., index] += 150
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


@pytest.fixture
def data(image_folder, tmp_path):
    """A copy of the images, to add to or to spoil."""
    return shutil.copytree(image_folder, tmp_path / 'data')


@pytest.fixture
def launched(image_folder, tmp_path):
    """Arguments of the launcher for a short run of a stock script, as a list to add to."""
    return [
        SCRIPT, '--data-dir', str(image_folder), '--model', 'test_resnet', '--num-classes', '3',
        '--input-size', '3', '32', '32', '--record', str(tmp_path / 'log.json')]
