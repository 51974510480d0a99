"""The ablation of MultiMix with fewer weights, for `--device-modules benchmarks.shared_weights` of train_timm.py.

In MultiMix all tuples of a step have the weights of one λ, each in its own order of the examples; in Dense MultiMix all
positions have one Λ. As a variant: METHOD@device-modules=benchmarks.shared_weights. It changes the whole process.
"""
from typing import Any, Callable, Optional

import torch

from timm_multimix import functional


class SharedWeights:
    """Stands in for `functional.sample_dirichlet`, which it calls."""

    def __init__(self, sample: Callable):
        self.sample = sample
        self.alpha: Optional[torch.Tensor] = None
        self.lam: Optional[torch.Tensor] = None

    def __call__(
            self,
            num_tuples: int,
            num_examples: int,
            alpha: torch.Tensor,
            *,
            positions: Optional[int] = None,
            **kwargs: Any,
    ) -> torch.Tensor:
        if positions is not None:
            return self.sample(num_tuples, num_examples, alpha, positions=1, **kwargs).repeat(positions, 1, 1)
        if alpha is not self.alpha:  # drawn once per step, which may ask for its tuples in several blocks
            self.alpha, self.lam = alpha, self.sample(1, num_examples, alpha, **kwargs)[0]
        return self.lam[torch.rand((num_tuples, num_examples), device=self.lam.device).argsort(dim=1)]


functional.sample_dirichlet = SharedWeights(functional.sample_dirichlet)
