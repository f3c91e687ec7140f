"""Times, the machine, the processes that measure, and operators: what is measured is what is said."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostnet_mm.benchmark.cells import Cell
from frostnet_mm.benchmark.measure import (
    loading,
    machine,
    operators,
    process,
    scheduler,
    timing,
)
from frostnet_mm.benchmark.measure.operator_costs import (
    OperatorEffort,
    OperatorResult,
    measure_operators,
    operator_store,
    summarize,
)
from frostnet_mm.benchmark.report.operator_table import operator_lines
from frostnet_mm.benchmark.report.publish import write_report
from frostnet_mm.benchmark.store import BUSY, DONE, FAILED
from frostnet_mm.device import DeploymentError, engines
from frostnet_mm.device.engines.base import DeviceEngine

MACHINE = dict(
    cpu='Example CPU', flags=['avx2'], cores=4, memory_gib=8.0, system='Linux', python='3.11', versions={'numpy': '2'},
    pinning=True, hypervisor=False,
)  # fmt: skip
CELL = Cell('configs/a.py', None, 'openvino', 'float', 1, 1, (64, 96))
QUICK = scheduler.Effort(rounds=2, seconds=0.01, cool_down=0.0, stages=1, timeout=60)
ANYTHING = timing.Limits(math.inf, math.inf)


# -- times


def test_statistics_by_hand():
    found = timing.summarize([[1.0, 2.0, 3.0], [4.0, 4.0], [10.0]], batch=8)
    assert found.latency == 4.0  # the median of 2, 4 and 10, not that of all times, which is 3.5
    assert found.throughput == 2.0
    assert found.drift == pytest.approx((10 - 2) / 4)
    assert found.rounds_iqr == pytest.approx((7 - 3) / 4)
    assert found.undisturbed == pytest.approx(1.25)  # of all, at position 0.25
    assert found.halves == pytest.approx(4 / 1.15 - 1)  # of 1, 2, 3 and 10 at position 0.15, and of 4 and 4
    # Ordered 1 2 3 4 4 10: p90 at position 4.5 is 7, p10 at 0.5 is 1.5, the median 3.5.
    assert found.spread == pytest.approx((7 - 1.5) / 3.5)
    assert (found.rounds, found.repetitions) == (3, 6)
    with pytest.raises(ValueError, match=r'2 rounds of \[1, 0\] times'):
        timing.summarize([[1.0], []])


def test_calls_may_differ_where_rounds_do_not():
    """Every second call at half the pace, as on a shared host, says nothing of other work; rounds that differ do."""
    uneven = timing.summarize([[1.0, 2.0] * 50 + [1.0]] * 7)
    assert uneven.spread == 1.0 and timing.busy_reason(0.0, uneven.rounds_iqr, timing.Limits()) is None
    changing = timing.summarize([[1.0 + 0.1 * turn] * 50 for turn in range(7)])
    assert 'half of the rounds differ by 23%' in timing.busy_reason(0.0, changing.rounds_iqr, timing.Limits())


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
    limits = timing.Limits(others=0.25, rounds_iqr=0.1)
    assert timing.busy_reason(0.2, 0.1, limits) is None
    assert timing.busy_reason(None, None, limits) is None
    assert timing.busy_reason(1.5, 0.05, limits) == 'busy: other processes used 1.50 cores (limit 0.25)'
    assert timing.busy_reason(0.0, 0.42, limits) == 'busy: half of the rounds differ by 42% (limit 10%)'
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


def test_packages_of_all_engines_are_among_the_versions(monkeypatch):
    class Plugged(DeviceEngine):
        name, package = 'plugged', 'pytest'
        open = None

    class Unnamed(Plugged):
        name, package = 'unnamed', ''

    before = machine.describe_machine()['versions']
    assert before['onnxruntime'] and before['openvino'] and 'pytest' not in before
    for engine in (Plugged(), Unnamed()):
        monkeypatch.setitem(engines._registered, engine.name, engine)
    assert machine.describe_machine()['versions'] == before | dict(pytest=pytest.__version__)


def test_cores_are_the_last_and_not_more_than_there_are(monkeypatch):
    monkeypatch.setattr(machine, 'physical_cores', lambda: [0, 2, 5])
    assert machine.choose_cpus(2) == [2, 5]
    with pytest.raises(ValueError, match='4 threads were asked for, but this process may use 3 cores'):
        machine.choose_cpus(4)


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
    worker = process.WorkerProcess(tmp_path / 'log.txt')
    try:
        answer = worker.ask('load', 60, spec=onnx_spec(CELL, tiny_network)['spec'])
        assert answer['results']['process_memory_mib'] > 0
        maps = Path(f'/proc/{worker.process.pid}/maps')
        if maps.is_file():
            assert 'libtorch' not in maps.read_text() and 'openvino' in maps.read_text()
        with pytest.raises(process.WorkerError, match='TypeError'):
            worker.ask('measure', 60)
        assert worker.ask('measure', 60, seconds=0.0, least=3)['times'][2] > 0  # an error does not end it
        worker.process.kill()
        with pytest.raises(process.WorkerError, match='the process ended with signal 9'):
            worker.ask('measure', 60, seconds=0.0, least=3)
    finally:
        worker.close()


def test_too_many_threads_are_a_reason(tiny_network, tmp_path):
    cell = replace(CELL, threads=4096)
    found = scheduler.measure_group([cell], {cell.key: onnx_spec(cell, tiny_network)}, QUICK, ANYTHING, tmp_path)
    assert found[0].status == FAILED and '4096 threads were asked for' in found[0].reason


def test_deployment_results(tmp_path):
    sizes = {'network.xml': 10, 'network.bin': 100, 'network.onnx': 1000, 'check.npz': 10_000}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    description = dict(
        network='network.xml', files=dict.fromkeys(sizes, ''), model=dict(params=5, macs=7, random_weights=True),
        engine='openvino', precision='int8', numerics=dict(weight_bits=7),
        int8_share=1.0, engine_int8_share=0.75, operators={'Convolution int8': 3},
    )  # fmt: skip
    assert loading.deployment_results(description, tmp_path) == dict(
        params=5,
        macs=7,
        random_weights=True,
        may_saturate=False,
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


def test_operator_results_by_hand():
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
    store, lines = operator_store(tmp_path, MACHINE), []
    options = (OperatorEffort(1, 0.001), ANYTHING, True, False, [bad, good], lines.append)
    found = measure_operators(store, ['torch', 'onnxruntime'], [1], *options)
    assert [entry.status for entry in found] == [FAILED, DONE] and 'expected a kind of conv' in found[0].reason
    assert len(lines) == 2
    repeated = measure_operators(operator_store(tmp_path, MACHINE), ['onnxruntime'], [1], *options)
    assert repeated[1] == found[1] and len(lines) == 3  # what failed is tried again
    assert operator_store(tmp_path, dict(MACHINE, cpu='Another CPU')).results == {}


def test_operators_need_engines_that_read_onnx(tmp_path):
    case, options = operators.OperatorCase('add', 8, 8, 8), (OperatorEffort(1, 0.001), ANYTHING, True, False)
    assert measure_operators(operator_store(tmp_path, MACHINE), ['torch', 'executorch'], [1], *options, [case]) == []
    with pytest.raises(DeploymentError, match="The engine 'tflite' is not known"):
        measure_operators(operator_store(tmp_path, MACHINE), ['tflite'], [1], *options, [case])


def test_operators_on_an_engine_of_another_package(tmp_path):
    """The process that measures knows it by its file alone."""
    file = tmp_path / 'plugged.py'
    file.write_text(
        'from frostnet_mm.device.engines.onnxruntime import OnnxRuntime\n\n\n'
        "class Plugged(OnnxRuntime):\n    name = 'plugged'\n\n\nENGINE = Plugged()\n"
    )
    options = dict(case=asdict(operators.OperatorCase('add', 8, 8, 8)), engine='plugged', threads=1, rounds=2)
    options |= dict(seconds=0.001, cpus=machine.choose_cpus(1))
    worker = process.WorkerProcess(tmp_path / 'log.txt')
    try:
        with pytest.raises(process.WorkerError, match="The engine 'plugged' is not known"):
            worker.ask('operators', 60, **options)
        found = worker.ask('operators', 60, **options, engine_file=str(file))
    finally:
        worker.close()
    assert [len(found[name]) for name in ('float', 'int8')] == [2, 2]
