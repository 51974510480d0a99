"""MultiMix for timm: interpolation of a myriad of embeddings, beyond pairs and beyond the mini-batch.

Papers: arXiv 2206.14868 and arXiv 2311.05538 (Venkataramanan, Kijak, Amsaleg, Avrithis).
"""
from . import functional
from .head import MultiMixHead
from .loss import PAPER, MultiMixLoss
from .mixup import MultiMix
from .mixupe_task import MixupETask
from .task import MultiMixTask
from .version import __version__

__all__ = [
    'MixupETask',
    'MultiMix',
    'MultiMixHead',
    'MultiMixLoss',
    'MultiMixTask',
    'PAPER',
    'functional',
    '__version__',
]
