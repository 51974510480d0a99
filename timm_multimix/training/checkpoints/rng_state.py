"""The state of every random generator of a process, as one tensor that a checkpoint can hold without pickle."""
import random
from typing import Any, Tuple

import numpy as np
import torch

_NUMPY_WORDS = 624  # of the Mersenne twister; Python's has one more, its position


def get_state(device: torch.device) -> torch.Tensor:
    """States of torch, numpy, Python and the accelerator: uint8, `[n]`, on the CPU."""
    _, words, position, has_gauss, gauss = np.random.get_state()
    _, python_words, python_gauss = random.getstate()
    integers = [*words.tolist(), position, has_gauss, *python_words, python_gauss is not None]
    parts = [
        torch.tensor(integers, dtype=torch.int64).view(torch.uint8),
        torch.tensor([gauss, python_gauss or 0.], dtype=torch.float64).view(torch.uint8),
        torch.get_rng_state(),
    ]
    if device.type != 'cpu':
        module, where = _accelerator(device)
        parts.append(module.get_rng_state(*where).cpu())
    return torch.cat(parts)


def set_state(state: torch.Tensor, device: torch.device) -> None:
    """Go back to what `get_state` returned on the same kind of device."""
    num_integers = 2 * _NUMPY_WORDS + 4
    sizes = [8 * num_integers, 16, torch.get_rng_state().numel()]
    parts = state.split([*sizes, state.numel() - sum(sizes)])
    integers, floats, cpu, accelerator = (part.clone() for part in parts)  # torch reads from a storage's start
    integers, (gauss, python_gauss) = integers.view(torch.int64).tolist(), floats.view(torch.float64).tolist()
    words, rest = integers[:_NUMPY_WORDS], integers[_NUMPY_WORDS:]
    position, has_gauss, *python_words, has_python_gauss = rest
    np.random.set_state(('MT19937', np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    random.setstate((3, tuple(python_words), python_gauss if has_python_gauss else None))
    torch.set_rng_state(cpu)
    if device.type != 'cpu':
        module, where = _accelerator(device)
        module.set_rng_state(accelerator, *where)


def _accelerator(device: torch.device) -> Tuple[Any, tuple]:
    return getattr(torch, device.type), () if device.type == 'mps' else (device,)
