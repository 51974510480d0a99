"""Sections of text, tables and figures as one HTML page, or as Markdown."""
import base64
import html
from dataclasses import dataclass, field
from typing import List, Optional


@dataclass
class Section:
    """A section of the report: text, maybe a table (header row first), maybe a figure as PNG."""
    title: str
    text: List[str] = field(default_factory=list)
    table: List[List[str]] = field(default_factory=list)
    png: Optional[bytes] = None
    caption: str = ''


def to_markdown(title: str, sections: List[Section]) -> str:
    """Format text and tables as Markdown; sections with a figure are only in the HTML page."""
    blocks = [f'# {title}']
    for section in sections:
        if section.png is not None:
            continue
        blocks += [f'## {section.title}', *section.text]
        if section.table:
            blocks.append(markdown_table(section.table))
        if section.caption:
            blocks.append(section.caption)
    return '\n\n'.join(blocks) + '\n'


def markdown_table(rows: List[List[str]]) -> str:
    """Format rows as a Markdown table; the first row is the header."""
    header, *rest = rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *rest))


def to_html(title: str, sections: List[Section]) -> str:
    """Format everything as one self-contained HTML page."""
    parts = []
    for section in sections:
        parts.append(f'<section><h2>{html.escape(section.title)}</h2>')
        parts += [f'<p>{html.escape(text)}</p>' for text in section.text]
        if section.table:
            header, *rows = section.table
            parts.append('<div class="scroll"><table><thead><tr>')
            parts += [f'<th>{html.escape(cell)}</th>' for cell in header]
            parts.append('</tr></thead><tbody>')
            parts += ['<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in row) + '</tr>' for row in rows]
            parts.append('</tbody></table></div>')
        if section.png is not None:
            data = base64.b64encode(section.png).decode('ascii')
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
        if section.caption:
            parts.append(f'<p class="caption">{html.escape(section.caption)}</p>')
        parts.append('</section>')
    return _PAGE.format(title=html.escape(title), body='\n'.join(parts))


_PAGE = '''<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ddd; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
tbody tr:hover {{ background: #f6f6f6; }}
.scroll {{ overflow-x: auto; }}
img {{ max-width: 100%; height: auto; }}
.caption {{ color: #666; font-size: 0.85rem; }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
'''
