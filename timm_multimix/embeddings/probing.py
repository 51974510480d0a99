"""Trial runs of a model without side effects."""
from contextlib import contextmanager
from typing import Callable, Iterable, List, Tuple

import torch
import torch.nn as nn


def record_calls(model: nn.Module, run: Callable) -> Tuple[torch.Tensor, List[Tuple[nn.Module, object]]]:
    """Call `run`; return its result and the modules of `model` that it called, in order, with their outputs."""
    calls = []
    handles = [
        module.register_forward_hook(lambda module, _, output: calls.append((module, output)))
        for module in model.modules()]
    try:
        return run(), calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def trial(model: nn.Module):
    """Context to run a model without side effects: no gradient; modes, buffers and random state are restored.

    Autocast is off, because it would cache the weights that it casts here without gradient, and use them in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), same_random_numbers(model):
            yield
    finally:
        for buffer, version, before in buffers:
            if buffer._version != version:
                buffer.data.copy_(before)
        for module, training in modes:
            module.training = training


def same_random_numbers(model: nn.Module):
    """Context after which the random state is what it was before."""
    device = next(model.parameters()).device
    return torch.random.fork_rng(devices=[device] if device.type == 'cuda' else [])


def train_without_statistics(model: nn.Module) -> nn.Module:
    """Set train mode in all modules but batch norms, which would update statistics and wait for other processes."""
    for module in model.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


class FrozenStatistics:  # a class, which torch.compile can trace
    """Context in which batch norms in train mode do not update their running statistics."""

    def __init__(self, batch_norms: Iterable[nn.Module]):
        self.norms = [norm for norm in batch_norms if norm.training and norm.track_running_stats]

    def __enter__(self):
        for norm in self.norms:
            norm.track_running_stats = False

    def __exit__(self, *_):
        for norm in self.norms:
            norm.track_running_stats = True
