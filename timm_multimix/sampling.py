"""Sampling of interpolation vectors. v2 = arXiv 2311.05538."""
import math
from typing import Optional, Union

import numpy as np
import torch

from .checks import Alpha, UsageError, check_alpha, check_choice, check_integer, check_number, not_compiled

CONCENTRATIONS = ('example', 'total')


def check_length(length: Optional[int], num_examples: int) -> None:
    if length is not None and length > num_examples:
        raise UsageError(f'length must be at most the batch size ({num_examples}), got {length}')


@not_compiled('numpy draws the weights of the tuples')
def sample_dirichlet(
        num_tuples: int,
        num_examples: int,
        alpha: Union[Alpha, torch.Tensor],
        *,
        concentration: str = 'example',
        length: Optional[int] = None,
        positions: Optional[int] = None,
        device: Optional[Union[str, torch.device]] = None,
        dtype: torch.dtype = torch.float32,
        generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Sample interpolation vectors λ_k ~ Dir(α·1_m), the rows of Λ (v2, section 3.2).

    Seeded by `torch.manual_seed`, or by `generator`. It uses logarithms of gamma variates, so that rows sum to 1
    however small alpha is: where ordinary sampling would divide 0 by 0, one example gets the whole weight. On the CPU,
    if few of many examples matter, it uses stick breaking instead: the number of sticks does not grow with m.

    Args:
        num_tuples: Number of tuples n.
        num_examples: Number of examples b.
        alpha: Concentration > 0, or a (low, high) range from which one value is drawn per call.
        concentration: 'example': alpha is the α of every example, as in the paper; 'total': alpha is the sum over the
            m examples of a tuple, α = alpha / m, so that the number of examples that matter does not grow with m.
        length: Number of examples per tuple m, at most b; each tuple draws its own m of the b examples, and the other
            weights are 0. None for all.
        positions: Number of positions r; None to omit this dimension.
        device: Device of the result.
        dtype: Floating-point type of the result; float64 is also sampled in float64, all others in float32.
        generator: Source of randomness, on `device`.

    Returns:
        Λ `[n, b]`, or `[r, n, b]` with `positions`; rows are >= 0 and sum to 1.

    Raises:
        ValueError: If an argument is out of range, or `length` exceeds `num_examples`.
    """
    num_tuples, num_examples = check_integer('num_tuples', num_tuples), check_integer('num_examples', num_examples)
    check_choice('concentration', concentration, CONCENTRATIONS)
    length = num_examples if length is None else check_integer('length', length)
    check_length(length, num_examples)
    if not dtype.is_floating_point:
        raise UsageError(f'dtype must be a floating-point type of torch, got {dtype!r}')
    device = torch.device('cpu' if device is None else device)
    shape = (num_tuples,) if positions is None else (check_integer('positions', positions), num_tuples)
    work_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    alpha = draw_alpha(alpha, device=device, generator=generator)
    if concentration == 'total':
        alpha = alpha / length
    alpha = alpha.clamp(1e-12, 1e30)  # beyond these a draw is one-hot or uniform in any precision; keeps it finite
    if device.type != 'cpu':
        from ._timm_compat import standard_gamma  # here, because it imports timm

        gamma = standard_gamma(
            (alpha + 1.).to(device=device, dtype=work_dtype).expand(*shape, length).contiguous(), generator=generator)
        weights = _from_gammas(gamma, torch.empty_like(gamma).exponential_(generator=generator), alpha)
    else:
        rng = numpy_generator(generator)
        np_dtype = np.float64 if work_dtype == torch.float64 else np.float32
        total = float(alpha) * length
        sticks = _num_sticks(total, work_dtype)
        if sticks < length:
            exponential = torch.from_numpy(rng.standard_exponential((*shape, sticks), dtype=np_dtype))
            weights = _break_sticks(exponential, length, total, generator)
        else:
            gamma = torch.from_numpy(rng.standard_gamma(float(alpha + 1.), (*shape, length), dtype=np_dtype))
            exponential = torch.from_numpy(rng.standard_exponential((*shape, length), dtype=np_dtype))
            weights = _from_gammas(gamma, exponential, alpha)

    if length < num_examples:
        keys = torch.rand((*shape, num_examples), device=device, generator=generator)
        members = keys.topk(length, dim=-1).indices
        weights = weights.new_zeros((*shape, num_examples)).scatter_(-1, members, weights)
    return weights.to(dtype)


def draw_alpha(
        alpha: Union[Alpha, torch.Tensor],
        *,
        device: Optional[Union[str, torch.device]] = None,
        generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Return the concentration of one step as a scalar tensor: `alpha`, or a draw from U[low, high] (v2, section 4).

    A tensor, not a float, so that nothing waits for the device and torch.compile sees no new constant at each step.
    If `alpha` is a tensor, it is returned unchanged, so that one draw can serve several samples.
    """
    device = torch.device('cpu' if device is None else device)
    if isinstance(alpha, torch.Tensor):
        if alpha.device.type == 'cpu':  # on an accelerator the host would have to wait for it
            check_number('alpha', alpha.item(), open_low=True)
        return alpha
    alpha = check_alpha(alpha)
    if isinstance(alpha, tuple):
        low, high = alpha
        return low + (high - low) * torch.rand((), device=device, generator=generator)
    return torch.full((), alpha, dtype=torch.float64 if device.type == 'cpu' else torch.float32, device=device)


def _from_gammas(gamma: torch.Tensor, exponential: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Return Dir(α·1_m) `[..., m]` from Gamma(α + 1, 1) and Exp(1) variates, which it overwrites.

    log Gamma(α) = log Gamma(α + 1) + log(U) / α in distribution, and softmax divides by the sum in log space.
    """
    gamma.clamp_(min=torch.finfo(gamma.dtype).tiny)  # float32 samplers return 0 now and then
    return (gamma.log_() - exponential.div_(alpha)).softmax(dim=-1)


def _num_sticks(total: float, dtype: torch.dtype) -> int:
    """Return the number of sticks K that leaves an expected rest below the resolution: (κ / (1 + κ))^K < eps / 4."""
    return math.ceil(math.log(torch.finfo(dtype).eps / 4.) / -math.log1p(1. / total))


def _break_sticks(
        exponential: torch.Tensor, length: int, total: float, generator: Optional[torch.Generator]) -> torch.Tensor:
    """Return Dir(κ/m·1_m) from Exp(1) variates `[..., sticks]`, which it overwrites.

    It is a Dirichlet process over m examples (Sethuraman 1994): the rest of a stick of length 1 is broken at Beta(1, κ)
    again and again, each piece goes to an example drawn uniformly, and the last piece is the whole rest.
    """
    *shape, sticks = exponential.shape
    rows = math.prod(shape)
    left = exponential.view(rows, sticks).div_(-total).exp_().cumprod(dim=-1)  # 1 - Beta(1, κ) = exp(-E / κ)
    left[:, -1] = 0.
    pieces = -left
    pieces[:, 0] += 1.
    pieces[:, 1:] += left[:, :-1]
    owners = torch.randint(length, (rows, sticks), generator=generator)
    return pieces.new_zeros(rows, length).scatter_add_(1, owners, pieces).view(*shape, length)


def numpy_generator(generator: Optional[torch.Generator] = None) -> np.random.Generator:
    """Return a numpy generator seeded by torch; on a CPU numpy's samplers are several times faster than torch's."""
    return np.random.default_rng(int(torch.randint(2 ** 62, (), generator=generator)))
