"""What both forms ask of any model: its name, an example input, and errors that say what works."""
from typing import Optional, Tuple

import torch
import torch.nn as nn

from ..checks import UsageError

POOLED_WORKS = (
    "MultiMixLoss works, and MultiMixTask or MultiMix with mode 'multimix': they need only the logits, as a tensor")


def example_input(model: nn.Module, input_size: Optional[Tuple[int, int, int]]) -> torch.Tensor:
    parameter = next(model.parameters())
    if input_size is None:
        config = getattr(model, 'pretrained_cfg', None) or {}
        channels, height, width = config.get('input_size', (3, 224, 224))
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
        channels = getattr(model, 'in_chans', None) or (first.in_channels if first is not None else channels)
        size = getattr(getattr(model, 'patch_embed', None), 'img_size', None) or (height, width)
        input_size = (channels, *size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, *input_size), generator=generator).to(device=parameter.device, dtype=parameter.dtype)


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP, of either version, holds the parameters."""
    return any(hasattr(p, 'device_mesh') or hasattr(p, '_is_flat_param') for p in model.parameters())


def differ(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = max(1e-4, 4 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return not bool((logits - expected).abs().max() <= tolerance)


def unsupported(model: nn.Module, reason: str) -> UsageError:
    return UsageError(f'{name_of(model)}: {reason}; {POOLED_WORKS}')


def name_of(model: nn.Module) -> str:
    config = getattr(model, 'pretrained_cfg', None) or {}
    return config.get('architecture') or type(model).__name__
