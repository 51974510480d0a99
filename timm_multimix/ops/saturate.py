"""Values that stay finite where the difference of two logits does not: bfloat16 has float32's range."""
import torch

LIMIT = 1e30  # what a loss is at most; sums of 1e8 of them still fit into float32
SUM_SCALE = 2. ** -32  # sums of so many logits fit too; a power of two, so it costs no digit


def saturate(x: torch.Tensor) -> torch.Tensor:
    """`x` kept within ±1e30, with the gradient of `x` itself; NaN stays NaN."""
    return _Saturate.apply(x)


class _Saturate(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        return x.clamp(-LIMIT, LIMIT)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output
