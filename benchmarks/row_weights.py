"""Dense MultiMix with rows weighted by the attention that they hold: `--device-modules benchmarks.row_weights`.

A hypothesis on images with background: a tuple where no example attends to a position should weigh less there.
"""
import torch

from timm_multimix import functional


def _attended(lam: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return Λ^j ⊙ a^j, `[r, n, b]`, not normalised: the sum of a row is its weight."""
    return lam * attention.t().unsqueeze(1)


def _weighted_cross_entropy(logits, target, weights, *, label_smoothing=0., **_) -> torch.Tensor:
    weights = torch.cat(list(weights), dim=-2)
    held = weights.sum(dim=-1)
    rows = weights / held.unsqueeze(-1).clamp(min=1e-30)
    target = functional.soft_targets(target, logits.shape[-1], label_smoothing)
    log_probabilities = functional.interpolate(rows, logits).log_softmax(dim=-1)
    loss = -(functional.interpolate(rows, target) * log_probabilities).sum(dim=-1)
    return (held * loss).sum() / held.sum()


functional.dense_weights = _attended
functional.mixed_cross_entropy = _weighted_cross_entropy
