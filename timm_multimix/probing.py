"""Running a model on trial, to see what it does and leave no trace."""
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterable, List, Tuple

import torch
import torch.nn as nn


@dataclass
class Calls:
    """What a run returned, and the modules that it called, in order; with what those that return a tensor returned."""
    result: torch.Tensor
    modules: List[nn.Module]
    outputs: List[Tuple[nn.Module, torch.Tensor]]


def record_calls(model: nn.Module, run: Callable[[], torch.Tensor]) -> Calls:
    """Run, and watch the modules of `model`."""
    modules, outputs = [], []

    def hook(module, _, output):
        modules.append(module)
        if isinstance(output, torch.Tensor):
            outputs.append((module, output))

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    return Calls(result, modules, outputs)


@contextmanager
def trial(model: nn.Module):
    """Run the model without a trace: no gradient, its train and eval flags and the random state restored.

    No autocast either: it would keep the weights that it casts here, without their gradient, for the training step.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    generators = torch.random.fork_rng(devices=[device] if device.type == 'cuda' else [])
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), generators:
            yield
    finally:
        for module, training in modes:
            module.training = training


def seed(device: torch.device) -> None:
    """Seed the generator of this device alone; torch.manual_seed would seed those of all GPUs."""
    generator = torch.default_generator
    if device.type == 'cuda':
        index = device.index if device.index is not None else torch.cuda.current_device()
        generator = torch.cuda.default_generators[index]
    generator.manual_seed(0)


class FrozenStatistics:  # a class, which torch.compile can look into
    """Context in which batch norms in train mode leave their running statistics as they are."""

    def __init__(self, batch_norms: Iterable[nn.Module]):
        self.norms = [norm for norm in batch_norms if norm.training and norm.track_running_stats]

    def __enter__(self):
        for norm in self.norms:
            norm.track_running_stats = False

    def __exit__(self, *_):
        for norm in self.norms:
            norm.track_running_stats = True
