"""Tables of a benchmark: rows with ratios and metrics, as markdown and CSV."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cells import TORCH, Cell, Result
from ..store import BUSY, FAILED, BenchmarkError

METRICS = ('bbox_mAP', 'mIoU', 'segm_mAP', 'mAP', 'top1')  # in order of preference
TIMES = ('latency_ms', 'throughput', 'preprocess_ms', 'network_ms', 'decode_ms', 'end_to_end_ms', 'spread', 'drift')
NONE = '–'
SEVEN_BITS = ' w7'  # behind what was evaluated, in read_metrics
SIMULATIONS = ('converted', 'simulated')  # what stands for an engine that was not evaluated itself, best first


@dataclass(frozen=True)
class Metric:
    """A model's accuracy in one arithmetic.

    Args:
        name (str): Such as 'bbox_mAP'.
        value (float): Its value.
        source (str): What was evaluated: an engine, 'float', 'converted' or 'simulated'.
    """

    name: str
    value: float
    source: str


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        result (Result): The cell with what came of it.
        counts (bool): Whether its times are a result.
        to_float (float, optional): Latency by that in float on the same engine.
        to_torch (float, optional): Latency by that of torch eager in float.
        end_to_end_to_float (float, optional): The same of the end-to-end time.
        metric (Metric, optional): Accuracy, if known.
    """

    result: Result
    counts: bool
    to_float: float | None = None
    to_torch: float | None = None
    end_to_end_to_float: float | None = None
    metric: Metric | None = None


def make_rows(
    results: Sequence[Result], allow_busy: bool = False, metrics: dict[str, dict[str, Metric]] | None = None
) -> list[Row]:
    """Put ratios and metrics beside results; every cell has its row.

    Args:
        results (Sequence[Result]): The results.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        metrics (dict, optional): What :func:`read_metrics` returned.

    Returns:
        list[Row]: In the order of the results.
    """
    counted = {result.cell: result for result in results if result.counts(allow_busy)}

    def base(cell: Cell, engine: str) -> Result | None:
        return counted.get(Cell(cell.config, cell.checkpoint, engine, 'float', cell.threads, cell.batch, cell.shape))

    rows = []
    for result in results:
        cell, counts = result.cell, result.counts(allow_busy)
        own = base(cell, cell.engine) if cell.precision != 'float' else None
        rows.append(
            Row(
                result,
                counts,
                _ratio(result, own, 'latency_ms') if counts else None,
                _ratio(result, base(cell, TORCH), 'latency_ms') if counts else None,
                _ratio(result, own, 'end_to_end_ms') if counts else None,
                metric_of(cell, (metrics or {}).get(cell.model, {})),
            )
        )
    return rows


def _ratio(result: Result, other: Result | None, name: str) -> float | None:
    value, base = getattr(result, name), getattr(other, name, None)
    return value / base if value is not None and base else None


def read_metrics(files: Iterable[str | os.PathLike]) -> dict[str, dict[str, Metric]]:
    """Read what ``tools/test.py --out FILE.json`` wrote.

    Args:
        files (Iterable[str | PathLike]): The files.

    Returns:
        dict[str, dict[str, Metric]]: The main metric by config name, then by arithmetic or engine,
        with SEVEN_BITS behind it for weights of 7 bits.

    Raises:
        BenchmarkError: A file is no such file, or has no metric that is known.
    """
    found: dict[str, dict[str, Metric]] = {}
    for file in files:
        try:
            content = json.loads(Path(file).read_text())
            model, execution, values = Path(content['config']).stem, content['execution'], content['metrics']
            by_source = values if execution == 'compared' else {execution: values}
            bits = SEVEN_BITS if content.get('weight_bits') == 7 else ''
            entries = {
                source if source == 'float' else source + bits: main_metric(source, metrics)
                for source, metrics in by_source.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f'--metrics {file} cannot be read ({type(error).__name__}: {error}): expected a file of '
                'python tools/test.py CONFIG CHECKPOINT --compare --out FILE.json'
            ) from error
        found.setdefault(model, {}).update(entries)
    return found


def main_metric(source: str, metrics: dict[str, float]) -> Metric:
    """The metric of ``METRICS`` among those of an evaluation.

    Raises:
        ValueError: There is none.
    """
    for name in METRICS:
        for key, value in metrics.items():
            if key.split('/')[-1] == name:
                return Metric(name, float(value), source)
    raise ValueError(f'none of {", ".join(METRICS)} is among {", ".join(map(str, metrics))}')


def metric_of(cell: Cell, known: dict[str, Metric]) -> Metric | None:
    """The metric that belongs to a cell: that of its engine, else of the simulation of its arithmetic."""
    if cell.precision == 'float':
        return known.get('float')
    if cell.precision not in ('int8', 'int8w7'):
        return None
    bits = SEVEN_BITS if cell.precision == 'int8w7' else ''
    return next((known[name + bits] for name in (cell.engine, *SIMULATIONS) if name + bits in known), None)


# -- formatting


def number(value: float | None, digits: int = 3) -> str:
    """A value with a number of significant digits, without exponent; '–' for None."""
    if value is None:
        return NONE
    if value == 0:
        return '0'
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f'{value:.{max(0, digits - magnitude)}f}'


def millions(value: float | None) -> str:
    """A count in millions."""
    return NONE if value is None else f'{number(value / 1e6)} M'


def percent(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f'{value:.0%}'.replace('%', ' %')


def mebibytes(value: float | None) -> str:
    """Bytes in MiB."""
    return NONE if value is None else f'{number(value / 2**20)}'


def _time(name: str) -> Callable[[Row], str]:
    """A time, marked with * where the machine was busy, and left out where it does not count."""

    def text(row: Row) -> str:
        if not row.counts:
            return NONE
        value = number(getattr(row.result, name))
        return f'{value}*' if row.result.status == BUSY and value != NONE else value

    return text


def shares(row: Row) -> str:
    """Preprocessing, network and decoding in percent of the end-to-end time."""
    result = row.result
    if not row.counts or not result.end_to_end_ms:
        return NONE
    parts = (result.preprocess_ms, result.network_ms, result.decode_ms)
    return ' / '.join(f'{100 * part / result.end_to_end_ms:.0f}' for part in parts)


def _remark(row: Row) -> str:
    result = row.result
    remarks = [result.reason] if result.reason else []
    if result.status == BUSY:
        remarks.append('' if row.counts else 'no result: repeat the command on a quiet machine')
    elif result.status == FAILED:
        remarks.insert(0, 'not measured')
    return (': ' if result.status == FAILED else '; ').join(filter(None, remarks))


def _metric(row: Row) -> str:
    if row.metric is None:
        return NONE
    simulated = f' ({row.metric.source})' if row.metric.source in SIMULATIONS else ''
    return f'{row.metric.value:.3f}{simulated}'


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ('model', lambda row: row.result.cell.model + (' †' if row.result.random_weights else '')),
    ('engine', lambda row: row.result.cell.engine),
    ('precision', lambda row: row.result.cell.precision + (' ‡' if row.result.may_saturate else '')),
    ('end-to-end ms', _time('end_to_end_ms')),
    ('pre / net / decode %', shares),
    ('network ms', _time('latency_ms')),
    ('spread', lambda row: percent(row.result.spread) if row.counts else NONE),
    ('images/s', _time('throughput')),
    ('/ float', lambda row: number(row.to_float)),
    ('/ torch float', lambda row: number(row.to_torch)),
    ('metric', _metric),
    ('INT8 share', lambda row: percent(row.result.int8_share)),
    ('params', lambda row: millions(row.result.params)),
    ('MACs', lambda row: millions(row.result.macs)),
    ('file MiB', lambda row: mebibytes(row.result.file_bytes)),
    ('memory MiB', lambda row: number(row.result.memory_mib)),
    ('remark', _remark),
)


def table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text; columns in which no row has anything are left out."""
    rows = list(rows)
    columns = [(name, [text(row) for row in rows]) for name, text in COLUMNS]
    columns = [(name, texts) for name, texts in columns if any(text not in (NONE, '') for text in texts)]
    return [name for name, _ in columns], [list(cells) for cells in zip(*(texts for _, texts in columns), strict=True)]


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table; numbers to the right."""
    lines = [list(line) for line in lines]
    right = [is_numeric([line[index] for line in lines]) for index in range(len(headings))]
    out = ['| ' + ' | '.join(headings) + ' |', '|' + '|'.join('---:' if side else '---' for side in right) + '|']
    out += ['| ' + ' | '.join(text.replace('|', '\\|').replace('\n', ' ') for text in line) + ' |' for line in lines]
    return '\n'.join(out)


def is_numeric(texts: Sequence[str]) -> bool:
    """Whether a column of a table has numbers, and nothing but numbers."""
    filled = [text for text in texts if text not in (NONE, '')]
    return bool(filled) and all(text[0].isdigit() and '×' not in text for text in filled)


def thread_count(threads: int) -> str:
    """A number of threads in words."""
    return '1 thread' if threads == 1 else f'{threads} threads'


def settings(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by threads, batch and shape, with a heading for each."""
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        cell = row.result.cell
        found.setdefault((cell.shape, cell.batch, cell.threads), []).append(row)
    return [
        (f'{height} × {width} pixels, batch {batch}, {thread_count(threads)}', group)
        for ((height, width), batch, threads), group in found.items()
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know to read the tables."""
    texts = [
        "network ms: median over rounds of each round's median; spread: (p90 − p10) / median of all calls. The cells "
        'of a model ran in turns, each in a process of its own, pinned to as many cores as threads.',
        'end-to-end: from a decoded image in memory to boxes after NMS or a label map; torch: the test pipeline and '
        'decoding of mm. memory: peak over what the process held before it loaded the network.',
        '/ float: latency by that of float on the same engine; / torch float: by torch eager (channels last).',
    ]
    if any(row.result.random_weights for row in rows):
        texts.append(
            '† random weights: latency and size are those of the model; decoding depends on how much is detected, so '
            'the end-to-end time of a trained model differs.'
        )
    if any(row.result.may_saturate for row in rows):
        texts.append(
            '‡ weights of 8 bits on a CPU without VNNI: the times are those of this engine, its products may saturate '
            'and its results be wrong (docs/deployment.md). int8w7 has weights of 7 bits, which cannot.'
        )
    if any(row.counts and row.result.status == BUSY for row in rows):
        texts.append('* measured while the machine was busy: an indication, no result.')
    return texts


def markdown(title: str, about: Sequence[str], rows: Sequence[Row], plots: Sequence[tuple[str, str]] = ()) -> str:
    """The whole report as markdown.

    Args:
        title (str): Heading.
        about (Sequence[str]): Lines on machine and versions.
        rows (Sequence[Row]): The table.
        plots (Sequence[tuple[str, str]]): Caption and file of each plot.
    """
    parts = [f'# {title}', '\n'.join(f'- {line}' for line in about)]
    for heading, group in settings(rows):
        parts += [f'## {heading}', markdown_table(*table(group))]
    if rows:
        parts.append('\n'.join(f'- {note}' for note in notes(rows)))
    parts += [f'![{caption}]({file})' for caption, file in plots]
    return '\n\n'.join(parts) + '\n'


def as_csv(rows: Sequence[Row]) -> str:
    """All results unrounded, a line a cell; times that do not count are empty."""
    stream = io.StringIO()
    lines = [_plain(row) for row in rows]
    writer = csv.DictWriter(stream, list(lines[0]) if lines else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _plain(row: Row) -> dict[str, Any]:
    result, cell = row.result, row.result.cell
    line: dict[str, Any] = dict(model=cell.model, config=cell.config, checkpoint=cell.checkpoint)
    line |= dict(random_weights=result.random_weights, engine=cell.engine, precision=cell.precision)
    line |= dict(threads=cell.threads, batch=cell.batch, height=cell.shape[0], width=cell.shape[1])
    line |= dict(status=result.status, reason=result.reason, may_saturate=result.may_saturate)
    names = ('params', 'macs', 'int8_share', 'file_bytes', 'memory_mib', 'process_memory_mib', *TIMES)
    for name in (*names, 'rounds', 'repetitions', 'others', 'load'):
        line[name] = getattr(result, name) if row.counts or name not in TIMES else None
    line |= dict(to_float=row.to_float, to_torch=row.to_torch, end_to_end_to_float=row.end_to_end_to_float)
    metric = row.metric
    line |= dict(metric=metric and metric.name, value=metric and metric.value, evaluated=metric and metric.source)
    return line
