"""Check the kernels, run by Triton's interpreter, against the written equations; started by test_triton_kernels.py."""
import os

os.environ['TRITON_INTERPRET'] = '1'

import itertools  # noqa: E402

import torch  # noqa: E402

from tests.support import naive  # noqa: E402
from tests.support.tensors import random_target  # noqa: E402
from timm_multimix import functional  # noqa: E402
from timm_multimix.ops import triton_kernels  # noqa: E402

# r, b, n, c: below, at and beyond the edges of the tiles, which are 64 x 64 with 16 to 64 examples
SHAPES = [(1, 1, 1, 1), (2, 5, 11, 3), (1, 16, 65, 2), (2, 17, 3, 66)]
LARGE = [((1, 70, 130, 65), 'hard', False), ((1, 64, 65, 64), 'multi-hot', True), ((2, 130, 7, 65), 'soft', False)]


def loss_and_grad(logits, *args, **kwargs):
    logits = logits.detach().requires_grad_()
    loss = functional.mixed_cross_entropy(logits, *args, **kwargs)
    return loss.detach(), torch.autograd.grad(3. * loss, logits)[0]


def naive_loss_and_grad(logits, target, lam, label_smoothing):
    logits = logits.double().requires_grad_()
    identity = torch.eye(logits.shape[-1], dtype=torch.float64)
    bias = torch.zeros(logits.shape[-1], dtype=torch.float64)
    loss = naive.multimix_loss(logits, identity, bias, target, lam.double(), label_smoothing)
    return loss.detach(), torch.autograd.grad(3. * loss, logits)[0]


def check(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and torch.isfinite(a).all()
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=3e-7)


def main():
    torch.manual_seed(0)
    for (r, b, n, c), kind in itertools.product(SHAPES, ('hard', 'soft', 'multi-hot')):
        logits, target = 3. * torch.randn(b, r, c), random_target(kind, b, c)  # positions second: awkward strides
        lam = functional.sample_dirichlet(n, b, 1., positions=r)
        check(
            loss_and_grad(logits, target, lam, label_smoothing=0.1, implementation='triton'),
            naive_loss_and_grad(logits, target, lam, 0.1))
    for (r, b, n, c), kind, distilled in LARGE:  # against the reference in float64
        logits, target, teacher = 3. * torch.randn(b, r, c), random_target(kind, b, c), torch.randn(b, r, c)
        lam = functional.sample_dirichlet(n, b, 1., positions=r)
        expected = loss_and_grad(
            logits.double(), target, lam.double(), implementation='reference', gamma=0.3,
            teacher_logits=teacher.double() if distilled else None)
        check(loss_and_grad(
            logits, target, lam.split(50, dim=1), implementation='triton', gamma=0.3,
            teacher_logits=teacher if distilled else None), expected)
    logits = torch.tensor([[1e4, -1e4, 0.], [-1e4, 1e4, 0.]])
    loss, grad = loss_and_grad(logits, torch.tensor([0, 0]), torch.eye(2), implementation='triton')
    assert loss == 1e4 and torch.isfinite(grad).all()
    lse = triton_kernels.mixed_logsumexp(torch.full((1, 2, 3), float('nan')), torch.full((1, 4, 2), 0.5))
    assert lse.isnan().all()  # the maximum does not hide a NaN
    print('all equal')


if __name__ == '__main__':
    main()
