"""The benchmark computes its figures right, keeps what failed, refuses a busy machine, and its page is whole."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import run_tool
from onnx import TensorProto, helper, numpy_helper

from frostnet_mm.benchmark import runs
from frostnet_mm.benchmark.cells import BUSY, DONE, FAILED, BenchmarkError, Cell, Result, Store, groups, plan
from frostnet_mm.benchmark.measure import loading, machine, operators, scheduler, timing
from frostnet_mm.benchmark.report.operator_table import (
    OperatorEffort,
    OperatorResult,
    OperatorStore,
    measure_operators,
    operator_lines,
    summarize,
)
from frostnet_mm.benchmark.report.publish import profile_table, write_report
from frostnet_mm.benchmark.report.tables import tables as report

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


# -- times


def test_statistics_by_hand():
    found = timing.summarize([[1.0, 2.0, 3.0], [4.0, 4.0], [10.0]], batch=8)
    assert found.latency == 4.0  # the median of 2, 4 and 10, not that of all times, which is 3.5
    assert found.throughput == 2.0
    assert found.drift == pytest.approx((10 - 2) / 4)
    # Ordered 1 2 3 4 4 10: p90 at position 4.5 is 7, p10 at 0.5 is 1.5, the median 3.5.
    assert found.spread == pytest.approx((7 - 1.5) / 3.5)
    assert (found.rounds, found.repetitions) == (3, 6)
    with pytest.raises(ValueError, match=r'2 rounds of \[1, 0\] times'):
        timing.summarize([[1.0], []])


def test_percentile_is_numpys():
    values = np.random.default_rng(0).random(23).tolist()
    for share in (0.0, 0.1, 0.5, 0.93, 1.0):
        assert timing.percentile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-12)


def test_calls_until_time_and_number_are_reached():
    now = [0.0]

    def call():
        now[0] += 0.25

    assert timing.time_calls(call, 1.0, 2, lambda: now[0]) == [0.25] * 4
    assert timing.time_calls(call, 0.5, 5, lambda: now[0]) == [0.25] * 5


def test_work_of_others_is_what_the_machine_did_beyond_this_process(monkeypatch, tmp_path):
    ticks = timing.os.sysconf('SC_CLK_TCK')
    stat = tmp_path / 'stat'
    # user 3 s, nice 1 s, system 2 s, idle 50 s, iowait 5 s, irq 0, softirq 1 s, steal 4 s, guest (part of user)
    stat.write_text('cpu  ' + ' '.join(str(value * ticks) for value in (3, 1, 2, 50, 5, 0, 1, 4, 2, 0)) + '\ncpu0 1\n')
    assert timing.machine_seconds(str(stat)) == 11.0
    assert timing.machine_seconds(str(tmp_path / 'none')) is None
    machine_times, own, clock = iter([100.0, 103.0]), iter([1.0, 2.0]), iter([10.0, 14.0])
    monkeypatch.setattr(timing, 'machine_seconds', lambda: next(machine_times))
    monkeypatch.setattr(timing.time, 'process_time', lambda: next(own))
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(clock))
    with timing.OtherWork() as others:
        pass
    assert others.cores == 0.5  # 3 s of work less 1 s of one's own, in 4 s


def test_busy():
    limits = timing.Limits(others=0.25, spread=0.3)
    assert timing.busy_reason(0.2, 0.3, limits) is None
    assert timing.busy_reason(None, None, limits) is None
    assert timing.busy_reason(1.5, 0.1, limits) == 'busy: other processes used 1.50 cores (limit 0.25)'
    assert timing.busy_reason(0.0, 0.42, limits) == 'busy: the times spread by 42% (limit 30%)'
    with pytest.raises(scheduler.BusyError, match='--allow-busy'):
        scheduler.require_quiet(timing.Limits(others=-1.0), seconds=0.01)


# -- the machine


def test_machine_from_its_files(tmp_path):
    info = tmp_path / 'cpuinfo'
    info.write_text('processor : 0\nmodel name : Example 9000\nflags : fpu avx2 avx512_vnni\nbogomips : 1\n')
    assert machine._cpu_info(info) == dict(model='Example 9000', flags={'fpu', 'avx2', 'avx512_vnni'})
    status = tmp_path / 'status'
    status.write_text('Name:\tpython\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n')
    assert machine.memory_mib(str(status)) == (2.0, 4.0)
    line = machine.describe_line(machine.describe_machine())
    assert f'{len(machine.physical_cores())} cores' in line
    assert machine.versions(['numpy', 'no-such-package-here']) == {'numpy': np.__version__}


def test_cores_are_the_last_and_not_more_than_there_are(monkeypatch):
    monkeypatch.setattr(machine, 'physical_cores', lambda: [0, 2, 5])
    assert machine.choose_cpus(2) == [2, 5]
    with pytest.raises(ValueError, match='4 threads were asked for, but this process may use 3 cores'):
        machine.choose_cpus(4)


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
        (dict(engines=['tensorrt']), '--engines tensorrt was given; expected some of torch,'),
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
    store = Store(tmp_path, MACHINE)
    done, busy, failed = (
        result('openvino', 'float', 4.0),
        result('openvino', 'int8', 2.0, status=BUSY),
        result('torch', 'float'),
    )
    for entry in (done, busy, failed):
        store.add(entry)
    again = Store(tmp_path, MACHINE)
    assert again.results == store.results
    wanted = [entry.cell for entry in (done, busy, failed)]
    assert again.pending(wanted, allow_busy=False) == [busy.cell, failed.cell]
    assert again.pending(wanted, allow_busy=True) == [failed.cell]
    assert again.pending(wanted, allow_busy=True, again=True) == wanted
    other = dict(MACHINE, cpu='Another CPU')
    with pytest.raises(BenchmarkError, match=r'another machine or of other packages \(cpu differ\)'):
        Store(tmp_path, other)
    assert Store(tmp_path, other, again=True).results == {}
    (tmp_path / 'results.json').write_text('[]')
    with pytest.raises(BenchmarkError, match='no file of this benchmark'):
        Store(tmp_path, MACHINE)


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
    assert page.count('<img') == 3 and page.count('src="data:image/png;base64,iVBOR') == 3
    without_figures = re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]+"', '', page)
    assert not re.search(r'https?:|//[a-z]|@import|url\(|<link|src=|href=|fetch\(', without_figures)
    assert page.count('<table>') == 3 and 'backbone.&lt;conv&gt;' in page and '<conv>' not in page
    assert page.count('<tr class="failed">') == 1 and page.count('<tr class="best">') == 1
    text = (tmp_path / 'report.md').read_text()
    assert 'Example CPU (avx2), 4 cores, 8 GiB' in text and '† random weights' in text
    assert '| conv 1x1 | 24 → 72, 80 × 80 | 11.1 M | 0.400 | 0.100 | 0.250 | 27.6 | 111 |' in text
    assert sorted(path.name for path in tmp_path.glob('*.png')) == [
        'accuracy-t1-b1-64x96.png', 'latency-t1-b1-64x96.png', 'stages-t1-b1-64x96.png',
    ]  # fmt: skip


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


# -- processes


@pytest.fixture(scope='module')
def tiny_network(tmp_path_factory):
    """A convolution with ReLU as an ONNX file."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), 'weight')
    nodes = [helper.make_node('Conv', ['images', 'weight'], ['x']), helper.make_node('Relu', ['x'], ['y'])]
    images = helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 16, 16])
    y = helper.make_tensor_value_info('y', TensorProto.FLOAT, [1, 4, 14, 14])
    graph = helper.make_graph(nodes, 'tiny', [images], [y], [weight])
    path = tmp_path_factory.mktemp('network') / 'tiny.onnx'
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9), path)
    return path


def onnx_spec(cell, path):
    spec = dict(kind='onnx', path=str(path), engine=cell.engine, precision=cell.precision, threads=1, batch=1)
    return dict(spec=spec | dict(shape=[16, 16]))


def test_cells_in_processes(tiny_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder that has nothing to do with the package
    wanted = [replace(CELL, engine=engine) for engine in ('onnxruntime', 'openvino', 'executorch', 'inductor')]
    wanted.append(replace(CELL, engine='onnxruntime', precision='bf16'))
    prepared = {cell.key: onnx_spec(cell, tiny_network) for cell in wanted}
    prepared[wanted[3].key] = dict(reason='no compiler')
    found = scheduler.measure_group(wanted, prepared, QUICK, ANYTHING, tmp_path / 'logs', say=lambda line: None)
    assert [entry.cell for entry in found] == wanted
    for entry in found[:2]:
        assert (entry.status, entry.reason, entry.rounds) == (DONE, '', 2)
        assert entry.repetitions >= 2 * QUICK.least and entry.latency_ms > 0
        assert entry.throughput == pytest.approx(1000 / entry.latency_ms)
        assert entry.process_memory_mib > entry.memory_mib >= 0
        assert entry.no_end_to_end == 'the file is a network alone'
    assert found[2].status == FAILED and 'expected onnxruntime or openvino for an ONNX file' in found[2].reason
    assert found[3].reason == 'no compiler' and 'no bf16 form' in found[4].reason
    busy = scheduler.measure_group(
        wanted[:1], prepared, QUICK, timing.Limits(-1.0, math.inf), tmp_path / 'logs', say=lambda line: None
    )
    assert busy[0].status == BUSY and busy[0].reason.startswith('busy: other processes used')
    page = write_report(tmp_path, MACHINE, found).read_text()
    assert page.count('<tr class="failed">') == 3


def test_process_without_torch(tiny_network, tmp_path):
    """What measures an ONNX engine has torch in it only if started for torch."""
    worker = scheduler.WorkerProcess(tmp_path / 'log.txt')
    try:
        answer = worker.ask('load', 60, spec=onnx_spec(CELL, tiny_network)['spec'])
        assert answer['figures']['process_memory_mib'] > 0
        maps = Path(f'/proc/{worker.process.pid}/maps')
        if maps.is_file():
            assert 'libtorch' not in maps.read_text() and 'openvino' in maps.read_text()
        with pytest.raises(scheduler.WorkerError, match='TypeError'):
            worker.ask('measure', 60)
        assert worker.ask('measure', 60, seconds=0.0, least=3)['times'][2] > 0  # an error does not end it
        worker.process.kill()
        with pytest.raises(scheduler.WorkerError, match='the process ended with signal 9'):
            worker.ask('measure', 60, seconds=0.0, least=3)
    finally:
        worker.close()


def test_too_many_threads_are_a_reason(tiny_network, tmp_path):
    cell = replace(CELL, threads=4096)
    found = scheduler.measure_group([cell], {cell.key: onnx_spec(cell, tiny_network)}, QUICK, ANYTHING, tmp_path)
    assert found[0].status == FAILED and '4096 threads were asked for' in found[0].reason


def test_deployment_figures(tmp_path):
    sizes = {'network.xml': 10, 'network.bin': 100, 'network.onnx': 1000, 'check.npz': 10_000}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    description = dict(
        network='network.xml', files=dict.fromkeys(sizes, ''), model=dict(params=5, macs=7, random_weights=True),
        engine='openvino', precision='int8', numerics=dict(weight_bits=7),
        int8_share=1.0, engine_int8_share=0.75, operators={'Convolution int8': 3},
    )  # fmt: skip
    assert loading.deployment_figures(description, tmp_path) == dict(
        params=5,
        macs=7,
        random_weights=True,
        may_overflow=False,
        int8_share=0.75,
        file_bytes=110,
        operators={'Convolution int8': 3},
    )
    images = loading.deployment_input(dict(input=dict(dtype='uint8', shape=[None, 32, None, 3])), 2, (64, 96))
    assert images.shape == (2, 32, 96, 3) and images.dtype == np.uint8
    assert loading.deployment_input(dict(input=dict(dtype='float32', shape=[1, 3, 8, 8])), 2, (64, 96)).shape == (
        1,
        3,
        8,
        8,
    )


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


# -- operators


@pytest.mark.parametrize(
    'case, out_size, macs',
    [
        (operators.OperatorCase('conv', 3, 32, 320, 3, 2), 160, 32 * 160 * 160 * 3 * 9),
        (operators.OperatorCase('conv', 24, 72, 80), 80, 24 * 72 * 6400),
        (operators.OperatorCase('depthwise', 288, 288, 20, 5, 2), 10, 288 * 100 * 25),
        (operators.OperatorCase('depthwise', 32, 32, 15, 3, 2), 8, 32 * 64 * 9),
        (operators.OperatorCase('add', 40, 40, 40), 40, 0),
        (operators.OperatorCase('resize', 96, 96, 20), 40, 0),
    ],
)
def test_operator_counts(case, out_size, macs):
    assert (case.out_size, case.macs) == (out_size, macs)


@pytest.mark.parametrize('case', operators.CASES, ids=lambda case: f'{case.name} {case.shape}')
def test_operator_models(case):
    """The models differ by COPIES operators, whose outputs have the size that the MACs are counted with."""
    kinds = dict(conv='Conv', depthwise='Conv', add='Add', concat='Concat', resize='Resize')
    kinds |= {'max pool': 'MaxPool', 'average pool': 'AveragePool'}
    small = replace(case, size=16)
    for int8 in (False, True):
        counts = []
        for applied in (False, True):
            model = operators.build_model(small, int8, applied)
            onnx.checker.check_model(model, full_check=True)
            counts.append(sum(node.op_type == kinds[case.kind] for node in model.graph.node))
            quantizers = sum(node.op_type == 'QuantizeLinear' for node in model.graph.node)
            assert bool(quantizers) == int8
        assert counts[1] - counts[0] == operators.COPIES
        shapes = {v.name: v.type.tensor_type.shape for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
        dims = [dim.dim_value for dim in shapes['op0'].dim]
        assert dims == [1, small.outputs, small.out_size, small.out_size]


def test_operator_models_compute_the_same_in_both_engines():
    case = operators.OperatorCase('depthwise', 8, 8, 12, 3)
    images = np.random.default_rng(1).random((1, operators.SOURCE_CHANNELS, 12, 12), np.float32)
    content = operators.build_model(case, True, True).SerializeToString()
    one, other = (
        np.asarray(next(iter(dict(enumerate(run(dict(images=images)).values())).values())))
        if engine == 'openvino'
        else run(dict(images=images))[0]
        for engine in ('onnxruntime', 'openvino')
        for run in [loading.onnx_session(content, engine, 1)]
    )
    assert one.shape == (1, 2 * operators.COPIES * 8, 1, 1) and len(np.unique(one)) > 5
    assert np.abs(one - other).max() <= 1.01 * operators.SCALE  # one step


def test_operator_figures_by_hand():
    case = operators.OperatorCase('conv', 10, 10, 100)  # 1 M multiply-accumulates
    limits = timing.Limits()
    found = summarize(case, 'openvino', 1, dict(float=[2e-3, 1e-3, 3e-3], int8=[1e-3, 1e-3, 1e-3], others=0.1), limits)
    assert (found.status, found.float_ms, found.int8_ms, found.ratio) == (DONE, 2.0, 1.0, 0.5)
    assert found.gmacs(found.int8_ms) == pytest.approx(1.0)  # 1 M in 1 ms
    assert found.spread == pytest.approx((2.8 - 1.2) / 2.0)
    lost = summarize(case, 'openvino', 1, dict(float=[-1e-6], int8=[1e-3], others=1.0), limits)
    assert lost.float_ms is None and lost.ratio is None and lost.status == BUSY
    assert lost.reason == 'float is lost in the noise; busy: other processes used 1.00 cores (limit 0.25)'
    assert operator_lines([lost])[0][3:9] == ['–'] * 6
    assert operator_lines([lost], allow_busy=True)[0][4] == '1.00*'
    assert OperatorResult.from_dict(json.loads(json.dumps(lost.to_dict()))) == lost


def test_operators_in_a_process(tmp_path):
    good, bad = operators.OperatorCase('add', 8, 8, 8), operators.OperatorCase('softmax', 8, 8, 8)
    store, lines = OperatorStore(tmp_path, MACHINE), []
    options = (OperatorEffort(1, 0.001), ANYTHING, True, False, [bad, good], lines.append)
    found = measure_operators(store, ['torch', 'onnxruntime'], [1], *options)
    assert [entry.status for entry in found] == [FAILED, DONE] and 'expected a kind of conv' in found[0].reason
    assert len(lines) == 2
    repeated = measure_operators(OperatorStore(tmp_path, MACHINE), ['onnxruntime'], [1], *options)
    assert repeated[1] == found[1] and len(lines) == 3  # what failed is tried again
    assert OperatorStore(tmp_path, dict(MACHINE, cpu='Another CPU')).entries == []


# -- the tool


def test_tool_refuses_bad_input(tmp_path, capsys):
    out = ['--out', tmp_path]
    assert run_tool('benchmark', *out) == 2
    assert 'expected configs, or --by-operator' in capsys.readouterr().err
    assert run_tool('benchmark', 'none.py', *out) == 2
    assert 'Config none.py does not exist' in capsys.readouterr().err
    config = Path(__file__).parent.parent / 'configs/ssdlite_frostnet_coco.py'
    assert run_tool('benchmark', config, '--engines', 'tensorrt', *out) == 2
    assert '--engines tensorrt was given' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tool_keeps_what_cannot_be(tmp_path, capsys):
    config = Path(__file__).parent.parent / 'configs/ssdlite_frostnet_coco.py'
    options = ['--engines', 'onnxruntime', '--precisions', 'bf16', '--allow-busy', '--rounds', 1]
    assert run_tool('benchmark', config, *options, '--out', tmp_path) == 0
    assert 'not measured: onnxruntime has no bf16 form' in capsys.readouterr().out
    assert (tmp_path / 'report.html').is_file() and (tmp_path / 'cells.csv').is_file()
