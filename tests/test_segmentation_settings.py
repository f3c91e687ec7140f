"""Segmenters on data and classes of one's own: configs that contradict themselves, the documented config, batches."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.structures import PixelData
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
from mmseg.structures import SegDataSample  # noqa: E402
from seg_files import FORMS, write  # noqa: E402

from frostnet_mm.data import CheckedCityscapesDataset, DatasetError  # noqa: E402
from frostnet_mm.data.cityscapes import LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX  # noqa: E402
from frostnet_mm.data.generated.mini_cityscapes import generate_mini_cityscapes  # noqa: E402
from frostnet_mm.engine.config import ConfigError, load_config  # noqa: E402
from frostnet_mm.engine.hooks.segmentation_data_hook import check_batch, check_sizes  # noqa: E402
from frostnet_mm.engine.segmentation_settings import check_segmentation  # noqa: E402

CONFIGS = ROOT / 'configs'
CITY, OWN = CONFIGS / 'espnetv2_frostnet_cityscapes.py', CONFIGS / 'espnetv2_frostnet_custom_seg.py'


# -- contradictions


@pytest.mark.parametrize(
    ('config', 'options', 'said'),
    [
        (
            CITY,
            {'model.decode_head.num_classes': 2},
            'model.decode_head.num_classes is 2, train_dataloader.dataset has 19',
        ),
        (OWN, {'model.decode_head.num_classes': 3}, 'has 2 classes (background, object). Set num_classes of the heads'),
        (
            OWN,
            {'class_weight': [1.0, 2.0, 3.0]},
            'model.decode_head.loss_decode.class_weight has 3 weights for 2 classes',
        ),
        (CITY, {'model.decode_head.loss_decode.class_weight': [1.0] * 19}, 'class_weight and avg_non_ignore=True'),
        (CITY, {'classes': ('a', 'b')}, "classes = ('a', 'b') at the top level of the config has no effect"),
        (
            CITY,
            {'train_dataloader.dataset.metainfo': dict(classes=('a', 'b'))},
            'names the classes a, b; CheckedCityscapesDataset knows road, sidewalk, building, wall, ... (19)',
        ),
        (
            CITY,
            {
                'val_dataloader.dataset.type': 'CityscapesDataset',
                'val_dataloader.dataset.metainfo': dict(classes=['x']),
            },
            'val_dataloader.dataset.metainfo names the classes x; CityscapesDataset knows',
        ),
        (
            CITY,
            {'train_dataloader.dataset.metainfo': dict(classes=('road', 'car'))},
            'model.decode_head.num_classes is 19, train_dataloader.dataset has 2 classes (road, car)',
        ),
    ],
)
def test_what_contradicts_itself_is_said_before_training(config, options, said):
    cfg = load_config(config, options)
    with pytest.raises(ConfigError) as caught:
        check_segmentation(cfg)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    'name',
    [
        *sorted(path.stem for path in CONFIGS.glob('*_cityscapes.py')),
        *('espnetv2_frostnet_custom_seg', 'espnetv2_frostnet_qat_custom_seg', 'ssdlite_frostnet_coco'),
        'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',  # its border head has 2 classes
        'mmseg::mask2former/mask2former_swin-t_8xb2-90k_cityscapes-512x1024.py',
        'mmseg::san/san-vit-b16_voc12aug-640x640.py',
        'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py',
    ],
)
def test_configs_that_are_right_pass(name):
    check_segmentation(load_config(name if '::' in name else CONFIGS / f'{name}.py'))


def test_all_of_a_custom_config_follows_from_its_variables():
    given = dict(classes=['a', 'b', 'c'], class_weight=[1.0, 2.0, 3.0], max_iters=70, warmup_iters=7, val_interval=35)
    given |= dict(data_root='/d', crop_size=[32, 48], scale=[64, 48], img_suffix='.bmp', val_labels='v')
    cfg = load_config(OWN, given)
    check_segmentation(cfg)
    head = cfg.model.decode_head
    assert head.num_classes == 3 and head.loss_decode.class_weight == [1.0, 2.0, 3.0]
    assert head.loss_decode.avg_non_ignore is False and load_config(OWN).model.decode_head.loss_decode.avg_non_ignore
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        data = loader.dataset
        assert (data.type, data.data_root, data.img_suffix) == ('frostnet_mm.CheckedSegDataset', '/d', '.bmp')
        assert tuple(data.metainfo.classes) == ('a', 'b', 'c')
    assert cfg.test_dataloader.dataset.data_prefix.seg_map_path == 'v'
    assert [step.end for step in cfg.param_scheduler] == [7, 70] and cfg.param_scheduler[1].begin == 7
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (70, 35, 35)
    assert tuple(cfg.model.data_preprocessor.size) == (32, 48)


# -- the documented config


def test_the_documented_config_trains_and_validates(tmp_path, capfd):
    """The config of docs/data.md on a generated set: 2 classes, masks with a suffix, class weights, two steps."""
    docs = (ROOT / 'docs/data.md').read_text()
    text = re.search(r"```python\n(_base_ = 'configs/espnetv2_frostnet_custom_seg.py'.*?)```", docs, re.S)[1]
    root = write(tmp_path / 'data', count=4, labels=lambda index: mask(index, (48, 64)), size=(48, 64))
    write(root, count=2, split='val', labels=lambda index: mask(index, (48, 64)), size=(48, 64))
    for path in (root / 'labels').glob('*/*.png'):
        path.rename(path.with_name(f'{path.stem}_mask.png'))
    small = 'batch_size = 2\nscale, crop_size = (64, 48), (48, 64)\nmax_iters, warmup_iters, val_interval = 2, 1, 2\n'
    config = tmp_path / 'my_seg.py'
    config.write_text(text.replace("'configs/", f"'{CONFIGS}/").replace('my/data', str(root)) + small)
    options = [f'{name}_dataloader.{key}' for name in ('train', 'val') for key in ('num_workers=0',)]
    options += ['model.backbone.widen_factor=0.5', 'model.decode_head.in_channels=16,24,48,160']
    assert run_tool('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options) == 0
    out = capfd.readouterr()
    log = out.out + out.err
    assert re.search(r"labels/train' \(4 of 4 read\): background 7\d\.\d%, object 2\d\.\d%, ignored 0.0%\.", log)
    assert 'IoU.object' in log and (tmp_path / 'run' / 'iter_2.pth').is_file()


def mask(index, size):
    labels = np.zeros(size, np.uint8)
    labels[10 : 10 + size[0] // 2, 5 : 5 + size[1] // 2] = 1
    return np.roll(labels, index, 1)


# -- batches


def sample(values, path='a.png'):
    data = torch.tensor(values, dtype=torch.int64)[None]
    return SegDataSample(metainfo=dict(seg_map_path=path), gt_sem_seg=PixelData(data=data))


def model(num_classes=3, ignore_index=255):
    module = torch.nn.Module()
    module.decode_head = torch.nn.Module()
    module.decode_head.num_classes, module.decode_head.ignore_index = num_classes, ignore_index
    return module


@pytest.mark.parametrize(
    ('values', 'ignored', 'found'), [([[0, 7], [3, 255]], 255, '3, 7 (2'), ([[0, 255]], 9, '255 (1')]
)
def test_values_beyond_the_head_are_named_with_their_file(values, ignored, found):
    batch = dict(data_samples=[sample([[0, 2]]), sample(values, 'labels/b.png')])
    with pytest.raises(DatasetError) as caught:
        check_batch(batch, model(ignore_index=ignored))
    assert str(caught.value).startswith(
        f"the label 'labels/b.png' holds {found} pixels as loaded). The head has 3 classes, "
    )
    check_batch(dict(data_samples=[sample([[0, 1, 2, ignored]])]), model(ignore_index=ignored))


def test_batches_of_other_kinds_pass():
    check_batch(dict(data_samples=[sample([[99]])]), torch.nn.Linear(1, 1))
    check_batch(dict(inputs=torch.zeros(1)), model())
    check_batch(dict(data_samples=[SimpleNamespace(gt_instances=1)]), model())


def test_images_of_different_sizes_in_a_batch_are_named():
    module = model()
    module.data_preprocessor = SimpleNamespace(test_cfg=None)
    batch = dict(inputs=[torch.zeros(3, 4, 6), torch.zeros(3, 4, 6)])
    check_sizes(batch, module, 'val')
    batch['inputs'][1] = torch.zeros(3, 6, 4)
    with pytest.raises(
        DatasetError, match=r'val_dataloader has .* \(4, 6\) and \(6, 4\) .* val_dataloader.batch_size=1'
    ):
        check_sizes(batch, module, 'val')
    module.data_preprocessor.test_cfg = dict(size_divisor=32)  # pads
    check_sizes(batch, module, 'val')


# -- prepare_cityscapes.py and training


@pytest.fixture(scope='module')
def city(tmp_path_factory):
    path = tmp_path_factory.mktemp('city') / 'data'
    generate_mini_cityscapes(path, num_train=3, num_val=1, size=(64, 96), progress=False)
    for label in path.rglob(f'*{LABEL_IDS_SUFFIX}'):
        label.unlink()
    return path


def every(edit):
    def change(root):
        for path in (root / 'gtFine').rglob(f'*{TRAIN_IDS_SUFFIX}'):
            edit(np.array(Image.open(path)), path)

    return change


def first(edit):
    def change(root):
        path = sorted((root / 'gtFine/train').rglob(f'*{TRAIN_IDS_SUFFIX}'))[0]
        edit(np.array(Image.open(path)), path)

    return change


def save(labels, path):
    Image.fromarray(np.ascontiguousarray(labels, np.uint8)).save(path)


def as_jpg(root):
    for path in (root / 'leftImg8bit').rglob('*.png'):
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()


def one_value(labels, path):
    labels[0, 0] = 25
    save(labels, path)


FAULTS = {
    'colours': (
        every(lambda labels, path: save(np.dstack([labels, labels, 255 - labels]), path)),
        'picture in colours',
    ),
    'half size': (every(lambda labels, path: save(labels[::2, ::2], path)), '48'),
    'transposed': (first(lambda labels, path: save(labels.T, path)), '64'),
    'empty': (first(lambda labels, path: path.write_bytes(b'')), 'empty (0 bytes)'),
    'cut off': (first(lambda labels, path: path.write_bytes(path.read_bytes()[:-60])), 'truncated or damaged'),
    'all ignored': (every(lambda labels, path: save(0 * labels + 255, path)), 'no pixel has a class'),
    'one class': (every(lambda labels, path: save(np.where(labels == 0, 255, 0), path)), '0 (road) is the only class'),
    'class 25': (first(one_value), 'holds the value 25 (1 of 6,144 pixels, the first in row 0, column 0)'),
    'label ids': (
        every(lambda labels, path: save(np.select([labels == 0, labels == 2, labels == 10], [7, 11, 23], 0), path)),
        'These are label ids, not train ids',
    ),
    'small label ids': (
        every(lambda labels, path: save(np.select([labels == 0, labels == 1, labels == 2], [7, 8, 11], 0), path)),
        'label ids (7 road, 8 sidewalk',
    ),
}
FINE = {name: every(FORMS[name]) for name in ('palette', '16 bit', 'RGB', 'grey and alpha')} | dict(jpg=as_jpg)


def build_city(root):
    prefix = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
    pipeline = [dict(type='frostnet_mm.LoadImage'), dict(type='frostnet_mm.LoadSegAnnotations')]
    return CheckedCityscapesDataset(data_root=str(root), data_prefix=prefix, pipeline=pipeline)


@pytest.mark.parametrize('name', FAULTS)
def test_what_training_refuses_is_a_problem_of_the_download(name, city, tmp_path, capsys):
    root = shutil.copytree(city, tmp_path / 'city')
    change, said = FAULTS[name]
    change(root)
    with pytest.raises(DatasetError) as caught:
        build_city(root)
    assert said in str(caught.value)
    assert run_tool('prepare_cityscapes', root) == 1
    out = capsys.readouterr().out
    assert 'PROBLEM: ' in out and said in out
    assert run_tool('prepare_cityscapes', root, '--fast') == 1  # reads what training reads before its first step


@pytest.mark.parametrize('name', FINE)
def test_what_training_takes_is_no_problem_of_the_download(name, city, tmp_path, capsys):
    root = shutil.copytree(city, tmp_path / 'city')
    FINE[name](root)
    assert np.array_equal(build_city(root)[0]['gt_seg_map'], build_city(city)[0]['gt_seg_map'])
    assert run_tool('prepare_cityscapes', root) == 0
    out = capsys.readouterr().out
    assert ('are stored as' in out) == (name not in ('palette', 'jpg'))
    assert ('images are no *_leftImg8bit.png' in out) == (name == 'jpg')


# -- deployment


def test_a_size_that_is_open_is_asked_for_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    from frostnet_mm.deploy import deploy

    monkeypatch.setattr(deploy, 'load_for_deployment', lambda *_: pytest.fail('loaded'))
    assert run_tool('deploy', CITY, 'random', '--engine', 'onnxruntime', '--out', tmp_path / 'out') == 2
    assert 'Images of the same ratio as its scale, 2048x1024, need --shape 1024 2048.' in capsys.readouterr().err
