"""A drop-in replacement for `timm.data.Mixup`."""
from .mixer import MultiMix

__all__ = ['MultiMix']
