"""Writes what a benchmark found: markdown, CSV, JSON, plots and one page that holds all."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ...files import write_bytes, write_text
from ..cells import Result
from ..measure.machine import describe_line
from ..measure.operator_costs import OperatorResult
from ..store import FAILED
from . import html
from .operator_table import HEADINGS, NOTES, operator_tables
from .plots import accuracy_plot, latency_bars, operator_bars, stage_bars
from .tables import (
    Metric,
    Row,
    as_csv,
    make_rows,
    markdown,
    markdown_table,
    notes,
    number,
    settings,
    table,
    thread_count,
)

TITLE = 'INT8 on engines'
PLOTS = (
    ('latency', 'Latency of the network in ms (ratio to float in brackets); the line is the spread', latency_bars),
    ('stages', 'Where the time from image to result goes', stage_bars),
    ('accuracy', 'Accuracy against latency', accuracy_plot),
)
OPERATORS = 'Operators in float and INT8, each by itself, in ms'
LAYERS = 15  # of a profile that are shown; the JSON has all


def about_lines(machine: dict) -> list[str]:
    """The machine in a few lines."""
    versions = ', '.join(f'{name} {value}' for name, value in machine['versions'].items())
    lines = [describe_line(machine), f'Python {machine["python"]}, {versions}']
    if not machine['pinning']:
        lines.append('This system cannot bind processes to cores.')
    if machine['hypervisor']:
        lines.append('A virtual machine: other machines on its host may disturb.')
    return lines


def write_report(
    out: str | os.PathLike,
    machine: dict,
    results: Sequence[Result],
    operators: Sequence[OperatorResult] = (),
    allow_busy: bool = False,
    metrics: dict[str, dict[str, Metric]] | None = None,
) -> Path:
    """Write ``report.md``, ``cells.csv``, ``report.html`` and the plots; JSON is kept by the stores.

    Args:
        out (str | PathLike): The folder.
        machine (dict): Of :func:`describe_machine`.
        results (Sequence[Result]): The cells.
        operators (Sequence[OperatorResult]): What operators cost.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        metrics (dict, optional): Of :func:`read_metrics`.

    Returns:
        Path: The page.
    """
    out = Path(out)
    rows = make_rows(results, allow_busy, metrics)
    about = about_lines(machine)
    sections, files = [], []
    for heading, group in settings(rows):
        plots = []
        for name, caption, draw in PLOTS:
            content = draw(group)
            if content is not None:
                file = f'{name}-{_slug(group[0])}.png'
                write_bytes(out / file, content)
                plots.append((caption, content))
                files.append((f'{caption}: {heading}', file))
        headings, lines = table(group)
        sections.append(html.Section(heading, headings, lines, _classes(group), plots))
    if rows:
        sections[-1].notes = notes(rows)
        write_text(out / 'cells.csv', as_csv(rows))
    drawn = []
    for threads in dict.fromkeys(own.threads for own in operators):
        content = operator_bars([own for own in operators if own.threads == threads], allow_busy)
        if content is not None:
            caption, file = f'{OPERATORS}, {thread_count(threads)}', f'operators-t{threads}.png'
            write_bytes(out / file, content)
            drawn.append((caption, content))
            files.append((caption, file))
    if drawn:
        sections.append(html.Section('Operators', plots=drawn))
    text = markdown(TITLE, about, rows, files)
    for heading, headings, lines, remarks in _more(rows, operators, allow_busy):
        sections.append(html.Section(heading, headings, lines, notes=remarks))
        text += f'\n## {heading}\n\n{markdown_table(headings, lines)}\n'
        text += ''.join(f'\n- {remark}\n' for remark in remarks)
    write_text(out / 'report.md', text)
    write_text(out / 'machine.json', json.dumps(machine, indent=1))
    write_text(out / 'report.html', html.page(TITLE, about, sections))
    return out / 'report.html'


def _more(rows: Sequence[Row], operators: Sequence[OperatorResult], allow_busy: bool) -> list[tuple]:
    """Tables beside those of the cells: heading, headings, lines, remarks."""
    tables = [profile_table(row.result) for row in rows if row.result.profile]
    found = operator_tables(operators, allow_busy)
    for index, (heading, lines) in enumerate(found):
        tables.append((heading, HEADINGS, lines, NOTES if index == len(found) - 1 else ()))
    return tables


def profile_table(result: Result, count: int = LAYERS) -> tuple[str, Sequence[str], list[list[str]], Sequence[str]]:
    """The time by layer of a cell, first by kind, then by form of convolution: heading, headings, lines, remarks."""
    cell = result.cell
    total = sum(layer['milliseconds'] for layer in result.profile) or 1.0
    lines = []
    for key in ('kind', 'form'):
        groups: dict[tuple[str, str], list[dict]] = {}
        for layer in (layer for layer in result.profile if key in layer):
            groups.setdefault((layer[key], layer['precision']), []).append(layer)
        sums = [_profile_line(f'all {len(layers)}', *names, layers, total) for names, layers in groups.items()]
        lines += sorted(sums, key=lambda line: -float(line[4]))
    lines += [
        _profile_line(layer['name'], layer['kind'], layer['precision'], [layer], total)
        for layer in result.profile[:count]
    ]
    heading = (
        f'Layers of {cell.model}, {cell.engine} {cell.precision}, {thread_count(cell.threads)}, batch {cell.batch}'
    )
    shown = min(count, len(result.profile))
    remark = (
        f'Kinds first, then forms of convolutions, then the {shown} slowest of {len(result.profile)} layers; with '
        'profiling on, which costs time itself.'
    )
    return heading, ('layer', 'kind', 'precision', 'ms', '% of all', 'GMAC/s'), lines, (remark,)


def _profile_line(name: str, kind: str, precision: str, layers: Sequence[dict], total: float) -> list[str]:
    """Layers as one line; what they compute in a second is told if all of them have a cost."""
    time = sum(layer['milliseconds'] for layer in layers)
    macs = sum(layer['macs'] for layer in layers) if all('macs' in layer for layer in layers) else None
    rate = None if macs is None or not time else macs / time / 1e6
    return [name, kind, precision, number(time), f'{100 * time / total:.1f}', number(rate)]


def _slug(row: Row) -> str:
    cell = row.result.cell
    return f't{cell.threads}-b{cell.batch}-{cell.shape[0]}x{cell.shape[1]}'


def _classes(rows: Sequence[Row]) -> list[str]:
    """Failed cells, and each model's fastest."""
    best: dict[str, float] = {}
    for row in rows:
        if row.counts:
            model = row.result.cell.model
            best[model] = min(best.get(model, row.result.latency_ms), row.result.latency_ms)
    return [
        'failed'
        if row.result.status == FAILED
        else 'best'
        if row.counts and row.result.latency_ms == best[row.result.cell.model]
        else ''
        for row in rows
    ]
