"""No broken links, checked without the network: every linked file and every linked heading exists."""
import re

import pytest

from tests.docs.pages import PAGES, ROOT, prose, text

LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')


def links(page):
    return [first or second for first, second in LINK.findall(prose(page))]


def anchors(page):
    """Return the headings' anchors as GitHub and mkdocs make them: lower case, no punctuation, '-' for spaces."""
    headings = re.findall(r'^#+ +(.+?) *$', prose_with_code(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def prose_with_code(page):
    return re.sub(r'^```.*?^```', '', text(page), flags=re.MULTILINE | re.DOTALL)


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
    assert 'docs/images/method-light.png' in links('README.md')
    assert 'docs/images/method-dark.png' in links('README.md')
    assert 'docs/evidence.md' in links('README.md')


def test_every_page_of_the_site_is_in_its_menu():
    menu = (ROOT / 'mkdocs.yml').read_text()
    for page in PAGES:
        if page.startswith(('docs/', 'benchmarks/')):
            assert page.removeprefix('docs/') in menu, page
