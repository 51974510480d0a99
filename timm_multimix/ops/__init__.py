"""Implementations of the loss: one file for each, all with the same signature and the same result.

To add one, write a file with a function `(logits, weight_blocks, params)`, see `reference`, and add it to
IMPLEMENTATIONS, where the functions, `MultiMixLoss` and the command lines find it.
"""
from .chunked import chunked_cross_entropy, compiled_cross_entropy
from .reference import LossParams, reference_cross_entropy, smooth_labels
from .triton_impl import tiled_cross_entropy

IMPLEMENTATIONS = {
    'chunked': chunked_cross_entropy,
    'compiled': compiled_cross_entropy,
    'triton': tiled_cross_entropy,
    'reference': reference_cross_entropy,
}

__all__ = ['IMPLEMENTATIONS', 'LossParams', 'reference_cross_entropy', 'smooth_labels']
