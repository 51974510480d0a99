"""Triton kernels over tiles of the mixed logits, which never leave the chip; imported only if they are used.

Both kernels compute tiles ΛS `[tuples, classes]` as they need them. The first loops over the classes for a block of
tuples and keeps the running maximum and sum of the logsumexp. The second loops over the tuples for a block of classes
and sums up Λᵀ softmax(ΛS), so that one program writes each element of the result, always in the same order.
"""
import os

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'  # on the CPU, for tests
_BLOCKS = dict(BLOCK_TUPLES=64, BLOCK_CLASSES=64)
_MIN_EXAMPLES, _MAX_EXAMPLES = 16, 64  # per tile: the least for a matrix unit, the most that fits with the others


@triton.jit
def _mixed_tile(
        logits, weights, rows, columns, num_tuples, batch_size, num_classes,
        logits_example, logits_class, weights_tuple, weights_example,
        BLOCK_TUPLES: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_EXAMPLES: tl.constexpr,
        PRECISION: tl.constexpr,
):
    mixed = tl.zeros([BLOCK_TUPLES, BLOCK_CLASSES], dtype=tl.float32)
    for first in range(0, batch_size, BLOCK_EXAMPLES):
        examples = (first + tl.arange(0, BLOCK_EXAMPLES)).to(tl.int64)  # times a stride they may exceed 2^31
        lam = tl.load(
            weights + rows[:, None] * weights_tuple + examples[None, :] * weights_example,
            mask=(rows < num_tuples)[:, None] & (examples < batch_size)[None, :], other=0.)
        tile = tl.load(
            logits + examples[:, None] * logits_example + columns[None, :] * logits_class,
            mask=(examples < batch_size)[:, None] & (columns < num_classes)[None, :], other=0.)
        mixed = tl.dot(lam, tile, mixed, input_precision=PRECISION)
    return tl.where((columns < num_classes)[None, :], mixed, float('-inf'))


@triton.jit
def _logsumexp_kernel(
        logits, weights, logsumexp, num_tuples, batch_size, num_classes,
        logits_position, logits_example, logits_class, weights_position, weights_tuple, weights_example,
        BLOCK_TUPLES: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_EXAMPLES: tl.constexpr,
        PRECISION: tl.constexpr,
):
    position = tl.program_id(1).to(tl.int64)
    logits += position * logits_position
    weights += position * weights_position
    rows = tl.program_id(0) * BLOCK_TUPLES + tl.arange(0, BLOCK_TUPLES)
    peak = tl.full([BLOCK_TUPLES], float('-inf'), dtype=tl.float32)
    total = tl.zeros([BLOCK_TUPLES], dtype=tl.float32)
    for first in range(0, num_classes, BLOCK_CLASSES):
        mixed = _mixed_tile(
            logits, weights, rows, first + tl.arange(0, BLOCK_CLASSES), num_tuples, batch_size, num_classes,
            logits_example, logits_class, weights_tuple, weights_example,
            BLOCK_TUPLES, BLOCK_CLASSES, BLOCK_EXAMPLES, PRECISION)
        higher = tl.maximum(peak, tl.max(mixed, axis=1))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(mixed - higher[:, None]), axis=1)
        peak = higher
    tl.store(logsumexp + position * num_tuples + rows, peak + tl.log(total), mask=rows < num_tuples)


@triton.jit
def _softmax_kernel(
        logits, weights, logsumexp, scale, out, num_tuples, batch_size, num_classes,
        logits_position, logits_example, logits_class, weights_position, weights_tuple, weights_example,
        out_position, out_example, out_class,
        BLOCK_TUPLES: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_EXAMPLES: tl.constexpr,
        PRECISION: tl.constexpr,
):
    position = tl.program_id(2).to(tl.int64)
    logits += position * logits_position
    weights += position * weights_position
    columns = tl.program_id(0) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
    examples = (tl.program_id(1) * BLOCK_EXAMPLES + tl.arange(0, BLOCK_EXAMPLES)).to(tl.int64)
    total = tl.zeros([BLOCK_EXAMPLES, BLOCK_CLASSES], dtype=tl.float32)
    for first in range(0, num_tuples, BLOCK_TUPLES):
        rows = first + tl.arange(0, BLOCK_TUPLES)
        mixed = _mixed_tile(
            logits, weights, rows, columns, num_tuples, batch_size, num_classes,
            logits_example, logits_class, weights_tuple, weights_example,
            BLOCK_TUPLES, BLOCK_CLASSES, BLOCK_EXAMPLES, PRECISION)
        inside = rows < num_tuples
        # rows beyond the last have lse 0 and scale 0
        lse = tl.load(logsumexp + position * num_tuples + rows, mask=inside, other=0.)
        factor = tl.load(scale + position * num_tuples + rows, mask=inside, other=0.)
        softmax = tl.exp(mixed - lse[:, None]) * factor[:, None]
        lam = tl.load(
            weights + rows[None, :] * weights_tuple + examples[:, None] * weights_example,
            mask=inside[None, :] & (examples < batch_size)[:, None], other=0.)
        total = tl.dot(lam, softmax, total, input_precision=PRECISION)
    target = out + position * out_position + examples[:, None] * out_example + columns[None, :] * out_class
    mask = (examples < batch_size)[:, None] & (columns < num_classes)[None, :]
    tl.store(target, tl.load(target, mask=mask, other=0.) + total, mask=mask)


def mixed_logsumexp(logits: torch.Tensor, weights: torch.Tensor, precision: str = 'ieee') -> torch.Tensor:
    """Return the logsumexp over the classes of every mixed row, `[r, n]` float32.

    Args:
        logits: S, `[r, b, c]` float32, any strides.
        weights: Λ, `[r, n, b]` float32, any strides.
        precision: That of matrix products: 'ieee' for float32, 'tf32x3' close to it, 'tf32' with 10-bit mantissas.
    """
    num_positions, num_tuples, batch_size = weights.shape
    logsumexp = logits.new_empty(num_positions, num_tuples)
    grid = (triton.cdiv(num_tuples, _BLOCKS['BLOCK_TUPLES']), num_positions)
    _logsumexp_kernel[grid](
        logits, weights, logsumexp, num_tuples, batch_size, logits.shape[-1], *logits.stride(), *weights.stride(),
        **_BLOCKS, BLOCK_EXAMPLES=_example_block(batch_size), PRECISION=precision)
    return logsumexp


def add_softmax(
        logits: torch.Tensor, weights: torch.Tensor, logsumexp: torch.Tensor, scale: torch.Tensor, out: torch.Tensor,
        precision: str = 'ieee',
) -> None:
    """Add Λᵀ diag(scale) softmax(ΛS) to `out` `[r, b, c]`; `logsumexp` and `scale` are `[r, n]`, contiguous."""
    num_positions, num_tuples, batch_size = weights.shape
    num_classes, block_examples = logits.shape[-1], _example_block(batch_size)
    grid = (triton.cdiv(num_classes, _BLOCKS['BLOCK_CLASSES']), triton.cdiv(batch_size, block_examples), num_positions)
    _softmax_kernel[grid](
        logits, weights, logsumexp, scale, out, num_tuples, batch_size, num_classes,
        *logits.stride(), *weights.stride(), *out.stride(),
        **_BLOCKS, BLOCK_EXAMPLES=block_examples, PRECISION=precision)


def _example_block(batch_size: int) -> int:
    return min(max(triton.next_power_of_2(batch_size), _MIN_EXAMPLES), _MAX_EXAMPLES)
