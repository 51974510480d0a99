"""Result files of the benchmarks: measurements, with everything needed to judge them."""
import json
import os
import platform
import subprocess
from typing import Any, Dict

import numpy
import timm
import torch
import torchvision

import timm_multimix

SCHEMA_VERSION = 1
RESULTS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'results')
"""Results of the repository."""
ACCURACY = os.path.join(RESULTS, 'accuracy')


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


def write_result(path: str, benchmark: str, settings: Dict[str, Any], result: Dict[str, Any]) -> None:
    """Write one run as JSON, completely or not at all; tests check the schema."""
    text = to_json(dict(
        schema=SCHEMA_VERSION, benchmark=benchmark, settings=settings, environment=environment(), result=result)) + '\n'
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    partial = f'{path}.{os.getpid()}'
    with open(partial, 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(partial, path)


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
