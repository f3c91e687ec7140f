"""What is misspelt, of the wrong type or unread in a config ends in one message; what can work works."""

import argparse
import io
import logging
import os
import signal
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from conftest import ROOT, SHORT, run_tool
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn, zeros

from frostnet_mm.apis.evaluation import comparison_table
from frostnet_mm.cli import ConfigOptions, command
from frostnet_mm.engine import config_datasets
from frostnet_mm.engine.build_errors import building
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.engine.config_datasets import all_datasets, dataset_for_testing, settle_splits
from frostnet_mm.engine.config_values import check_values
from frostnet_mm.engine.console import quiet_console, summed_up
from frostnet_mm.engine.hooks import InterruptHook
from frostnet_mm.engine.late_removal import keep_until_saved, remove_kept
from frostnet_mm.engine.runner import _allow_shared_parameters, build_runner
from frostnet_mm.engine.step_errors import step_errors

MINI = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
COCO = ROOT / 'configs/ssdlite_frostnet_coco.py'


@pytest.fixture
def own(tmp_path):
    """A config of one's own that inherits one of the project."""

    def own(text, base=COCO):
        path = tmp_path / 'own.py'
        path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
        return path

    return own


def build(tmp_path, options):
    cfg = load_config(COCO, options)
    cfg.work_dir = str(tmp_path)
    return build_runner(cfg)


# -- arguments and types


@pytest.mark.parametrize(
    'key, message',
    [
        (
            'model.backbone.widen_facter',
            "model.backbone: FrostNet has no argument 'widen_facter'. Did you mean widen_f",
        ),
        ('model.bbox_head.num_clases', "model.bbox_head: SSDLiteHead has no argument 'num_clases'. Did you mean num_c"),
        (
            'model.bbox_head.anchor_generator.stride',
            "model.bbox_head.anchor_generator: SSDAnchorGenerator has no argument 'stride'. Did you mean strides?",
        ),
        (
            'model.data_preprocessor.meen',
            "model.data_preprocessor: DetDataPreprocessor has no argument 'meen'. Did you",
        ),
        (
            'default_hooks.logger.intervall',
            "default_hooks.logger: LoggerHook has no argument 'intervall'. Did you mean ",
        ),
        ('default_hooks.checkpoint.intervall', "default_hooks.checkpoint: CheckpointHook has no argument 'intervall'."),
        (
            'randomness.seeed',
            'randomness.seeed: nothing takes this argument: Runner.set_randomness() got an unexpected',
        ),
    ],
)
def test_misspelt_arguments(tmp_path, key, message):
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, {key: 3})
    assert str(caught.value).startswith(message) and '\n' not in str(caught.value)


def test_types_of_layers_and_values_that_a_class_refuses(tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.backbone\.norm_cfg: type='BNN' .*Did you mean BN\?"):
        build(tmp_path, {'model.backbone.norm_cfg.type': 'BNN'})
    with pytest.raises(
        ConfigError, match=r'^model\.backbone: FrostNet cannot be built from the config: FrostNet has no'
    ):
        build(tmp_path, {'model.backbone.arch': 'smal'})


def test_errors_of_ones_own_code_keep_their_traceback(tmp_path, monkeypatch):
    (tmp_path / 'mine.py').write_text(
        'from mmengine.registry import MODELS\n\n\n@MODELS.register_module(force=True)\nclass MyPart:\n'
        '    def __init__(self, size):\n        self.size = {}[size]\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine  # noqa: F401

    cfg = Config(dict(model=dict(type='MyPart', size=3)))
    with pytest.raises(KeyError), building(cfg):
        MODELS.build(cfg.model)
    with pytest.raises(ConfigError, match=r"^model: MyPart needs 'size', which the config does not give\.$"):
        with building(Config(dict(model=dict(type='MyPart')))):
            MODELS.build(dict(type='MyPart'))
    with pytest.raises(TypeError), building(cfg):
        print(nothing=3)  # not a key of the config


# -- values


@pytest.mark.parametrize(
    'key, value, expected',
    [
        (
            'train_cfg.max_epochs',
            'three',
            "train_cfg.max_epochs='three' of the config: expected an integer of at least 1.",
        ),
        ('train_cfg.max_epochs', 2.5, 'train_cfg.max_epochs=2.5 of the config: expected an integer of at least 1.'),
        ('train_cfg.val_interval', 0, 'train_cfg.val_interval=0 of the config: expected an integer of at least 1.'),
        (
            'train_dataloader.batch_size',
            '4',
            "train_dataloader.batch_size='4' of the config: expected an integer of at",
        ),
        (
            'val_dataloader.num_workers',
            -1,
            'val_dataloader.num_workers=-1 of the config: expected an integer of at least',
        ),
        (
            'optim_wrapper.optimizer.lr',
            -0.1,
            'optim_wrapper.optimizer.lr=-0.1 of the config: expected a number of at le',
        ),
        (
            'optim_wrapper.optimizer.lr',
            None,
            'optim_wrapper.optimizer.lr=None of the config: expected a number of at le',
        ),
        ('log_level', 'INF', "log_level='INF' of the config: expected a level of logging such as 'INFO'."),
        ('default_scope', 'mmdett', "default_scope='mmdett' of the config: no such package is installed"),
        (
            'input_size',
            '96',
            "train_dataloader, Resize.scale='96' of the config: expected a positive number, or a pair ",
        ),
        ('input_size', (-96, 96), 'train_dataloader, Resize.scale=(-96, 96) of the config: expected a positive number'),
        (
            'train_dataloader.dataset.filter_cfg.filter_empty',
            True,
            'train_dataloader: filter_cfg of the config has fil',
        ),
        (
            'train_dataloader.dataset.ann_file',
            ['a', 'b'],
            "train_dataloader: ann_file=['a', 'b'] of the config: expecte",
        ),
        (
            'val_evaluator.metrics',
            'bbox',
            "val_evaluator: CocoMetric has no argument 'metrics'. Did you mean metric='bbo",
        ),
    ],
)
def test_wrong_values(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        check_values(load_config(COCO, {key: value}))
    assert str(caught.value).startswith(expected)


def test_the_projects_own_values_are_right():
    for path in sorted((ROOT / 'configs').glob('*.py')):
        check_values(load_config(path, classes=('a', 'b')))


# -- names that nothing reads


@pytest.mark.parametrize(
    'text, message',
    [
        ('lr = 0.1', 'lr is new to the config, and nothing reads it. Did you mean optim_wrapper.optimizer.lr?'),
        ('num_classes = 3', 'num_classes is new to the config, and nothing reads it. Did you mean model.bbox_head.num'),
        (
            'trian_dataloader = dict()',
            'trian_dataloader is new to the config, and nothing reads it. Did you mean train',
        ),
        ('load_frm = 1', 'load_frm is new to the config, and nothing reads it. Did you mean load_from?'),
        ('img_scale = (64, 64)', 'img_scale is new to the config, and nothing reads it. Did you mean input_size, or '),
        (
            'metainfo = dict(classes=("a",))',
            'metainfo is new to the config, and nothing reads it. Did you mean classes',
        ),
        (
            'samples_per_gpu = 3',
            'samples_per_gpu is new to the config, and nothing reads it. Did you mean train_dataloa',
        ),
        (
            'train_pipeline = [dict(type="Resize")]',
            'train_pipeline has no effect: the base files have used theirs already, in train_dataloader.dataset.'
            'pipeline. Set this too, such as train_dataloader = dict(dataset=dict(pipeline=train_pipeline)).',
        ),
    ],
)
def test_names_of_ones_own_config(own, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(own(text))
    assert str(caught.value).partition('own.py: ')[2].startswith(message)


def test_names_that_are_read_or_mean_nothing(own, monkeypatch, tmp_path):
    from frostnet_mm.engine import config_names

    log = []
    monkeypatch.setattr(config_names, 'print_log', lambda text, logger, level: log.append((text, level)))
    cfg = load_config(own('lr = 0.1\n_private = 1\nauthor = "me"\noptim_wrapper = dict(optimizer=dict(lr=lr))'))
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    assert [(text.partition('own.py: ')[2], level) for text, level in log] == [
        ('author is new to the config, and nothing reads it.', logging.WARNING)
    ]
    (tmp_path / 'child.py').write_text(
        "_base_ = './own.py'\ntrain_cfg = dict(max_epochs=_base_.length, val_interval={{_base_.often}})\n"
    )
    own('length = 3\noften = 2')
    assert load_config(tmp_path / 'child.py').train_cfg.max_epochs == 3


def test_the_copy_of_a_work_dir_keeps_its_variables(tmp_path):
    cfg = load_config(COCO)
    cfg.dump(tmp_path / 'copy.py')
    assert load_config(tmp_path / 'copy.py').to_dict() == cfg.to_dict() and 'train_pipeline' in cfg


# -- data sets: wrappers, and none


def wrapped(kind, dataset, **options):
    inner = dict(datasets=[dataset, dataset]) if kind == 'ConcatDataset' else dict(dataset=dataset)
    return dict(type=kind, **inner, **options)


@pytest.mark.parametrize(
    'kind, options, images',
    [
        ('ConcatDataset', {}, 46),
        ('RepeatDataset', dict(times=2), 46),
        ('ClassBalancedDataset', dict(oversample_thr=0), 23),
    ],
)
def test_wrappers_in_training(mini_coco, tmp_path, kind, options, images):
    plain = load_config(MINI, dict(data_root=str(mini_coco)))
    data = wrapped(kind, plain.train_dataloader.dataset.to_dict(), **options)
    path = tmp_path / 'wrapped.py'
    path.write_text(
        f'_base_ = {str(MINI)!r}\ndata_root = {str(mini_coco)!r}\n'
        f'train_dataloader = dict(dataset={dict(data, _delete_=True)!r})\nclasses = "from_annotations"\n'
    )
    cfg = load_config(path)
    inner = all_datasets(cfg)[: 2 if kind == 'ConcatDataset' else 1]
    names = tuple(plain.classes)
    assert [tuple(dataset.metainfo.classes) for dataset in inner] == [names] * len(inner)
    assert 'metainfo' not in cfg.train_dataloader.dataset and cfg.model.bbox_head.num_classes == len(names)
    if kind != 'ConcatDataset':
        return
    options = ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=23', 'input_size=64,64')
    work = tmp_path / 'run'
    assert run_tool('train', path, '--work-dir', work, '--cfg-options', *SHORT, *options) == 0
    log = next(work.glob('*/*.log')).read_text()
    assert f'Data of train: ConcatDataset of 46 images: {mini_coco}/annotations/instances_train2017.json' in log


def test_wrappers_that_a_coco_metric_cannot_evaluate():
    cfg = load_config(COCO)
    data = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = wrapped('RepeatDataset', data, times=1)
    check_values(cfg)
    for kind, options, what in (
        ('RepeatDataset', dict(times=2), 'images more than once'),
        ('ConcatDataset', {}, 'several annotation files'),
    ):
        cfg.val_dataloader.dataset = wrapped(kind, data, **options)
        with pytest.raises(ConfigError, match=f'^val_dataloader: {kind} has {what}, and COCO'):
            check_values(cfg)


def test_parts_of_a_config_that_are_missing(monkeypatch):
    log = []
    monkeypatch.setattr(config_datasets, 'print_log', lambda text, logger: log.append(text))
    cfg = load_config(COCO, dict(test_dataloader=None))
    val_pipeline = cfg.val_dataloader.dataset.pipeline
    assert dataset_for_testing(cfg).pipeline == val_pipeline
    settle_splits(cfg)
    assert cfg.test_cfg is None and cfg.test_evaluator is None and cfg.val_cfg.type == 'ValLoop'
    cfg.val_evaluator = None
    settle_splits(cfg)
    assert cfg.val_dataloader is None
    assert log == ['No test: the config has no test_dataloader.', 'No validation: the config has no val_evaluator.']
    with pytest.raises(ConfigError, match='^The config has no test_dataloader and no val_dataloader, '):
        dataset_for_testing(cfg)


def test_training_without_validation_and_a_test_without_data(mini_coco, trained, tmp_path, capsys):
    given = ('--cfg-options', f'data_root={mini_coco}', *SHORT, 'test_dataloader=None')
    assert run_tool('test', MINI, trained / 'epoch_2.pth', '--work-dir', tmp_path, *given[:2], given[-1]) == 2
    assert f'error: The config {MINI} has no test_dataloader, no test_evaluator: ' in capsys.readouterr().err
    without = ('val_dataloader=None', 'train_cfg.max_epochs=1', 'input_size=64,64')
    assert run_tool('train', MINI, '--work-dir', tmp_path / 'run', *given, *without) == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Epoch(train) [1]' in log and 'Epoch(val)' not in log and (tmp_path / 'run/epoch_1.pth').exists()


# -- batch norm on one value, shared parameters, the best score


def test_a_batch_norm_that_sees_one_value(mini_coco, tmp_path, capsys):
    given = (f'data_root={mini_coco}', *SHORT, 'train_dataloader.batch_size=1', 'input_size=96,96')
    assert run_tool('train', MINI, '--work-dir', tmp_path, '--cfg-options', *given) == 2
    error = capsys.readouterr().err
    assert '\nerror: The batch norm neck.extra_layers.' in error and 'ValueError: Expected' not in error
    assert 'it sees one value per channel (torch.Size([1, ' in error and '(train_dataloader.batch_size, now 1)' in error


@pytest.mark.parametrize(
    'layer', [nn.MaxPool2d(3), nn.Conv2d(3, 3, 3), nn.ReflectionPad2d(2), nn.Upsample(scale_factor=0.1)]
)
def test_a_map_that_is_too_small_for_a_layer(layer):
    model = nn.Sequential(nn.Identity(), layer)
    with pytest.raises(
        ConfigError, match='The images are too small for the network: 1 cannot work on its map .*input_'
    ):
        with step_errors(SimpleNamespace(model=model)):
            model(zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    ('layers', 'message'),
    [
        (
            [nn.Conv2d(1, 3, 3)],
            r'^0 reads images of 1 channels and gets 3: give the backbone in_channels=3, or it images',
        ),
        ([nn.Conv2d(3, 4, 3), nn.Conv2d(5, 3, 3)], r'^1 reads 5 channels and gets 4: give model\.1 the in_channels of'),
        ([nn.Flatten(), nn.Linear(5, 2)], r'^1 reads 5 channels and gets 192: give model\.1 .*images of one size'),
    ],
)
def test_a_layer_that_gets_other_channels(layers, message):
    model = nn.Sequential(*layers)
    with pytest.raises(ConfigError, match=message), step_errors(SimpleNamespace(model=model)):
        model(zeros(1, 3, 8, 8))


def test_other_errors_of_a_step_are_passed_on():
    for error in (ValueError('Expected something else'), KeyError('classes'), RuntimeError('sizes do not match')):
        with pytest.raises(type(error)), step_errors(None):
            raise error


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('traffic light,stop sign', ['traffic light', 'stop sign']),
        ('( traffic light , dog )', ('traffic light', 'dog')),
        ('["b b", c]', ['b b', 'c']),
        ('2 epochs', '2 epochs'),
        ('1, 2, (3, 4.5)', [1, 2, (3, 4.5)]),
        (' 7 ', 7),
        ('True', True),
    ],
)
def test_names_keep_their_spaces(text, value):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    assert parser.parse_args(['--cfg-options', f'classes={text}']).cfg_options == dict(classes=value)


def test_shared_parameters():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    for options, expected in (
        (dict(norm_decay_mult=0.0), True),
        (dict(norm_decay_mult=0.0, bypass_duplicate=False), False),
        (None, None),
    ):
        cfg = Config(dict(optim_wrapper=dict(paramwise_cfg=options)))
        runner = SimpleNamespace(cfg=cfg, model=model, optim_wrapper=cfg.optim_wrapper)
        _allow_shared_parameters(runner)
        assert (cfg.optim_wrapper.paramwise_cfg or {}).get('bypass_duplicate') == expected


def test_a_best_score_that_no_metric_has():
    from mmengine.hooks import CheckpointHook

    hook = CheckpointHook(save_best='bbox_mapp', rule='greater', out_dir='.')
    runner = SimpleNamespace(epoch=1, iter=3)
    with pytest.raises(
        ConfigError, match=r"save_best='bbox_mapp': the metrics are coco/bbox_mAP, x\. Did you mean coco/b"
    ):
        with step_errors(runner):
            hook._save_best_checkpoint(runner, {'coco/bbox_mAP': 0.5, 'x': 1.0})


# -- checkpoints on a full disk


def test_a_checkpoint_that_does_not_fit(mini_coco, tmp_path, capsys):
    resource = pytest.importorskip('resource')
    options = (f'data_root={mini_coco}', *SHORT, 'default_hooks.checkpoint.max_keep_ckpts=1', 'input_size=64,64')
    options += ('default_hooks.checkpoint.save_best=None', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9')
    arguments = (MINI, '--work-dir', tmp_path, '--cfg-options', *options)
    assert run_tool('train', *arguments) == 0
    whole = (tmp_path / 'epoch_1.pth').read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, old[1]))
    try:
        assert run_tool('train', *arguments, 'train_cfg.max_epochs=2', 'load_from=None', 'resume=True') == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    error = capsys.readouterr().err
    assert f'error: The checkpoint {tmp_path}/epoch_2.pth cannot be written: File too large. Training stopped' in error
    assert [path.name for path in tmp_path.rglob('*epoch_*')] == ['epoch_1.pth']
    assert (tmp_path / 'epoch_1.pth').read_bytes() == whole
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert run_tool('train', *arguments, 'train_cfg.max_epochs=2', 'resume=True') == 0
    assert [path.name for path in tmp_path.glob('*epoch_*')] == ['epoch_2.pth']  # the old one has gone now


def test_files_are_removed_behind_the_next_checkpoint(tmp_path):
    from mmengine.fileio import LocalBackend

    hook = CheckpointHook()
    hook.file_backend = LocalBackend()
    keep_until_saved([hook, EMAHook()])
    path = tmp_path / 'a.pth'
    path.write_bytes(b'')
    hook.file_backend.remove(str(path))
    assert path.exists() and hook.file_backend.isfile(str(path))
    remove_kept([hook])
    assert not path.exists()
    remove_kept([hook])


# -- the screen


def test_what_goes_to_the_screen_and_what_to_the_file(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', screen)
    logger = logging.Logger('of a test')
    logger.addHandler(logging.StreamHandler(screen))
    logger.addHandler(logging.FileHandler(tmp_path / 'x.log'))
    quiet_console(logger)
    quiet_console(logger)
    messages = ('Config:\na = 3', 'Hooks will be executed in the following order:\nx', 'Epoch(train) [1]')
    for message in (*messages, '"FileClient" will be deprecated in future. Please use io functions'):
        logger.info(message)
    with summed_up(logger):
        for name in 'abc':
            logger.info(f'paramwise_options -- {name}.bn.weight:weight_decay=0.0')
    counted = 'optim_wrapper.paramwise_cfg: weight_decay=0.0 for 3 parameters.'
    where = f'Config, environment and hooks are in {tmp_path}/x.log.'
    assert screen.getvalue().splitlines() == [where, 'Epoch(train) [1]', counted]
    assert (tmp_path / 'x.log').read_text() == '\n'.join([where, *messages, counted, ''])


def test_the_table_says_where_there_are_no_objects():
    results = {
        'float': {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_l': -1.0, 'loss': -1.0},
        'int8': {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_l': -1.0, 'loss': -1.5},
    }
    rows = [line.split() for line in comparison_table(results).splitlines()[1:]]
    assert rows == [
        ['coco/bbox_mAP', '0.5000', '0.2500', '(-0.2500)'],
        ['coco/bbox_mAP_l', 'n/a', 'n/a'],
        ['loss', '-1.0000', '-1.5000', '(-0.5000)'],
        ['n/a:', 'the', 'data', 'has', 'no', 'such', 'objects.'],
    ]


def test_packages_that_are_absent_stay_absent():
    assert find_spec('mmdet') is not None and find_spec('no_such_package_at_all') is None
    from frostnet_mm.models.upstream import _MendOnImport

    assert _MendOnImport().find_spec('mmpretrain', None) is None


# -- commands that are printed


def test_printed_commands_are_complete():
    import shlex

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    args = parser.parse_args(['--cfg-options', 'data_root=/my data', 'input_size=64,64', '--cfg-options', 'a.b=[1]'])
    words = ['python', 'tools/test.py', 'my config.py', 'x.pth', '--compare']
    given = ['--cfg-options', 'data_root=/my data', 'input_size=64,64', 'a.b=[1]']
    assert shlex.split(command(*words, args=args)) == [*words, *given]
    assert command('python', 'x.py', args=parser.parse_args([])) == 'python x.py'


def test_a_deployment_that_is_verified_on_noise_says_so(trained, tmp_path, capsys):
    given = ('--engine', 'onnxruntime', '--float', '--out', tmp_path / 'deployed', '--cfg-options')
    pytest.importorskip('onnxruntime')
    small = 'model.backbone.widen_factor=0.5'
    assert run_tool('deploy', MINI, trained / 'epoch_2.pth', *given, small, f'data_root={tmp_path}/none') == 0
    said = capsys.readouterr().out
    assert said.count('WARNING: verification on random noise, not on images') == 2
    assert said.rstrip().endswith('with --cfg-options data_root=PATH.') and f'{tmp_path}/none' in said


# -- signals


def hooked(hook):
    hook.before_train(None)
    return signal.getsignal(signal.SIGTERM) == hook._handle


def test_signal_handlers_go_when_training_ends_in_an_error(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    runner = build(tmp_path, {})
    hook = next(hook for hook in runner.hooks if isinstance(hook, InterruptHook))

    def fail(self):
        assert hooked(hook)
        raise OSError('of a data set')

    monkeypatch.setattr(Runner, 'train', fail)
    with pytest.raises(OSError, match='of a data set'):
        runner.train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_in_children():
    """A worker outlives a Ctrl-C, ends at SIGTERM as others do, and leaves the training process unstopped."""
    hook = InterruptHook()
    try:
        assert hooked(hook)
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        assert hook._received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert hook._received == signal.SIGTERM
    finally:
        hook.restore_signals()
