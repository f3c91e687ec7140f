"""When the phases of QAT begin, and which checkpoints fit."""

from types import SimpleNamespace

import pytest
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from frostnet_mm.models import CheckpointError
from frostnet_mm.quantization import Checkpoint, QATHook, QuantizationError, QuantizationSettings
from frostnet_mm.quantization.schedule import Phase, TrainingPoint


def epochs(epoch, iteration, length=10, total=20):
    loop = object.__new__(EpochBasedTrainLoop)
    loop.__dict__.update(_epoch=epoch, _iter=iteration, _max_epochs=total, dataloader=range(length))
    return loop


def iterations(iteration, length=10, total=200):
    loop = object.__new__(IterBasedTrainLoop)
    loop.__dict__.update(_iter=iteration, _max_iters=total, dataloader=range(length))
    return loop


@pytest.mark.parametrize(
    ('text', 'before', 'at'),
    [
        ('2 epochs', epochs(1, 19), epochs(2, 20)),
        ('1 epoch', epochs(0, 9), epochs(1, 10)),
        ('1.5 epochs', epochs(1, 14), epochs(1, 15)),
        ('15 iterations', epochs(1, 14), epochs(1, 15)),
        ('80 %', epochs(15, 159), epochs(16, 160)),
        ('2 epochs', iterations(19), iterations(20)),
        ('80 %', iterations(159), iterations(160)),
        ('33 iterations', iterations(32), iterations(33)),
        # a resumed epoch-based run with another batch size: whole epochs count, whatever their length was
        ('2 epochs', epochs(1, 10, length=40), epochs(2, 20, length=40)),
        ('80 %', epochs(15, 150, length=40), epochs(16, 160, length=40)),
    ],
)
def test_points_of_a_run(text, before, at):
    point = TrainingPoint.parse(text, 'warmup')
    assert not point.reached(before)
    assert point.reached(at)
    assert TrainingPoint.parse(str(point), 'warmup') == point


@pytest.mark.parametrize('text', ['2', 2, 'soon', '2 hours', '-1 epochs', '', '1e3 iterations'])
def test_a_point_without_a_unit_is_refused(text):
    with pytest.raises(QuantizationError, match=f'warmup={text!r} was given; expected a number with its unit'):
        QATHook(warmup=text)


def test_phases():
    hook = QATHook(warmup='2 epochs', freeze_bn_at='160 iterations', freeze_observers_at='90 %')
    warmup, qat, norms, ranges = Phase(False), Phase(True), Phase(True, True), Phase(True, True, True)
    at = [(0, warmup), (19, warmup), (20, qat), (159, qat), (160, norms), (179, norms), (180, ranges), (199, ranges)]
    assert [hook.phase_at(epochs(i // 10, i)) for i, _ in at] == [phase for _, phase in at]
    assert [hook.phase_at(iterations(i)) for i, _ in at] == [phase for _, phase in at]
    never = QATHook(warmup=0, freeze_observers_at=None, freeze_bn_at=None)
    assert never.phase_at(iterations(0)) == never.phase_at(iterations(199)) == qat
    early = QATHook(warmup='90 %', freeze_bn_at='10 %', freeze_observers_at=0)
    assert early.phase_at(iterations(100)) == warmup  # nothing is frozen in the warm-up
    assert early.phase_at(iterations(180)) == ranges


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(numerics='tflite'), "numerics='tflite' is not known; expected 'onnx' for"),
        (dict(warmup=None), 'warmup=None was given'),
        (dict(execution='int8'), "execution='int8' was given; expected one of 'float', 'simulated', 'converted'"),
        (dict(averaging_constant=0), 'averaging_constant=0 was given, expected 0 < value <= 1'),
        (dict(example_shape=(2, 64, 64)), r'example_shape=\(2, 64, 64\) was given, expected \(N, 3, H, W\)'),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(QuantizationError, match=message):
        QATHook(**options)


def network(fingerprint='0123'):
    return SimpleNamespace(program=SimpleNamespace(fingerprint=fingerprint))


def note(settings):
    """What a checkpoint says of its quantized network."""
    checkpoint = Checkpoint({}, 'last.pth')
    checkpoint.quantize(network(), settings, 'QAT')
    return checkpoint.meta['quantization']


def check(meta, found, settings):
    Checkpoint(dict(meta=dict(quantization=meta)), 'last.pth').check(found, settings)


def test_a_resumed_run_never_falls_back_into_an_earlier_phase():
    hook = QATHook(warmup='90 %')
    hook.network = network()
    meta = note(hook.settings)
    meta['reached'] = dict(simulating=True, norms_frozen=True, ranges_frozen=False)
    for resume, expected in ((False, Phase(False)), (True, Phase(True, True))):  # load_from starts anew
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume), dict(meta=dict(quantization=meta)))
        assert hook.phase_at(iterations(20)) | hook._saved_phase == expected


def test_a_checkpoint_of_another_network_is_refused_with_the_reason():
    settings = QuantizationSettings.of('onnx', float_modules=['neck'])
    meta = note(settings)
    assert Checkpoint(dict(meta=dict(quantization=meta)), 'last.pth').settings == settings
    check(meta, network(), settings)
    with pytest.raises(CheckpointError, match="last.pth.*numerics='onnx'.*this config has numerics='executorch'"):
        check(meta, network(), QuantizationSettings.of('executorch', float_modules=['neck']))
    with pytest.raises(CheckpointError, match=r"float_modules=\['neck'\].*this config has float_modules=\[\]"):
        check(meta, network(), QuantizationSettings())
    with pytest.raises(CheckpointError, match=r'another graph \(0123\) than this model has \(9999\)'):
        check(meta, network('9999'), settings)
    with pytest.raises(CheckpointError, match=r'made with torchao 0.3.1, installed is .*torchao==0.3.1'):
        check(dict(meta, torchao='0.3.1'), network(), settings)
