"""The mathematics of MultiMix: sampling, attention, weights, interpolation and the loss. Knows nothing of timm.

Sources: v1 = arXiv 2206.14868, v2 = arXiv 2311.05538 (Venkataramanan, Kijak, Amsaleg, Avrithis).
Shapes: b examples in the batch, m of them in a tuple, n tuples, r spatial positions, c classes, d embedding width.
"""
from typing import Iterable, Iterator, Optional, Union

import torch

from .checks import UsageError, check_choice, check_floats, check_logits, check_number, check_target
from .ops import IMPLEMENTATIONS, LossParams, smooth_labels
from .sampling import CONCENTRATIONS, draw_alpha, sample_dirichlet

__all__ = [
    'ACTIVATIONS', 'ATTENTION_KINDS', 'CONCENTRATIONS', 'IMPLEMENTATIONS', 'at_least_float32', 'dense_weights',
    'draw_alpha', 'interpolate', 'mixed_cross_entropy', 'sample_dirichlet', 'soft_targets', 'spatial_attention',
]

ATTENTION_KINDS = ('gap', 'cam', 'none')
ACTIVATIONS = ('relu', 'softmax')


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32, the dtype of all computations; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def spatial_attention(
        embeddings: torch.Tensor,
        kind: str = 'gap',
        *,
        classifier_weight: Optional[torch.Tensor] = None,
        target: Optional[torch.Tensor] = None,
        activation: str = 'relu',
) -> torch.Tensor:
    """Attention a_i = h(z_iᵀ u_i) of every example over its own positions (v2, eq. 9).

    Args:
        embeddings: z, `[b, r, d]`.
        kind: Choice of u_i: 'gap' is the mean embedding of the example; 'cam' the classifier row of its label (for soft
            targets the mean of the rows, weighted by the target); 'none' gives every position the same attention.
        classifier_weight: W, `[c, d]`, for 'cam'.
        target: `[b]` class indices or `[b, c]` soft targets, for 'cam'.
        activation: h: 'relu' followed by l1 normalisation over the positions, or 'softmax'.

    Returns:
        `[b, r]`, >= 0, rows sum to 1. The attention of an example is uniform if ReLU makes all its scores zero.

    Raises:
        ValueError: If a shape or a name is not one of these, or the classifier weight or target is missing for 'cam'.
    """
    check_choice('kind', kind, ATTENTION_KINDS)
    check_choice('activation', activation, ACTIVATIONS)
    check_floats('embeddings', embeddings, 'brd')
    batch_size, num_positions, width = embeddings.shape
    if num_positions == 0:
        raise UsageError(f'embeddings must have at least one position, got shape {list(embeddings.shape)}')
    embeddings = at_least_float32(embeddings)
    uniform = embeddings.new_full((batch_size, num_positions), 1. / num_positions)
    if kind == 'none':
        return uniform
    with torch.autocast(embeddings.device.type, enabled=False):
        if kind == 'gap':
            query = embeddings.mean(dim=1)
        else:
            check_floats("classifier_weight of kind 'cam'", classifier_weight, ('c', width))
            if target is None:
                raise UsageError("target must be given for kind 'cam', got None")
            check_target(target, batch_size, len(classifier_weight))
            query = classifier_weight[target.long()] if target.ndim == 1 else \
                target.to(classifier_weight.dtype) @ classifier_weight
        scores = (embeddings @ query.to(embeddings).unsqueeze(-1)).squeeze(-1)  # z_iᵀ u_i
        if activation == 'softmax':
            return scores.softmax(dim=-1)
        return _normalise(scores.relu(), uniform)


def dense_weights(lam: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Weights M^j = Λ^j ⊙ a^j, with rows divided by their l1 norm (v2, eq. 10-11).

    Args:
        lam: Λ, `[r, n, b]`.
        attention: a, `[b, r]`, >= 0.

    Returns:
        `[r, n, b]`, rows sum to 1. If no example of a tuple attends to a position, the row stays λ_k^j.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_floats('lam', lam, 'rnb')
    check_floats('attention', attention, (lam.shape[2], lam.shape[0]))
    return _normalise(lam * attention.t().unsqueeze(1).to(lam.dtype), lam)


def _normalise(values: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Divide rows by their sum, or take those of `fallback` where the sum is zero or too small for a precise quotient.

    `values` may be overwritten.
    """
    total = values.sum(dim=-1, keepdim=True)
    tiny = torch.finfo(values.dtype).tiny / torch.finfo(values.dtype).eps
    if values.device.type == 'cpu' and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        try:
            none_is_tiny = bool((total > tiny).all())
        except RuntimeError:  # under torch.func.vmap, or with fake tensors, which have no values
            none_is_tiny = False
        if none_is_tiny:  # same result, less memory traffic
            return values / total if values.requires_grad else values.div_(total)
    return torch.where(total > tiny, values / total.clamp(min=tiny), fallback)


def interpolate(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Convex combinations of the examples: ΛZ and ΛY (v2, section 3.2), or M^jZ^j and M^jY per position (eq. 12-13).

    Args:
        weights: `[n, b]`, or `[r, n, b]` for one Λ per position.
        values: `[b, k]`, the same at all positions, or `[b, r, k]`.

    Returns:
        `[..., n, k]`, in at least float32.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_floats('weights', weights, 'nb', 'rnb')
    *positions, _, batch_size = weights.shape
    forms = [(batch_size, 'k'), *((batch_size, r, 'k') for r in positions)]
    check_floats(f'values with weights {list(weights.shape)}', values, *forms)
    weights, values = at_least_float32(weights), at_least_float32(values)
    dtype = torch.promote_types(weights.dtype, values.dtype)
    if values.ndim == 3:
        values = values.transpose(0, 1)
    with torch.autocast(values.device.type, enabled=False):
        return weights.to(dtype) @ values.to(dtype)


def soft_targets(
        target: torch.Tensor,
        num_classes: int,
        smoothing: float = 0.,
        *,
        multi_label: bool = False,
        dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Convert targets to one row of probabilities per example, with label smoothing (Szegedy et al., arXiv 1512.00567).

    Args:
        target: `[b]` class indices or `[b, c]` soft targets; with `multi_label` `[b, c]` labels of any type.
        num_classes: Number of classes c.
        smoothing: Share of every target that is spread over all classes.
        multi_label: Targets are independent labels in [0, 1]; smoothing pulls each of them towards 0.5.
        dtype: Dtype of the result if the target is not floating-point.

    Returns:
        `[b, c]`. Without smoothing, soft targets are returned unchanged.

    Raises:
        ValueError: If the target does not fit, or an argument is out of range.
    """
    smoothing = check_number('smoothing', smoothing, high=1.)
    if multi_label:
        target = target if target.is_floating_point() else target.to(dtype)
        check_floats('target of multi_label=True', target, ('b', num_classes))
        if target.device.type == 'cpu' and not bool(((target >= 0) & (target <= 1)).all()):
            raise UsageError(
                f'target of multi_label=True must be in [0, 1], got {target.min().item():g} to {target.max().item():g}')
    check_target(target, target.shape[0] if target.ndim else 0, num_classes)
    return smooth_labels(target, num_classes, smoothing, multi_label=multi_label, dtype=dtype)


@torch.compiler.disable  # it is one operation; torch.compile would unroll its chunks
def mixed_cross_entropy(
        logits: torch.Tensor,
        target: torch.Tensor,
        weights: Union[torch.Tensor, Iterable[torch.Tensor]],
        *,
        label_smoothing: float = 0.,
        teacher_logits: Optional[torch.Tensor] = None,
        gamma: float = 0.5,
        implementation: str = 'auto',
) -> torch.Tensor:
    """Cross-entropy of MultiMix on ordinary logits, mean over all tuples and positions (v2, sections 3.2 and 3.3).

    With a teacher it is γ·H(ΛY, p) + (1 - γ)·H(p', p), with the probabilities p of the student and p' of the teacher on
    embeddings mixed by the same Λ (v1, section 3.3).

    The classifier is affine and the weights sum to 1, so mixing logits is equivalent to mixing embeddings:
    (ΛZ)Wᵀ + β = Λ(ZWᵀ + β). The loss and its gradient come from one pass that keeps nothing of size n x c.

    Args:
        logits: `[b, c]`, or `[b, r, c]` at r positions. Everything is computed in float32 (float64 for float64).
        target: `[b]` class indices or `[b, c]` soft targets.
        weights: `[n, b]`, or `[r, n, b]`; rows sum to 1. An iterable of such tensors is used like their concatenation
            along n, without holding it in memory. With 'auto', weights receive a gradient unless they come from a
            generator.
        label_smoothing: Share of every target that is spread over all classes.
        teacher_logits: The teacher's ordinary logits, in the shape of `logits`; they receive no gradient.
        gamma: Weight γ of the targets if there is a teacher, in [0, 1].
        implementation: 'chunked': fast, with a gradient for the logits only; 'compiled': the same, fused by
            torch.compile; 'triton': CUDA kernels that never write mixed logits, in TF32 if
            `torch.set_float32_matmul_precision` allows it; 'reference': literal and slow; 'auto': 'reference' if
            weights or soft targets require a gradient, else 'chunked'.

    Returns:
        Scalar loss. It and its gradient are finite for all finite bfloat16 logits; a loss above 1e30, which only logits
        of that size can give, is clipped, but its gradient is not.

    Raises:
        ValueError: If shapes do not fit, class indices are out of range, logits are not finite (values are checked on
            the CPU only), or the implementation does not support the inputs.
        RuntimeError: If a second derivative of a fast implementation is requested.
    """
    check_choice('implementation', implementation, ('auto', *IMPLEMENTATIONS))
    label_smoothing = check_number('label_smoothing', label_smoothing, high=1.)
    check_logits(logits)
    check_target(target, logits.shape[0], logits.shape[-1])
    gamma = check_number('gamma', gamma, high=1.)
    if teacher_logits is not None:
        check_floats('teacher_logits', teacher_logits, logits.shape, finite=True)
    if gamma == 1.:
        teacher_logits = None  # gamma = 1 ignores the teacher
    blocks = [weights] if isinstance(weights, torch.Tensor) else weights
    if implementation == 'auto':
        known = blocks if isinstance(blocks, (list, tuple)) else []
        literal = target.requires_grad or any(getattr(block, 'requires_grad', False) for block in known)
        implementation = 'reference' if literal else 'chunked'

    logits = _logits_by_position(logits)
    if teacher_logits is not None:
        teacher_logits = _logits_by_position(teacher_logits.detach()).to(logits.dtype)
    blocks = _blocks_by_position(blocks, *logits.shape[:2])
    with torch.autocast(logits.device.type, enabled=False):
        params = LossParams(target, label_smoothing, teacher_logits, gamma)
        return IMPLEMENTATIONS[implementation](logits, blocks, params)


def _logits_by_position(logits: torch.Tensor) -> torch.Tensor:
    logits = at_least_float32(logits)
    return logits.unsqueeze(0) if logits.ndim == 2 else logits.transpose(0, 1)  # [r, b, c]


def _blocks_by_position(blocks: Iterable[torch.Tensor], num_positions: int, batch_size: int) -> Iterator[torch.Tensor]:
    forms = [(num_positions, 'n', batch_size)] + ([('n', batch_size)] if num_positions == 1 else [])
    weights = None
    for weights in blocks:
        check_floats('weights', weights, *forms)
        if weights.shape[-2] == 0:
            raise UsageError(f'weights must hold at least one tuple (n >= 1), got shape {list(weights.shape)}')
        yield weights.unsqueeze(0) if weights.ndim == 2 else weights  # [r, n', b]
    if weights is None:
        raise UsageError('weights must hold at least one tuple (n >= 1), got none')
