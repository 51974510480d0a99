"""Finite losses even if the difference of two logits overflows float32, whose range bfloat16 shares."""
import torch

LIMIT = 1e30  # the largest loss; a sum of 1e8 of them still fits into float32
SUM_SCALE = 2. ** -32  # so that sums of 2^32 logits fit too; a power of two, so that nothing is rounded


def saturate(x: torch.Tensor) -> torch.Tensor:
    """Clip `x` to ±1e30, but not its gradient; NaN stays NaN."""
    return _Saturate.apply(x)


class _Saturate(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        return x.clamp(-LIMIT, LIMIT)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output
