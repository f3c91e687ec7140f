"""A report as one HTML file: styles, script and plots inside, nothing to be fetched."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from .tables import is_numeric

STYLE = """
:root { color-scheme: light; --line: #d9dee4; --soft: #f5f7f9; --ink: #1c2733; --faint: #5d6b79; --accent: #1f5f99; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1500px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
ul { margin: .4rem 0; padding-left: 1.2rem; color: var(--faint); font-size: .9rem; max-width: 110ch; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; }
td.long { white-space: normal; min-width: 22ch; max-width: 44ch; color: var(--faint); }
th { background: var(--soft); position: sticky; top: 0; cursor: pointer; user-select: none; font-weight: 600; }
th:hover { color: var(--accent); }
th[aria-sort="ascending"]::after { content: " \\2191"; }
th[aria-sort="descending"]::after { content: " \\2193"; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: #eef4fa; }
tr.failed td { color: #9a5a50; background: #fdf6f5; }
tr.best td:first-child { box-shadow: inset 3px 0 var(--accent); }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
figcaption { color: var(--faint); font-size: .88rem; margin-top: .3rem; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
# Sorts by the number that a cell begins with, or by its text; empty cells stay below.
SCRIPT = """
document.querySelectorAll('table').forEach(table => {
  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const body = table.tBodies[0];
    const key = row => {
      const text = row.cells[column].textContent.trim();
      return text === '' || text === '\\u2013' ? null : isNaN(parseFloat(text)) ? text : parseFloat(text);
    };
    [...body.rows].map(row => [key(row), row]).sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    }).forEach(([, row]) => body.appendChild(row));
  }));
});
"""
LONG = 40  # characters from which a cell's text is wrapped


@dataclass
class Section:
    """A part of the report.

    Args:
        title (str): Heading.
        headings (Sequence[str]): Of the table; empty for none.
        lines (Sequence[Sequence[str]]): Its cells.
        classes (Sequence[str]): For each line a CSS class: 'failed', 'best' or ''.
        plots (Sequence[tuple[str, bytes]]): Captions and PNGs.
        notes (Sequence[str]): Remarks.
    """

    title: str
    headings: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    classes: Sequence[str] = ()
    plots: Sequence[tuple[str, bytes]] = field(default_factory=list)
    notes: Sequence[str] = ()


def page(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The report.

    Args:
        title (str): Heading.
        about (Sequence[str]): Lines on machine and versions.
        sections (Sequence[Section]): Its parts.

    Returns:
        str: HTML without any reference to another file.
    """
    parts = [f'<h1>{html.escape(title)}</h1>', _list(about)]
    for section in sections:
        parts.append(f'<h2>{html.escape(section.title)}</h2>')
        if section.headings:
            parts.append(_table(section))
        parts += [_plot(caption, content) for caption, content in section.plots]
        parts.append(_list(section.notes))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + '\n'.join(part for part in parts if part)
        + f'\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _list(lines: Sequence[str]) -> str:
    return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in lines) + '</ul>' if lines else ''


def _table(section: Section) -> str:
    columns = list(zip(*section.lines, strict=True)) or [()] * len(section.headings)
    kinds = [_kind(column) for column in columns]
    head = ''.join(
        f'<th{_class("number" if kind == "number" else "")} title="sort">{html.escape(name)}</th>'
        for name, kind in zip(section.headings, kinds, strict=True)
    )
    classes = section.classes or [''] * len(section.lines)
    body = '\n'.join(
        f'<tr{_class(name)}>'
        + ''.join(f'<td{_class(kind)}>{html.escape(text)}</td>' for text, kind in zip(line, kinds, strict=True))
        + '</tr>'
        for line, name in zip(section.lines, classes, strict=True)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _kind(texts: Sequence[str]) -> str:
    if any(len(text) > LONG for text in texts):
        return 'long'
    return 'number' if is_numeric(texts) else ''


def _class(name: str) -> str:
    return f' class="{name}"' if name else ''


def _plot(caption: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
