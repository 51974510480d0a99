"""Command lines of the benchmarks: shared flags, usage errors, and where a result is written."""
import argparse
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

import torch

from ..methods import KNOBS, METHODS
from .results import RESULTS, write_result


def create_parser(description: Optional[str], **kwargs: Any) -> argparse.ArgumentParser:
    """Create a parser whose description is a docstring, with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, by default a GPU if there is one; a device that torch cannot use is a usage error."""
    parser.add_argument(
        '--device', type=_device, default='cuda' if torch.cuda.is_available() else 'cpu', help='such as cpu or cuda')


def _device(text: str) -> str:
    try:
        device = torch.device(text)
        if device.type != 'cuda':
            torch.empty(0, device=device)
        elif (device.index or 0) >= torch.cuda.device_count():  # without a tensor: results name a GPU once it was used
            raise RuntimeError(f'{torch.cuda.device_count()} GPUs')
    except (RuntimeError, AssertionError) as error:  # unknown, not on this machine, not in this build
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f'must be a device torch can use here, got {text!r} ({reason})') from error
    return text


def add_methods(parser: argparse.ArgumentParser, default: Optional[list] = None) -> None:
    """Add --methods, by default all methods; variants are allowed too."""
    parser.add_argument(
        '--methods', nargs='+', choices=[*METHODS, *KNOBS], default=default or list(METHODS), metavar='METHOD')


def add_integers(parser: argparse.ArgumentParser, **defaults: int) -> None:
    """Add an integer flag for each name, with its default as the help."""
    for name, default in defaults.items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=default, help='(%(default)s)')


def check_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **least: int) -> None:
    """Exit with code 2 if a flag, or a value of its list, is below its minimum given here; None is accepted."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and (min(value) if isinstance(value, list) else value) < low:
            parser.error(f'--{name.replace("_", "-")} must be >= {low}, got {value}')


@contextmanager
def mistakes(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn a ValueError inside into a usage error: one line, and exit code 2."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


def write_measured(benchmark: str, args: argparse.Namespace, result: Dict[str, Any]) -> None:
    """Write a result, with all flags as its settings, to --output or to BENCHMARK_DEVICE.json in the repository."""
    settings = dict(vars(args))
    path = settings.pop('output') or os.path.join(RESULTS, f'{benchmark}_{torch.device(args.device).type}.json')
    write_result(path, benchmark, settings, result)
