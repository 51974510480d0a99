"""The flag --device of every benchmark that has one."""
import argparse

import torch


def add_device(parser: argparse.ArgumentParser) -> None:
    """A GPU where there is one; what torch does not know, or has not, is a mistake of the command line."""
    parser.add_argument(
        '--device', type=_device, default='cuda' if torch.cuda.is_available() else 'cpu', help='such as cpu or cuda')


def _device(text: str) -> str:
    try:
        device = torch.device(text)
        if device.type != 'cuda':
            torch.empty(0, device=device)
        elif (device.index or 0) >= torch.cuda.device_count():  # not by a tensor: results name the GPU that was used
            raise RuntimeError(f'{torch.cuda.device_count()} GPUs')
    except (RuntimeError, AssertionError) as error:  # no such kind, none of its kind here, not in this build
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f'must be a device that torch has here, got {text!r} ({reason})') from error
    return text
