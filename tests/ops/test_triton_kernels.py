"""The Triton kernels: their results on the CPU through Triton's interpreter, and that they compile for a GPU."""
import subprocess
import sys

import pytest
import torch

from timm_multimix import MultiMixLoss, functional

triton = pytest.importorskip('triton', reason='no Triton on this machine')


@pytest.mark.slow
def test_the_kernels_equal_the_written_equations():
    done = subprocess.run([sys.executable, '-m', 'tests.ops.interpreted'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith('all equal\n'), done.stderr


@pytest.mark.parametrize('strength', [1., 'auto'])  # 'auto' starts unmixed
def test_the_cpu_is_refused_without_the_interpreter(strength):
    with pytest.raises(ValueError, match="implementation='triton' needs logits of float32.* got torch.float32 on cpu"):
        MultiMixLoss(4, implementation='triton', strength=strength)(torch.randn(2, 3), torch.tensor([0, 1]))


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['ieee', 'tf32'])
@pytest.mark.parametrize('kernel', ['_logsumexp_kernel', '_softmax_kernel'])
def test_the_kernels_compile_without_a_gpu(kernel, precision):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from timm_multimix.ops import triton_kernels

    function = getattr(triton_kernels, kernel)
    pointers = ('logits', 'weights', 'logsumexp', 'scale', 'out')
    constants = dict(triton_kernels._BLOCKS, BLOCK_EXAMPLES=triton_kernels._MAX_EXAMPLES, PRECISION=precision)
    signature = {
        name: 'constexpr' if name in constants else '*fp32' if name in pointers else 'i32'
        for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in constants.items()}
    try:
        source = ASTSource(fn=function, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32))
    except (KeyError, TypeError) as error:
        pytest.skip(f'Triton {triton.__version__} names its arguments in another way ({error!r})')
    assert compiled.metadata.shared <= 227 << 10  # bytes of shared memory that a program may use on an H100
    assert ('mma' in compiled.asm['ptx']) == (precision == 'tf32')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('shape', [(1, 32, 1000, 10), (49, 128, 1000, 1000), (3, 300, 77, 999)])
def test_implementations_agree_on_a_gpu(shape):
    num_positions, batch_size, num_tuples, num_classes = shape
    torch.manual_seed(0)
    logits = torch.randn(batch_size, num_positions, num_classes, device='cuda', requires_grad=True)
    target = torch.randint(num_classes, (batch_size,), device='cuda')
    weights = functional.sample_dirichlet(num_tuples, batch_size, 0.1, positions=num_positions, device='cuda')
    losses, grads = {}, {}
    for name in ('triton', 'compiled', 'chunked', 'reference'):
        losses[name] = functional.mixed_cross_entropy(logits, target, weights, implementation=name)
        grads[name], = torch.autograd.grad(losses[name], logits)
    for name in ('triton', 'compiled', 'chunked'):
        torch.testing.assert_close(losses[name], losses['reference'], rtol=1e-5, atol=1e-6)
        bound = 1e-5 * grads['reference'].abs().max().item()
        torch.testing.assert_close(grads[name], grads['reference'], rtol=1e-4, atol=bound)
