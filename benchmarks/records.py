"""Result files, which hold a measurement with everything needed to judge it, and the flags that commands share."""
import argparse
import hashlib
import json
import os
import platform
import subprocess
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import numpy
import timm
import torch
import torchvision

import timm_multimix
from timm_multimix import UsageError

from .methods import find

SCHEMA_VERSION = 2
RESULTS = os.path.join(os.path.dirname(__file__), 'results')
"""Results of the repository."""
PLACES = frozenset('data data_dir output experiment resume'.split())
"""Settings of train_timm.py that belong to one machine."""


def environment() -> Dict[str, Any]:
    """Versions, hardware and commit."""
    return dict(
        commit=COMMIT,
        python=platform.python_version(),
        **{library.__name__: library.__version__ for library in (torch, torchvision, timm, numpy, timm_multimix)},
        processor=_processor(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,  # None also for an unused GPU
    )


def write_measured(path: str, benchmark: str, settings: Dict[str, Any], result: Dict[str, Any]) -> None:
    """Write a measurement of this machine; its settings are those of the command."""
    write_record(path, dict(benchmark=benchmark, settings=settings, environment=environment(), result=result))


def write_record(path: str, record: Dict[str, Any]) -> None:
    """Write a result file, completely or not at all."""
    text = to_json(dict(schema=SCHEMA_VERSION, **{name: record[name] for name in record if name != 'schema'})) + '\n'
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    partial = f'{path}.{os.getpid()}'
    with open(partial, 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(partial, path)


def read_record(path: str) -> Dict[str, Any]:
    """Read a result file.

    Raises:
        UsageError: If it is none, or of an earlier form.
    """
    try:
        with open(path, encoding='utf-8') as file:
            record = json.load(file)
    except ValueError as error:
        raise UsageError(f'{path} is not a result ({error}); delete it') from error
    if not isinstance(record, dict) or record.get('schema') != SCHEMA_VERSION:
        raise UsageError(f'{path} is not a result of this version, which has "schema": {SCHEMA_VERSION}; delete it')
    return record


def to_json(value: Any, indent: str = '', is_row: bool = False) -> str:
    """Format as JSON, on one line if it fits; table rows and lists of numbers are always on one line."""
    text = json.dumps(value, allow_nan=False)
    items = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    kinds = (int, float, str, type(None)) if is_row else (int, float)
    if len(indent + text) <= 120 or all(isinstance(item, kinds) for item in items):
        return text
    inner = f'{indent}  '
    lines = [to_json(item, inner, isinstance(value, list)) for item in items]
    if isinstance(value, dict):
        lines = [f'{json.dumps(name)}: {line}' for name, line in zip(value, lines)]
    return f'{text[0]}\n{inner}' + f',\n{inner}'.join(lines) + f'\n{indent}{text[-1]}'


def digest_of(data: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.sha256(data).hexdigest()[:12]


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


def add_methods(parser: argparse.ArgumentParser, default: Optional[List[str]] = None) -> None:
    """Add --methods: names of `benchmarks.methods`, and variants such as dense-multimix@alpha=1."""
    parser.add_argument('--methods', nargs='+', type=_method, default=default, metavar='METHOD')


def _method(name: str) -> str:
    try:
        if find(name).flags:
            return name
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    raise argparse.ArgumentTypeError(f'{name} is a method of the past, which cannot be run')


def check_least(args: argparse.Namespace, **least: float) -> None:
    """Check that flags, or all values of a flag, are not below their minimum given here; None is accepted."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and min(value if isinstance(value, list) else [value]) < low:
            raise UsageError(f'--{name.replace("_", "-")} must be >= {low}, got {value}')


@contextmanager
def mistakes(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2."""
    try:
        yield
    except UsageError as error:
        parser.error(str(error))


def _commit() -> str:
    """Return the commit, with '+' if files differ from it; 'unknown' outside a repository."""
    def git(*command):
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(['git', '-C', folder, *command], check=True, capture_output=True, text=True).stdout

    try:
        return git('rev-parse', '--short=12', 'HEAD').strip() + ('+' if git('diff', '--stat', 'HEAD') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


COMMIT = _commit()
"""Commit of the code at import; the files may change during a run of hours."""
