"""Hooks of mkdocs: pages outside docs/ are shown under their own paths, and links of the repository lead there.

A <picture> in two colours, as GitHub shows it, follows the light or dark theme of the site.
"""
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
SHOWN = (
    'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'benchmarks/README.md', 'benchmarks/results/tables/*.md',
    'benchmarks/results/figures/*.png', 'examples/*.*')
PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img src="([^"]+)" width="(\d+)"\s+alt="([^"]+)">\s*</picture>')
THEMED = '![{3}]({1}#only-light){{ width="{2}" }}\n![{3}]({0}#only-dark){{ width="{2}" }}'
LINK = re.compile(r'\]\((?![a-z]+:|#)([^)#\s]+)')


def on_files(files, config):
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()

    def of_site(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return '](' + posixpath.relpath(target.removeprefix('docs/'), posixpath.dirname(page.file.src_uri) or '.')

    return LINK.sub(of_site, PICTURE.sub(lambda match: THEMED.format(*match.groups()), markdown))
