"""MultiMix for timm: interpolation of a myriad of embeddings, beyond pairs and beyond the mini-batch.

Papers: arXiv 2206.14868 and arXiv 2311.05538 (Venkataramanan, Kijak, Amsaleg, Avrithis).
"""
from importlib import import_module
from typing import TYPE_CHECKING, List

from . import functional
from .checks import UsageError
from .drop_in import MultiMix
from .head import MultiMixHead
from .loss import MultiMixLoss
from .picture import show
from .settings import PAPER, Settings
from .version import __version__

if TYPE_CHECKING:
    from .tasks.mixupe import MixupETask
    from .tasks.multimix import MultiMixTask

__all__ = [
    'MixupETask', 'MultiMix', 'MultiMixHead', 'MultiMixLoss', 'MultiMixTask', 'PAPER', 'Settings', 'UsageError',
    'functional', 'show', '__version__',
]
_TASKS = dict(MixupETask='mixupe', MultiMixTask='multimix')  # loaded when used: they need a newer timm than the rest


def __getattr__(name: str) -> type:
    if name not in _TASKS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.tasks.{_TASKS[name]}', __name__), name)


def __dir__() -> List[str]:
    return sorted([*globals(), *_TASKS])
