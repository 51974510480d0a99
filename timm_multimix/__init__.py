"""MultiMix for timm: interpolation of a myriad of embeddings, beyond pairs and beyond the mini-batch.

Papers: arXiv 2206.14868 and arXiv 2311.05538 (Venkataramanan, Kijak, Amsaleg, Avrithis).
"""
from . import functional
from .checks import UsageError
from .drop_in import MultiMix
from .head import MultiMixHead
from .loss import MultiMixLoss
from .settings import PAPER, Settings
from .tasks.mixupe import MixupETask
from .tasks.multimix import MultiMixTask
from .version import __version__

__all__ = [
    'MixupETask', 'MultiMix', 'MultiMixHead', 'MultiMixLoss', 'MultiMixTask', 'PAPER', 'Settings', 'UsageError',
    'functional', '__version__',
]
