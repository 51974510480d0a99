"""The pages of the documentation: their text, fenced blocks and prose; and a way to run what they show."""
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'docs/**/*.md', '.github/**/*.md', 'benchmarks/README.md', 'benchmarks/results/tables/*.md')
    for path in ROOT.glob(pattern))


def run(command: List[object], folder: Path) -> str:
    """Run a command in a folder, on a CPU; return what it prints."""
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '',
        'PATH': os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']}
    result = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def blocks(page: str, language: str) -> List[str]:
    """Return the fenced blocks of a language; '' stands for those that name none."""
    return [body for name, body in _fenced(text(page)) if name == language]


def prose(page: str) -> str:
    """Return the page without its fenced blocks and code spans."""
    return re.sub(r'`[^`\n]+`', '', prose_with_spans(page))


def prose_with_spans(page: str) -> str:
    """Return the page without its fenced blocks."""
    result = text(page)
    for name, body in _fenced(result):
        result = result.replace(f'```{name}\n{body}```', '')
    return result


def _fenced(page: str) -> Iterator[Tuple[str, str]]:
    language, body = None, []
    for line in page.splitlines(keepends=True):
        if line.startswith('```') and language is None:
            language, body = line[3:].strip(), []
        elif line.startswith('```'):
            yield language, ''.join(body)
            language = None
        elif language is not None:
            body.append(line)
    assert language is None, 'a fenced block is not closed'
