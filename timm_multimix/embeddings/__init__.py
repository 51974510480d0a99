"""Dense logits and embeddings of timm's models. Only this folder knows how the models differ.

Each spatial position becomes a separate image of one position and is passed to `model.forward_head`, so that all layers
of the head, whatever they are, work position by position. The differences between models are found by running them once
on a small example, never from their names.
"""
from .dense import DenseEmbeddings
from .split import SplitForward, check_classifier

__all__ = ['DenseEmbeddings', 'SplitForward', 'check_classifier']
