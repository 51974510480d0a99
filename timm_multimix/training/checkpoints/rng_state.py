"""The state of every random generator of a process, in a form that a checkpoint can hold without pickle."""
import random
from typing import Any, Dict, Tuple

import numpy as np
import torch


def get_state(device: torch.device) -> Dict[str, Any]:
    """States of the generators of torch (by type of device), numpy and Python."""
    _, key, pos, has_gauss, gauss = np.random.get_state()
    state = dict(
        cpu=torch.get_rng_state(),
        numpy=dict(key=torch.from_numpy(key.astype(np.int64)), pos=pos, has_gauss=has_gauss, gauss=gauss),
        python=random.getstate(),
    )
    if device.type != 'cpu':
        module, where = _accelerator(device)
        state[device.type] = module.get_rng_state(*where).cpu()
    return state


def set_state(state: Dict[str, Any], device: torch.device) -> None:
    """Restore what `get_state` returned on the same type of device."""
    torch.set_rng_state(state['cpu'])
    key, *rest = (state['numpy'][name] for name in ('key', 'pos', 'has_gauss', 'gauss'))
    np.random.set_state(('MT19937', key.numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
    if device.type != 'cpu':
        module, where = _accelerator(device)
        module.set_rng_state(state[device.type], *where)


def _accelerator(device: torch.device) -> Tuple[Any, tuple]:
    return getattr(torch, device.type), () if device.type == 'mps' else (device,)
