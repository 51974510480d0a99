"""Budgets that backbones are compared on: data, detector and schedule."""
import os
from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

from .generate import Scenes

SCRATCH = 'scratch'


@dataclass(frozen=True)
class Recipe:
    """Budget that all methods share.

    `batch_size` is the sum over all processes; sizes are in pixels. `data` is 'digits' or 'images' (both generated from
    `scenes`), 'voc' or 'coco'; `train_sets` and `eval_sets` are sets of VOC, or one split of COCO each. `proposals` is
    how many are kept per level, in training and in evaluation; `regions` of them are trained on per image. `min_stride`
    is the stride of the pyramid's finest level, for RetinaNet at least 8 if the backbone goes beyond it. RetinaNet does
    not use `hidden` and `regions`.
    """
    data: str
    model: str
    train_sets: Tuple[str, ...] = ('2007:trainval',)
    eval_sets: Tuple[str, ...] = ('2007:test',)
    scenes: Optional[Scenes] = None
    detector: str = 'fasterrcnn'
    epochs: int = 12
    batch_size: int = 16
    opt: str = 'sgd'
    lr: float = 0.02
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    amp: bool = False
    freeze_bn: bool = True
    flip: float = 0.5
    min_size: Tuple[int, ...] = (800,)
    max_size: int = 1333
    min_stride: int = 4
    pyramid_channels: int = 256
    hidden: int = 1024
    regions: int = 512
    proposals: Tuple[int, int] = (2000, 1000)


class Job(NamedTuple):
    """A run to do; `checkpoint` is None for random weights."""
    setting: str
    recipe: Recipe
    method: str
    seed: int
    checkpoint: Optional[str]
    use_ema: bool = False

    @property
    def name(self) -> str:
        return f'{self.method}-{self.seed}'

    def result_in(self, results: str) -> str:
        return os.path.join(results, self.setting, f'{self.name}.json')


_SMALL = dict(
    model='cifar_resnet14', epochs=8, batch_size=8, opt='adamw', lr=1e-3, weight_decay=0.05, warmup_steps=50,
    freeze_bn=False, min_size=(128,), max_size=128, min_stride=2, pyramid_channels=32, hidden=128, regions=64,
    proposals=(400, 100))

RECIPES = {
    'digits': Recipe('digits', scenes=Scenes(), flip=0., **_SMALL),
    # objects from CIFAR-10, without the 500 training images of each class that the backbones were trained on
    'cifar': Recipe('images', scenes=Scenes(skip=500, object_size=(24, 48)), **_SMALL),
    'voc0712': Recipe(
        'voc', 'resnet50', ('2007:trainval', '2012:trainval'), min_size=(480, 576, 688, 800), max_size=1333,
        epochs=12, amp=True),
    'coco': Recipe('coco', 'resnet50', ('train2017',), ('val2017',), amp=True),
}
"""The budgets by name: two for a CPU, on generated scenes, and two for GPUs."""
