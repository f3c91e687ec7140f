"""The benchmark computes its results right, keeps what failed, refuses a busy machine, and its page is whole."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mmcv
import numpy as np
import pytest
from conftest import ROOT, run_tool

from frostnet_mm.benchmark import cells, runs
from frostnet_mm.benchmark.cells import Cell, Result, cell_store, groups, plan
from frostnet_mm.benchmark.measure import operators, scheduler, timing
from frostnet_mm.benchmark.measure.operator_costs import OperatorResult
from frostnet_mm.benchmark.report import plots
from frostnet_mm.benchmark.report import tables as report
from frostnet_mm.benchmark.report.publish import profile_table, write_report
from frostnet_mm.benchmark.store import BUSY, DONE, FAILED, BenchmarkError
from frostnet_mm.device.engines import names

MACHINE = dict(
    cpu='Example CPU', flags=['avx2'], cores=4, memory_gib=8.0, system='Linux', python='3.11', versions={'numpy': '2'},
    pinning=True, hypervisor=False,
)  # fmt: skip
CELL = Cell('configs/a.py', None, 'openvino', 'float', 1, 1, (64, 96))
QUICK = scheduler.Effort(rounds=2, seconds=0.01, cool_down=0.0, stages=1, timeout=60)
ANYTHING = timing.Limits(math.inf, math.inf)


def result(engine, precision, latency=None, config='configs/a.py', **values):
    cell = replace(CELL, engine=engine, precision=precision, config=config)
    values = dict(status=DONE if latency else FAILED, spread=0.05) | values
    return Result(cell, latency_ms=latency, **values)


# -- cells


def test_plan():
    found = plan(['a.py', 'b.py'], [], ['torch', 'openvino'], ['float', 'int8'], [1, 2], [1, 8], (64, 96))
    assert len(found) == 2 * 2 * 2 * 2 * 2
    assert [len(group) for group in groups(found)] == [4] * 8  # engines and precisions take turns
    assert len({cell.key for cell in found}) == len(found)
    paired = plan(['a.py', 'b.py'], ['none', 'b.pth'], ['torch'], ['float'], [1], [1], (64, 96))
    assert [cell.checkpoint for cell in paired] == [None, 'b.pth']
    for wrong, message in (
        (dict(checkpoints=['x.pth']), '1 checkpoints were given for 2 configs'),
        (dict(engines=['tflite']), '--engines tflite was given; expected some of torch,'),
        (dict(precisions=[]), '--precisions'),
        (dict(threads=[0]), r'--threads \[0\] was given'),
        (dict(batches=[]), '--batch'),
    ):
        options = dict(checkpoints=[], engines=['torch'], precisions=['float'], threads=[1], batches=[1]) | wrong
        with pytest.raises(BenchmarkError, match=message):
            plan(['a.py', 'b.py'], shape=(64, 96), **options)


def test_key_changes_with_the_files(tmp_path):
    config = tmp_path / 'a.py'
    config.write_text('x = 1')
    cell = replace(CELL, config=str(config))
    before = cell.key
    assert before.startswith('a-') and before.endswith('-openvino-float-t1-b1-64x96') and cell.key == before
    config.write_text('x = 2')
    assert cell.key != before


def test_what_no_engine_can_do():
    assert 'no bf16 form' in replace(CELL, engine='onnxruntime', precision='bf16').unavailable()
    assert 'only simulates' in replace(CELL, engine='torch', precision='int8').unavailable()
    assert all(replace(CELL, engine=engine, precision='bf16').unavailable() is None for engine in ('torch', 'openvino'))


def test_store_goes_on_where_it_was(tmp_path):
    store = cell_store(tmp_path, MACHINE)
    done, busy, failed = (
        result('openvino', 'float', 4.0),
        result('openvino', 'int8', 2.0, status=BUSY),
        result('torch', 'float'),
    )
    for entry in (done, busy, failed):
        store.add(entry)
    again = cell_store(tmp_path, MACHINE)
    assert again.results == store.results
    wanted = [entry.cell for entry in (done, busy, failed)]
    assert again.pending(wanted, allow_busy=False) == [busy.cell, failed.cell]
    assert again.pending(wanted, allow_busy=True) == [failed.cell]
    assert again.pending(wanted, allow_busy=True, again=True) == wanted
    other = dict(MACHINE, cpu='Another CPU')
    with pytest.raises(BenchmarkError, match=r'another machine or of other packages \(cpu differ\)'):
        cell_store(tmp_path, other)
    assert cell_store(tmp_path, other, again=True).results == {}
    (tmp_path / 'results.json').write_text('[]')
    with pytest.raises(BenchmarkError, match='no file of this benchmark'):
        cell_store(tmp_path, MACHINE)


def test_results_of_before_are_read(tmp_path):
    """Their ``may_overflow`` is ``may_saturate`` now; names that are not known are left out."""
    store = cell_store(tmp_path, MACHINE)
    kept = result('openvino', 'int8', 2.0, may_saturate=True)
    store.add(kept)
    content = json.loads(store.path.read_text())
    assert set(content) == {'machine', 'results'} and content['machine'] == MACHINE
    content['results'][0]['may_overflow'] = content['results'][0].pop('may_saturate')
    content['results'][0]['of_later'] = 1
    store.path.write_text(json.dumps(content))
    assert cell_store(tmp_path, MACHINE).results == {kept.cell.key: kept}
    row = report.make_rows([kept])
    assert '‡' in report.table(row)[1][0][2] and 'may_saturate' in report.as_csv(row).splitlines()[0]


# -- tables


def made_up():
    return [
        result('torch', 'float', 40.0),
        result('torch', 'int8', reason='torch eager only simulates INT8'),
        result('openvino', 'float', 10.0, preprocess_ms=4.0, network_ms=10.0, decode_ms=2.0, end_to_end_ms=16.0),
        result(
            'openvino', 'int8', 4.0, throughput=250.0, macs=1_500_000, params=2_000_000, int8_share=0.934,
            file_bytes=3 * 2**20, memory_mib=42.4, preprocess_ms=2.0, network_ms=4.0, decode_ms=2.0, end_to_end_ms=8.0,
            random_weights=True,
        ),
        result('onnxruntime', 'float', 12.0, status=BUSY, reason='busy: others'),
        result('onnxruntime', 'int8', 9.0),
    ]  # fmt: skip


def test_ratios():
    rows = report.make_rows(made_up())
    assert [row.to_float for row in rows] == [None, None, None, 0.4, None, None]  # the busy float is no base
    assert [row.to_torch for row in rows] == [1.0, None, 0.25, 0.1, None, 0.225]
    assert rows[3].end_to_end_to_float == 0.5
    allowed = report.make_rows(made_up(), allow_busy=True)
    assert (allowed[4].to_torch, allowed[5].to_float) == (0.3, 0.75)
    others = report.make_rows([result('openvino', 'float', 10.0), result('openvino', 'int8', 4.0, config='b.py')])
    assert others[1].to_float is None  # of another model


def test_every_cell_stays_in_the_table():
    rows = report.make_rows(made_up())
    headings, lines = report.table(rows)
    assert len(lines) == 6
    cells_of = [dict(zip(headings, line, strict=True)) for line in lines]
    assert cells_of[1]['remark'] == 'not measured: torch eager only simulates INT8' and cells_of[1]['network ms'] == '–'
    assert cells_of[4]['network ms'] == '–' and 'no result: repeat' in cells_of[4]['remark']
    assert cells_of[3] == {
        'model': 'a †', 'engine': 'openvino', 'precision': 'int8', 'end-to-end ms': '8.00',
        'pre / net / decode %': '25 / 50 / 25', 'network ms': '4.00', 'spread': '5 %', 'images/s': '250',
        '/ float': '0.400', '/ torch float': '0.100', 'INT8 share': '93 %', 'params': '2.00 M', 'MACs': '1.50 M',
        'file MiB': '3.00', 'memory MiB': '42.4', 'remark': '',
    }  # fmt: skip
    headings, lines = report.table(report.make_rows(made_up(), allow_busy=True))
    assert dict(zip(headings, lines[4], strict=True))['network ms'] == '12.0*'
    assert 'metric' not in headings  # none is known


def test_csv_has_all_digits_and_no_times_that_do_not_count():
    lines = report.as_csv(report.make_rows(made_up())).splitlines()
    assert len(lines) == 7
    rows = [dict(zip(lines[0].split(','), line.split(','), strict=True)) for line in lines[1:]]
    assert rows[3]['latency_ms'] == '4.0' and rows[3]['macs'] == '1500000' and rows[3]['to_torch'] == '0.1'
    assert rows[4]['latency_ms'] == '' and rows[4]['status'] == 'busy'


@pytest.mark.parametrize(
    'value, text',
    [(None, '–'), (0, '0'), (0.01234, '0.012'), (0.5, '0.500'), (9.876, '9.88'), (123.4, '123'), (12345.6, '12346')],
)
def test_numbers(value, text):
    assert report.number(value) == text


def test_markdown_is_aligned_and_escaped():
    text = report.markdown_table(['name', 'ms'], [['a|b', '1.5'], ['c', '–']])
    assert text == '| name | ms |\n|---|---:|\n| a\\|b | 1.5 |\n| c | – |'
    assert not report.is_numeric(['24 → 72, 80 × 80']) and not report.is_numeric(['–'])


def test_metrics_belong_to_engine_or_simulation(tmp_path):
    compared = tmp_path / 'compared.json'
    values = {'float': 0.30, 'simulated': 0.28, 'converted': 0.285, 'openvino': 0.284}
    metrics = {name: {'coco/bbox_mAP_50': 0.9, 'coco/bbox_mAP': value} for name, value in values.items()}
    compared.write_text(json.dumps(dict(config='x/a.py', checkpoint='c', execution='compared', metrics=metrics)))
    single = tmp_path / 'single.json'
    single.write_text(json.dumps(dict(config='b.py', execution='float', metrics={'mIoU': 71.5})))
    seven = tmp_path / 'seven.json'
    metrics = {'converted': {'coco/bbox_mAP': 0.27}, 'openvino': {'coco/bbox_mAP': 0.265}}
    seven.write_text(json.dumps(dict(config='x/a.py', execution='compared', metrics=metrics, weight_bits=7)))
    known = report.read_metrics([compared, single, seven])
    for engine, value in (('openvino', 0.265), ('executorch', 0.27)):
        cell = replace(CELL, config='a.py', engine=engine, precision='int8w7')
        assert report.metric_of(cell, known['a']).value == value
    rows = report.make_rows(
        [*made_up(), result('openvino', 'bf16', 3.0), result('torch', 'float', 1.0, 'b.py')], metrics=known
    )
    assert [row.metric and row.metric.value for row in rows] == [0.30, 0.285, 0.30, 0.284, 0.30, 0.285, None, 71.5]
    headings, lines = report.table(rows)
    assert [line[headings.index('metric')] for line in lines][3:6] == ['0.284', '0.300', '0.285 (converted)']
    for content in ('{}', '[', '{"config": "a.py", "execution": "float", "metrics": {"loss": 1}}'):
        single.write_text(content)
        with pytest.raises(BenchmarkError, match='single.json cannot be read'):
            report.read_metrics([single])


# -- the page


def test_page_is_self_contained(tmp_path):
    results = made_up()
    results[3].profile = [
        dict(name='backbone.<conv>', kind='Convolution', precision='int8', milliseconds=3.0),
        dict(name='head', kind='Reorder', precision='float32', milliseconds=1.0),
    ]
    case = operators.OperatorCase('conv', 24, 72, 80)
    entries = [OperatorResult(case, 'openvino', 1, DONE, '', 0.4, 0.1, 0.05)]
    metrics = {'a': {'float': report.Metric('bbox_mAP', 0.3, 'float')}}
    page = write_report(tmp_path, MACHINE, results, entries, metrics=metrics).read_text()
    assert page.count('<img') == 4 and page.count('src="data:image/png;base64,iVBOR') == 4
    without_plots = re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]+"', '', page)
    assert not re.search(r'https?:|//[a-z]|@import|url\(|<link|src=|href=|fetch\(', without_plots)
    assert page.count('<table>') == 3 and 'backbone.&lt;conv&gt;' in page and '<conv>' not in page
    assert page.count('<tr class="failed">') == 1 and page.count('<tr class="best">') == 1
    text = (tmp_path / 'report.md').read_text()
    assert 'Example CPU (avx2), 4 cores, 8 GiB' in text and '† random weights' in text
    assert '| conv 1x1 | 24 → 72, 80 × 80 | 11.1 M | 0.400 | 0.100 | 0.250 | 27.6 | 111 |' in text
    assert sorted(path.name for path in tmp_path.glob('*.png')) == [
        'accuracy-t1-b1-64x96.png', 'latency-t1-b1-64x96.png', 'operators-t1.png', 'stages-t1-b1-64x96.png',
    ]  # fmt: skip


def test_bars_of_operators_are_as_long_as_their_times(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, 'png_of', lambda figure: figures.append(figure) or b'png')
    cases = [operators.OperatorCase('conv', 24, 72, 80), operators.OperatorCase('depthwise', 32, 32, 160, 3)]
    times = [('openvino', 0, DONE, 0.4, 0.1), ('openvino', 1, DONE, 0.5, 0.3), ('onnxruntime', 0, DONE, 0.5, 0.2)]
    times += [('onnxruntime', 1, BUSY, 0.6, 0.9)]
    entries = [OperatorResult(cases[i], engine, 1, status, '', *ms, 0.05) for engine, i, status, *ms in times]
    assert plots.operator_bars(entries) == b'png' and plots.operator_bars(entries[3:]) is None
    widths = [[bar.get_width() for bar in axis.patches] for axis in figures[0].axes]
    assert widths == [[0.4, 0.1, 0.5, 0.3], [0.5, 0.2]]
    assert [[text.get_text() for text in axis.texts] for axis in figures[0].axes] == [['0.25', '0.60'], ['0.40']]
    assert plots.operator_bars(entries, allow_busy=True) and [len(axis.patches) for axis in figures[1].axes] == [4, 4]


def test_a_table_of_failures_alone_has_a_page(tmp_path):
    page = write_report(tmp_path, MACHINE, [result('torch', 'float', reason='no torch')]).read_text()
    assert 'no torch' in page and '<img' not in page


def test_profile_sums_up_kinds():
    entry = made_up()[3]
    entry.profile = [
        dict(name=name, kind=kind, precision='int8', milliseconds=value)
        for name, kind, value in (('a', 'Conv', 5.0), ('b', 'Pool', 3.0), ('c', 'Conv', 2.0))
    ]
    entry.profile[0] |= dict(form='conv 1x1', macs=20_000_000)
    entry.profile[2] |= dict(form='depthwise 3x3', macs=8_000_000)
    _, _, lines, (remark,) = profile_table(entry, count=2)
    assert lines == [
        ['all 2', 'Conv', 'int8', '7.00', '70.0', '4.00'], ['all 1', 'Pool', 'int8', '3.00', '30.0', '–'],
        ['all 1', 'conv 1x1', 'int8', '5.00', '50.0', '4.00'],
        ['all 1', 'depthwise 3x3', 'int8', '2.00', '20.0', '4.00'],
        ['a', 'Conv', 'int8', '5.00', '50.0', '4.00'], ['b', 'Pool', 'int8', '3.00', '30.0', '–'],
    ]  # fmt: skip
    assert '2 slowest of 3 layers' in remark


# -- runs


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    """Ctrl-C in the second group leaves the first, which the next run does not measure again."""
    measured = []

    def measure(group, prepared, *_):
        if len(measured) == 1 and group[0].threads == 2:
            measured.append('interrupted')
            raise KeyboardInterrupt
        measured.append(group[0].threads)
        return [Result(cell, DONE, latency_ms=2.0, spread=0.0) for cell in group]

    monkeypatch.setattr(runs, 'measure_group', measure)
    monkeypatch.setattr(runs.Benchmark, '_prepare', lambda self, group: {})
    wanted = [replace(CELL, threads=threads) for threads in (1, 2)]
    options = dict(effort=QUICK, limits=ANYTHING, allow_busy=True, say=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        runs.Benchmark(tmp_path, MACHINE, **options).measure(wanted)
    assert '64 × 96 pixels, batch 1, 1 thread' in (tmp_path / 'report.md').read_text()
    assert len(runs.Benchmark(tmp_path, MACHINE, **options).measure(wanted)) == 2
    assert measured == [1, 'interrupted', 2]
    assert '2 threads' in (tmp_path / 'report.md').read_text()


def test_busy_machine_is_refused(tmp_path):
    benchmark = runs.Benchmark(tmp_path, MACHINE, QUICK, timing.Limits(others=-1.0))
    with pytest.raises(BenchmarkError, match='--allow-busy'):
        benchmark.measure([CELL])
    assert not (tmp_path / 'results.json').exists()


# -- the tool


def test_tool_refuses_bad_input(tmp_path, capsys):
    out = ['--out', tmp_path]
    assert run_tool('benchmark', *out) == 2
    assert 'expected configs, or --by-operator' in capsys.readouterr().err
    assert run_tool('benchmark', 'none.py', *out) == 2
    assert 'Config none.py does not exist' in capsys.readouterr().err
    config = Path(__file__).parent.parent / 'configs/ssdlite_frostnet_coco.py'
    assert run_tool('benchmark', config, '--engines', 'tflite', *out) == 2
    assert '--engines tflite was given' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tool_keeps_what_cannot_be(tmp_path, capsys):
    config = Path(__file__).parent.parent / 'configs/ssdlite_frostnet_coco.py'
    options = ['--engines', 'onnxruntime', '--precisions', 'bf16', '--allow-busy', '--rounds', 1]
    assert run_tool('benchmark', config, *options, '--out', tmp_path) == 0
    assert 'not measured: onnxruntime has no bf16 form' in capsys.readouterr().out
    assert (tmp_path / 'report.html').is_file() and (tmp_path / 'cells.csv').is_file()


@pytest.mark.parametrize(
    ('configs', 'options', 'shape'),
    [
        (['frostnet_imagenet'], [], (224, 224)),  # its test pipeline resizes to 256 and cuts out 224
        (['frostnet_imagenet'], ['--cfg-options', 'input_size=96'], (96, 96)),
        (['frostnet_imagenet', 'ssdlite_frostnet_coco'], ['--shape', 64, 128], (64, 128)),
        (['frostnet_imagenet', 'ssdlite_frostnet_coco'], [], None),
        (['retinanet_frostnet_coco', 'ssdlite_frostnet_coco'], [], (320, 320)),
    ],
)
def test_the_shape_is_that_of_the_models(configs, options, shape, tmp_path, monkeypatch, capsys):
    planned = []

    def plan_nothing(*args):
        planned.append(args[-1])
        raise SystemExit(0)

    monkeypatch.setattr(cells, 'plan', plan_nothing)
    for name in ('train/cat', 'train/dog', 'val/cat', 'val/dog'):
        mmcv.imwrite(np.zeros((9, 9, 3), np.uint8), str(tmp_path / f'data/imagenet/{name}/1.png'))
    monkeypatch.chdir(tmp_path)
    files = [ROOT / f'configs/{name}.py' for name in configs]
    status = run_tool('benchmark', *files, '--engines', 'onnxruntime', '--out', 'out', *options)
    assert (status, planned) == ((2, []) if shape is None else (0, [shape]))
    assert ('usual shapes of these configs are 224 224 and 320 320: give' in capsys.readouterr().err) == (not shape)


def test_tool_refuses_engines_that_no_config_registers(tmp_path, capsys):
    options = ['--by-operator', '--allow-busy', '--out', tmp_path]
    assert run_tool('benchmark', *options, '--engines', 'onnxrutime') == 2
    assert '--engines onnxrutime was given; expected some of torch,onnxruntime,openvino' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_engine_that_a_config_registers_goes_through_the_tool(engine_registry, tmp_path, capsys):
    """Known once the config is loaded, deployed to in a process that loads it, measured by what lies in the folder."""
    config = tmp_path / 'plugged.py'
    config.write_text(
        f"_base_ = '{ROOT}/configs/ssdlite_frostnet_coco.py'\n"
        "custom_imports = dict(imports=['frostnet_mm', 'dummy_engine'], allow_failed_imports=False)\n"
    )
    options = ['--engines', 'dummy', '--precisions', 'float,bf16', '--shape', 64, 96, '--rounds', 1, '--seconds', 0.01]
    out = tmp_path / 'out'
    assert run_tool('benchmark', config, *options, '--profile', '--allow-busy', '--out', out) == 0
    assert f'{out}/report.html' in capsys.readouterr().out
    in_float, bf16 = json.loads((out / 'results.json').read_text())['results']
    assert (in_float['status'], in_float['cell']['engine']) != (FAILED, 'dummy'), in_float['reason']
    assert in_float['latency_ms'] > 0 and in_float['rounds'] == 1
    assert bf16['status'] == FAILED and 'dummy has no bf16 form here; torch (autocast) and openvino' in bf16['reason']


ENGINE_FREE = [*(ROOT / 'frostnet_mm/benchmark').rglob('*.py'), *(ROOT / 'tools').glob('benchmark.py')]
#: Those of two engines, of engines' own files, and of a preset that has an engine's name.
NAMING = ('zoo', 'fuzz', '_numerics_plan', 'draw_seam', 'kill_tools')
ENGINE_FREE += [path for path in (ROOT / 'tools/studies').glob('*.py') if not any(n in path.name for n in NAMING)]


@pytest.mark.parametrize('path', ENGINE_FREE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_engine_is_named(path):
    """What an engine can do is asked of it: no word of the code is an engine's name."""
    words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not words & set(names())
    imported = {
        node.module or ''
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    if 'measure' in path.parts:  # what measures makes no tables
        assert not [name for name in imported if name.startswith(('report', 'runs'))]


@pytest.mark.parametrize(
    'arguments, status, text',
    [(['--help'], 0, '--by-operator'), (['configs/none.py'], 2, 'Config configs/none.py does not exist')],
)
def test_tool_answers_at_once(arguments, status, text):
    """Help and a wrong path come without what takes seconds to import."""
    code = (
        'import runpy, sys\n'
        f'sys.argv = ["tools/benchmark.py", *{arguments!r}]\n'
        'try:\n    runpy.run_path(sys.argv[0], run_name="__main__")\n'
        'finally:\n    print(*sorted({name.partition(".")[0] for name in sys.modules}))\n'
    )
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'tools')]))
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == status and text in done.stdout + done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert 'frostnet_mm' in imported
    assert not {'torch', 'torchao', 'mmcv', 'mmdet', 'mmseg', 'matplotlib', 'onnxruntime'} & imported
