"""The Python blocks of a page run as they stand: in order, in a separate process, on a CPU."""
import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, text

WITH_PYTHON = [page for page in PAGES if blocks(page, 'python')]


@pytest.mark.parametrize('page', [
    page if page == 'README.md' else pytest.param(page, marks=pytest.mark.slow) for page in WITH_PYTHON])
def test_python_blocks_run(page, tmp_path):
    run(page, 'python', tmp_path)


@pytest.mark.slow
def test_blocks_with_transformers_run(tmp_path):
    pytest.importorskip('transformers', reason='needs the extra examples')
    run('docs/own-models.md', 'py', tmp_path)


def run(page, language, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    result = subprocess.run(
        [sys.executable, '-c', '\n'.join(blocks(page, language))], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_main_pages_have_python_blocks():
    assert {'README.md', 'docs/training.md'} <= set(WITH_PYTHON)
    assert {page for page in PAGES if page.startswith('docs/methods/')} <= set(WITH_PYTHON)


@pytest.mark.parametrize('page', ['README.md', 'docs/evidence.md'])
def test_pages_that_all_read_are_short(page):
    assert len(text(page).split()) <= 900


@pytest.mark.parametrize('page', PAGES)
def test_markers_of_results_come_in_pairs(page):
    markers = re.findall(r'^<!-- (results: [a-z0-9-]+|/results) -->$', text(page), re.MULTILINE)
    assert markers[1::2] == ['/results'] * (len(markers) // 2) and len(markers) % 2 == 0
    assert len(set(markers[::2])) == len(markers[::2])
