"""How the loss is computed: one file per implementation, all with the same signature and the same result.

A new one is a file with a function `(logits, weight_blocks, params)`, see `reference`, and its name in IMPLEMENTATIONS.
The functions, `MultiMixLoss` and the command lines find it there.
"""
from .chunked import chunked_cross_entropy, compiled_cross_entropy
from .reference import LossParams, reference_cross_entropy
from .triton_impl import tiled_cross_entropy

IMPLEMENTATIONS = {
    'chunked': chunked_cross_entropy,
    'compiled': compiled_cross_entropy,
    'triton': tiled_cross_entropy,
    'reference': reference_cross_entropy,
}

__all__ = ['IMPLEMENTATIONS', 'LossParams', 'reference_cross_entropy']
