"""The mixed batch as rows of logits and targets, for a criterion that averages over rows."""
from typing import NamedTuple, Optional, Tuple

import torch

from . import functional
from .checks import UsageError
from .loss import MultiMixLoss, pooled_logits
from .sampling import check_length


class RowCounts(NamedTuple):
    """Counts for the rows of `mix`: tuples per position, and copies of the clean batch."""
    num_tuples: int
    clean_copies: int


@torch.compiler.disable
def mix(
        loss: MultiMixLoss,
        logits: torch.Tensor,
        target: torch.Tensor,
        attention: Optional[torch.Tensor] = None,
        clean_logits: Optional[torch.Tensor] = None,
        lam: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return mixed logits and mixed targets as rows, for any criterion that averages over rows.

    Rows have no weights, so the clean term becomes whole copies of the unmixed batch: see `row_counts`. The mean over
    rows is the loss, except for the rounding of their number and the number of tuples. If the loss is in eval mode, or
    its strength leaves this batch unmixed, the rows are the clean batch. Strength 'auto' counts the batch.

    Args:
        loss: The loss whose settings are used.
        logits: As in `MultiMixLoss.forward`, like target, attention and clean_logits.
        lam: Λ, `[n, b]` or `[r, n, b]`, before attention; None to sample as many tuples as `row_counts` says.

    Returns:
        Logits `[N, c]` and targets `[N, c]`; N is r·n plus the rows of the copies.
    """
    loss.check_inputs(logits, target, attention, clean_logits)
    counts = row_counts(loss, len(logits), logits.shape[1] if logits.ndim == 3 else None) if loss.training else None
    is_mixed = loss.training and loss.is_mixed()
    clean = pooled_logits(logits, clean_logits), loss.smooth_target(target, logits, is_mixed)
    loss.observe(clean[0], target)
    if not is_mixed:
        return clean
    if lam is None:
        lam = loss.sample_weights(logits, num_tuples=counts.num_tuples)
    weights = lam if attention is None else functional.dense_weights(lam, attention)
    return mixed_rows(loss, weights, logits, clean[0]), mixed_rows(loss, weights, clean[1], clean[1])


def mixed_rows(loss: MultiMixLoss, weights: torch.Tensor, values: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the values `[b, c]` or `[b, r, c]` mixed by the weights, followed by the copies of `clean`, `[b, c]`."""
    mixed = functional.interpolate(weights, values).flatten(0, -2)
    return torch.cat([mixed] + [clean.to(mixed.dtype)] * _clean_copies(loss, len(mixed), len(clean)))


def row_counts(loss: MultiMixLoss, batch_size: int, positions: Optional[int] = None) -> RowCounts:
    """Return how many rows `mix` makes from a batch; `positions` is None for the pooled form.

    Together the mixed and clean rows are about as many as the loss has tuples.

    Raises:
        ValueError: If whole copies of the batch match `clean_weight` only with more than twice as many rows, or tuples
            are longer than the batch.
    """
    check_length(loss.settings.length, batch_size)
    weight, r = loss.settings.clean_weight, positions or 1
    num_rows = loss.settings.tuples(positions) * r
    num_tuples = max(round(num_rows / (r * (1. + weight))), 1)
    if not weight:
        return RowCounts(num_tuples, 0)
    copies = _clean_copies(loss, num_tuples * r, batch_size)
    if copies < 8:  # rounding to so few would change the clean weight
        num_tuples = max(round(copies * batch_size / (weight * r)), 1)
    total = num_tuples * r + copies * batch_size
    if total > 2 * (num_rows + batch_size):
        raise UsageError(
            f'clean_weight={weight:g} would take {total} rows, but num_tuples allows {num_rows}: use a '
            f'{"larger clean_weight, 0" if weight < 1. else "smaller clean_weight"}, or a larger num_tuples')
    return RowCounts(num_tuples, copies)


def _clean_copies(loss: MultiMixLoss, num_mixed: int, batch_size: int) -> int:
    weight = loss.settings.clean_weight
    return max(round(weight * num_mixed / batch_size), 1) if weight else 0
