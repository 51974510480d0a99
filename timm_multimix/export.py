"""A checkpoint's weights as a safetensors file, which holds tensors and nothing that could run.

    python -m timm_multimix.export output/train/RUN/model_best.pth.tar resnet50.safetensors
"""
import argparse
import os
import sys
from typing import Dict, List, Optional

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import load_state_dict
from timm.utils.checkpoint_saver import load_checkpoint_metadata

from ._checks import UsageError, call_library


def export(checkpoint: str, path: str, use_ema: bool = True) -> Dict[str, torch.Tensor]:
    """Write the weights of `checkpoint` to `path`; the file's metadata names the architecture, epoch and metric.

    Args:
        checkpoint: A checkpoint of `train_timm.py` or timm; it is read without unpickling code.
        path: The file to write, `.safetensors`; it appears whole or not at all.
        use_ema: Take the moving average where the checkpoint holds one, as timm does when it reads it.

    Returns:
        What was written, by name.

    Raises:
        ValueError: If the checkpoint cannot be read, or `path` has another ending or cannot be written.
    """
    if not path.endswith('.safetensors'):
        raise UsageError(f'path must end in .safetensors, got {path}')
    if not os.path.isfile(checkpoint):
        raise UsageError(f'checkpoint {checkpoint}: no such file')
    what = f'checkpoint {checkpoint}: cannot be read'  # whatever a file that is none makes of the unpickler
    state = call_library(what, load_state_dict, checkpoint, use_ema=use_ema, errors=Exception)
    about = call_library(what, load_checkpoint_metadata, checkpoint, errors=Exception)
    bad = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if bad:
        raise UsageError(f'checkpoint {checkpoint}: {bad[0]} is not a tensor')
    tensors = {name: value.clone().contiguous() for name, value in state.items()}  # no two share memory
    metadata = {name: str(about[name]) for name in ('arch', 'epoch', 'metric') if name in about}
    try:
        save_file(tensors, f'{path}.tmp', metadata=dict(metadata, format='pt'))
        os.replace(f'{path}.tmp', path)
    except (OSError, SafetensorError) as error:
        if os.path.exists(f'{path}.tmp'):
            os.remove(f'{path}.tmp')
        raise UsageError(f'{path}: cannot be written ({error})') from error
    return tensors


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog='timm_multimix.export', description="a checkpoint's weights as safetensors")
    parser.add_argument('checkpoint', help='model_best.pth.tar, or another')
    parser.add_argument('path', help='the .safetensors file to write')
    parser.add_argument('--no-use-ema', action='store_true', help='take the weights themselves, not their average')
    args = parser.parse_args(argv)
    try:
        tensors = export(args.checkpoint, args.path, use_ema=not args.no_use_ema)
    except UsageError as error:
        parser.error(str(error))
    print(f'{len(tensors)} tensors, {sum(value.numel() for value in tensors.values()):,} values: {args.path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
