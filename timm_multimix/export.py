"""Export a checkpoint's weights to a safetensors file, which contains tensors only, no code.

    python -m timm_multimix.export output/train/RUN/model_best.pth.tar resnet50.safetensors
"""
import argparse
import os
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import load_state_dict
from timm.utils import checkpoint_saver

from . import tasks  # noqa: F401  (refuses an older timm)
from .checks import UsageError, call_library


def export(checkpoint: str, path: str, use_ema: bool = True) -> Dict[str, torch.Tensor]:
    """Write the weights of `checkpoint` to `path`, with architecture, epoch and metric as metadata.

    Args:
        checkpoint: A checkpoint of `train_timm.py` or timm; it is read without running pickled code.
        path: The `.safetensors` file to write; it is written completely or not at all.
        use_ema: Export the weights of the EMA model if the checkpoint has them, as timm loads them by default.

    Returns:
        The written tensors by name.

    Raises:
        ValueError: If the checkpoint cannot be read, or `path` has another ending or cannot be written.
    """
    if not path.endswith('.safetensors'):
        raise UsageError(f'path must end in .safetensors, got {path}')
    if not os.path.isfile(checkpoint):
        raise UsageError(f'checkpoint {checkpoint}: no such file')
    what = f'checkpoint {checkpoint}: cannot be read'  # any exception: other files make the unpickler fail in many ways
    state = call_library(what, load_state_dict, checkpoint, use_ema=use_ema, errors=Exception)
    about = call_library(what, checkpoint_saver.load_checkpoint_metadata, checkpoint, errors=Exception)
    bad = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if bad:
        raise UsageError(f'checkpoint {checkpoint}: {bad[0]} is not a tensor')
    tensors = {name: value.clone().contiguous() for name, value in state.items()}  # safetensors allows no shared memory
    metadata = {name: str(about[name]) for name in ('arch', 'epoch', 'metric') if name in about}
    try:
        save_file(tensors, f'{path}.tmp', metadata=dict(metadata, format='pt'))
        os.replace(f'{path}.tmp', path)
    except (OSError, SafetensorError) as error:
        Path(f'{path}.tmp').unlink(missing_ok=True)
        raise UsageError(f'{path}: cannot be written ({error})') from error
    return tensors


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m timm_multimix.export', description="write the weights alone")
    parser.add_argument('checkpoint', help='checkpoint to read, such as model_best.pth.tar')
    parser.add_argument('path', help='the .safetensors file to write')
    parser.add_argument('--no-use-ema', action='store_true', help='export the weights of the model, not of its EMA')
    args = parser.parse_args(argv)
    try:
        tensors = export(args.checkpoint, args.path, use_ema=not args.no_use_ema)
    except UsageError as error:
        parser.error(str(error))
    print(f'{len(tensors)} tensors, {sum(value.numel() for value in tensors.values()):,} values: {args.path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
