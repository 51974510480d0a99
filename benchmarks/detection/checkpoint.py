"""Checkpoints of train_timm.py, read safely."""
import argparse
import os
from typing import Any, Dict, NamedTuple

import torch

from benchmarks.suite.runs import sha256_of


class Checkpoint(NamedTuple):
    """A trained classifier; `record` identifies the checkpoint."""
    path: str
    state_dict: Dict[str, torch.Tensor]
    args: Dict[str, Any]
    record: Dict[str, Any]


def read_checkpoint(path: str, model: str, use_ema: bool = False) -> Checkpoint:
    """Read a checkpoint that train_timm.py (or timm's train.py) wrote for `model`.

    No code in the file is run: it may hold tensors, plain values and an argparse.Namespace.

    Args:
        path: last.pth.tar, model_best.pth.tar or another checkpoint of a run.
        model: Name of its timm model; the tag of pretrained weights does not matter.
        use_ema: Use the moving average of the weights, or the teacher.
    """
    if not os.path.isfile(path):
        raise ValueError(f'--checkpoint {path}: no such file')
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # the unpickler may raise anything on other files
        reason = str(error).split('\n')[0][:200]
        raise ValueError(f'--checkpoint {path}: not a checkpoint of train_timm.py ({reason})') from error
    weights = 'state_dict_ema' if use_ema else 'state_dict'
    if not (isinstance(content, dict) and {'arch', 'state_dict'} <= content.keys()):
        shown = ', '.join(sorted(map(str, content))[:5]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f'--checkpoint {path}: a checkpoint of train_timm.py holds arch and state_dict, this one holds {shown}')
    if weights not in content:
        raise ValueError(f'--ema: {path} holds no moving average of the weights')
    arch = str(content['arch'])
    if arch.split('.')[0] != model.split('.')[0]:
        raise ValueError(f'--checkpoint {path}: the checkpoint is of {arch}, not of {model}')
    args = vars(content['args']) if isinstance(content.get('args'), argparse.Namespace) else {}
    record = dict(arch=arch, epoch=content.get('epoch'), weights=weights, sha256=sha256_of(path))
    record.update({name: args.get(name) for name in ('seed', 'mixup_mode', 'mixup', 'cutmix') if name in args})
    return Checkpoint(path, content[weights], args, record)
