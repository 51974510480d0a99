"""`benchmarks.row_weights` against a loop over positions and tuples."""
import importlib

import torch

from timm_multimix import MultiMixLoss, functional


def test_rows_weigh_by_the_attention_that_they_hold(monkeypatch):
    for name in ('dense_weights', 'mixed_cross_entropy'):  # restored after the test
        monkeypatch.setattr(functional, name, getattr(functional, name))
    importlib.reload(importlib.import_module('benchmarks.row_weights'))
    torch.manual_seed(0)
    logits, target = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    attention = torch.randn(5, 3, dtype=torch.float64).relu()
    attention[:, 0] = 0.  # nothing attends
    loss = MultiMixLoss(6, clean_weight=0.)
    torch.manual_seed(1)
    weights = loss.sample_weights(logits, attention)
    total, held = 0., 0.
    for j in range(3):
        for row in weights[j]:
            mixed = sum(row[i] * logits[i, j] for i in range(5)) / max(row.sum(), 1e-30)
            for i in range(5):
                total = total - row[i] * mixed.log_softmax(dim=0)[target[i]]
            held += row.sum()
    torch.manual_seed(1)
    found, expected = loss(logits, target, attention), total / held
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.)  # targets are float32
    grads = (torch.autograd.grad(each, logits)[0] for each in (found, expected))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-8)
