"""Command lines of the benchmarks: flags that several of them have, mistakes, and where a result goes."""
import argparse
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

import torch

from .methods import KNOBS, METHODS
from .results import RESULTS, write_result


def create_parser(description: Optional[str], **kwargs: Any) -> argparse.ArgumentParser:
    """A parser whose description is a docstring, in the lines that it has."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)


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


def add_methods(parser: argparse.ArgumentParser, default: Optional[list] = None) -> None:
    """--methods, all of them unless said otherwise; variants are taken too."""
    parser.add_argument(
        '--methods', nargs='+', choices=[*METHODS, *KNOBS], default=default or list(METHODS), metavar='METHOD')


def add_integers(parser: argparse.ArgumentParser, **defaults: int) -> None:
    """A flag for each, whose help is its default."""
    for name, default in defaults.items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=default, help='(%(default)s)')


def check_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **least: int) -> None:
    """End with code 2 where a flag, or a value of its list, is below what is given here; None is left to a default."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and (min(value) if isinstance(value, list) else value) < low:
            parser.error(f'--{name.replace("_", "-")} must be >= {low}, got {value}')


@contextmanager
def mistakes(parser: argparse.ArgumentParser) -> Iterator[None]:
    """A ValueError inside is a mistake of the command line: one line, and exit code 2."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


def write_measured(benchmark: str, args: argparse.Namespace, result: Dict[str, Any]) -> None:
    """Write a result, whose settings are all flags, to --output or as BENCHMARK_DEVICE.json of the repository."""
    settings = dict(vars(args))
    path = settings.pop('output') or os.path.join(RESULTS, f'{benchmark}_{torch.device(args.device).type}.json')
    write_result(path, benchmark, settings, result)
