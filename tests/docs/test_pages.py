"""Every linked file and heading exists, and the Python blocks of a page run as they stand: in order, in a process."""
import re
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, prose, prose_with_spans, run, text

LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')


def links(page):
    return [first or second for first, second in LINK.findall(prose(page))]


def anchors(page):
    """Return the headings' anchors as GitHub and mkdocs make them: lower case, no punctuation, '-' for spaces."""
    headings = re.findall(r'^#+ +(.+?) *$', prose_with_spans(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_linked_files_and_headings_exist(page):
    for link in links(page):
        if re.match(r'[a-z]+:', link):
            assert link.startswith('https://'), link
            continue
        path, _, anchor = link.partition('#')
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f'{page} links to {link}'
        if anchor and target.suffix == '.md':
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f'{page} links to {link}'


def test_links_are_found():
    assert {'docs/images/method-light.png', 'docs/images/method-dark.png', 'docs/evidence.md'} <= {*links('README.md')}


def test_every_page_of_the_site_is_in_its_menu():
    menu = (ROOT / 'mkdocs.yml').read_text()
    for page in PAGES:
        if page.startswith(('docs/', 'benchmarks/')):
            assert page.removeprefix('docs/') in menu, page


WITH_PYTHON = [page for page in PAGES if blocks(page, 'python')]


@pytest.mark.parametrize('page', [
    page if page == 'README.md' else pytest.param(page, marks=pytest.mark.slow) for page in WITH_PYTHON])
def test_python_blocks_run(page, tmp_path):
    run([sys.executable, '-c', '\n'.join(blocks(page, 'python'))], tmp_path)


@pytest.mark.slow
def test_blocks_with_transformers_run(tmp_path):
    pytest.importorskip('transformers', reason='needs the extra examples')
    run([sys.executable, '-c', '\n'.join(blocks('docs/own-models.md', 'py'))], tmp_path)


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
