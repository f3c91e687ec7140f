"""The tools, from data to pictures, as a user runs them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, SHORT, run_tool

from frostnet_mm.apis.visualization.training_plots import read_scalars

CONFIG = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))


def test_training_leaves_checkpoints_config_and_logs(trained):
    assert (trained / 'epoch_2.pth').is_file()
    assert (trained / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    records = read_scalars(trained)
    assert [r['iter'] for r in records if 'loss' in r] == list(
        range(1, 7)
    )  # 23 images with objects, 6 a batch, no rest
    assert [r['at_iter'] for r in records if 'coco/bbox_mAP' in r] == [3, 6]
    dumped = (trained / CONFIG.name).read_text()
    assert "'disc'" in dumped and 'num_classes=6' in dumped  # what classes='from_annotations' stood for


def test_test_tool_repeats_the_figures_of_the_training(trained, mini_coco, tmp_path):
    out, shown = tmp_path / 'metrics.json', tmp_path / 'shown'
    assert (
        run_tool(
            'test',
            CONFIG,
            trained / 'epoch_2.pth',
            '--work-dir',
            tmp_path / 'work',
            '--out',
            out,
            '--show-dir',
            shown,
            '--cfg-options',
            f'data_root={mini_coco}',
            *SHORT,
        )
        == 0
    )
    metrics = json.loads(out.read_text())['metrics']
    last = [r for r in read_scalars(trained) if 'coco/bbox_mAP' in r][-1]
    assert {k: v for k, v in metrics.items() if k.startswith('coco/')} == {
        k: v for k, v in last.items() if k.startswith('coco/')
    }
    drawn = sorted(shown.iterdir())
    assert len(drawn) == 8
    truth_and_prediction = cv2.imread(str(drawn[0]))
    original = cv2.imread(str(mini_coco / 'val2017' / drawn[0].name))
    assert truth_and_prediction.shape == (original.shape[0], 2 * original.shape[1], 3)


def test_curves(trained, tmp_path):
    out = tmp_path / 'curves.png'
    assert run_tool('plot_curves', trained, '--out', out) == 0
    assert cv2.imread(str(out)).std() > 10


@pytest.fixture(scope='module')
def folder(mini_coco, tmp_path_factory):
    """Two images of the data, a grey one in a sub-folder, one of a single pixel, and a truncated one."""
    folder = tmp_path_factory.mktemp('images')
    names = sorted((mini_coco / 'val2017').iterdir())[:2]
    for path in names:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / 'sub').mkdir()
    cv2.imwrite(str(folder / 'sub' / 'grey.png'), cv2.imread(str(names[0]), cv2.IMREAD_GRAYSCALE))
    cv2.imwrite(str(folder / 'pixel.png'), np.full((1, 1, 3), 90, np.uint8))
    content = names[0].read_bytes()
    (folder / 'truncated.jpg').write_bytes(content[: len(content) // 2])
    return folder


def test_infer_writes_pictures_and_json_and_names_what_it_could_not_read(trained, folder, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run_tool('infer', CONFIG, trained / 'epoch_2.pth', folder, '--out', out, '--score-thr', '0.02') == 1
    results = json.loads((out / 'results.json').read_text())
    names = {str(p.relative_to(folder)) for p in folder.rglob('*.*')}
    assert set(results['images']) == names - {'truncated.jpg'}
    assert set(results['failed']) == {'truncated.jpg'} and 'truncated' in results['failed']['truncated.jpg']
    assert 'truncated.jpg' in capsys.readouterr().out
    assert {str(p.relative_to(out)) for p in out.rglob('*.*')} == set(results['images']) | {'results.json'}
    for name, result in results['images'].items():
        image = cv2.imread(str(folder / name))
        assert (result['height'], result['width']) == image.shape[:2]
        for found in result['detections']:
            x1, y1, x2, y2 = found['bbox']
            assert 0 <= x1 <= x2 <= result['width'] and 0 <= y1 <= y2 <= result['height']
    assert any(r['detections'] for r in results['images'].values())


def test_mmdets_own_inference_finds_the_same(trained, folder, tmp_path):
    """init_detector, inference_detector and DetInferencer, on the config that the training wrote."""
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    image = sorted(folder.glob('0*.jpg'))[0]
    assert run_tool('infer', CONFIG, trained / 'epoch_2.pth', image, '--out', tmp_path, '--score-thr', '0') == 0
    ours = json.loads((tmp_path / 'results.json').read_text())['images'][image.name]['detections']
    config = str(trained / CONFIG.name)
    model = init_detector(config, str(trained / 'epoch_2.pth'), device='cpu')
    model.to(memory_format=torch.channels_last)  # as ours: rounding decides between nearly equal scores
    theirs = inference_detector(model, str(image)).pred_instances
    assert [d['label'] for d in ours] == theirs.labels.tolist()
    np.testing.assert_allclose([d['bbox'] for d in ours], theirs.bboxes.numpy(), atol=0.01)
    inferencer = DetInferencer(config, str(trained / 'epoch_2.pth'), device='cpu', show_progress=False)
    again = inferencer(str(image), pred_score_thr=0)['predictions'][0]
    np.testing.assert_allclose(again['scores'], [d['score'] for d in ours], atol=1e-3)
    assert model.dataset_meta['classes'] == ('disc', 'square', 'triangle', 'star', 'ring', 'cross')


@pytest.fixture
def plain_config(mini_coco, tmp_path):
    """A config without random augmentation: with one seed, every run of it must give the same weights."""
    config = tmp_path / 'plain.py'
    config.write_text(f"""
_base_ = {str(CONFIG)!r}
plain = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
         dict(type='Resize', scale=(96, 96), keep_ratio=False), dict(type='PackDetInputs')]
val = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=False),
       dict(type='LoadAnnotations', with_bbox=True),
       dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
root = {str(mini_coco)!r}
train_dataloader = dict(batch_size=2, num_workers=1,
                        dataset=dict(data_root=root, pipeline=plain))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=root, pipeline=val))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
""")
    return config


def start(config, work_dir, *args, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir), *args],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,  # as in a terminal, where a Ctrl-C reaches the data loading workers too
    )


def test_interrupted_training_resumes_in_the_middle_of_an_epoch(plain_config, tmp_path):
    straight, broken = tmp_path / 'straight', tmp_path / 'broken'
    whole = start(plain_config, straight, stdout=subprocess.DEVNULL)
    process = start(plain_config, broken)
    for line in process.stdout:
        if re.search(r'Epoch\(train\) +\[2\]\[ *3/', line):
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait() == 130, rest
    assert 'Traceback' not in rest
    saved = list(broken.glob('interrupted_iter_*.pth'))
    assert len(saved) == 1 and f'{saved[0].name}; the same command with --resume' in rest
    iteration = int(re.search(r'iter_(\d+)', saved[0].name)[1])
    per_epoch = int(re.search(r'\[2\]\[ *3/(\d+)', line)[1])
    assert per_epoch + 3 <= iteration <= 2 * per_epoch

    other = tmp_path / 'other'
    shutil.copytree(broken, other)
    options = f'--resume {saved[0]} --cfg-options train_dataloader.batch_size=4'.split()
    output = start(plain_config, other, *options).communicate()[0]
    assert f'Epoch 2 starts anew: an epoch had {per_epoch} iterations' in output

    output = start(plain_config, broken, '--resume').communicate()[0]
    assert f'Epoch 2 goes on after its first {iteration - per_epoch} of {per_epoch} iterations' in output
    assert whole.wait() == 0
    assert [r['iter'] for r in read_scalars(broken) if 'loss' in r] == list(range(1, 2 * per_epoch + 1))
    one, two = (torch.load(d / 'epoch_2.pth', weights_only=False) for d in (straight, broken))
    assert one['meta']['iter'] == two['meta']['iter'] == 2 * per_epoch
    for key, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][key]), key
    assert one['param_schedulers'][0]['last_step'] == two['param_schedulers'][0]['last_step']


def failure(capsys, *args):
    """Exit status 2 and one message without a traceback; return the message."""
    assert run_tool(*args) == 2
    printed = capsys.readouterr().err
    assert printed.count('\nerror: ') == 1
    message = printed[printed.index('\nerror: ') :]
    assert 'Traceback' not in message
    return message


def test_wrong_inputs_are_told_in_one_message(trained, mini_coco, tmp_path, capsys, monkeypatch):
    options = ['--cfg-options', f'data_root={mini_coco}', *SHORT]
    message = failure(capsys, 'train', ROOT / 'configs/ssdlite_frostnt_coco.py')
    assert 'ssdlite_frostnt_coco.py does not exist' in message and 'ssdlite_frostnet_coco.py' in message
    message = failure(capsys, 'train', CONFIG, '--work-dir', tmp_path, '--cfg-options', f'data_root={tmp_path}/nothing')
    assert f'{tmp_path}/nothing' in message and 'make_mini_data.py' in message
    message = failure(capsys, 'test', CONFIG, tmp_path / 'none.pth', *options)
    assert 'none.pth does not exist' in message
    (tmp_path / 'cut.pth').write_bytes((trained / 'epoch_2.pth').read_bytes()[:5000])
    for tool in ('test', 'infer'):
        extra = options if tool == 'test' else [mini_coco / 'val2017', '--out', tmp_path / 'o']
        assert 'truncated' in failure(capsys, tool, CONFIG, tmp_path / 'cut.pth', *extra)
    message = failure(capsys, 'train', CONFIG, '--work-dir', tmp_path, '--resume', tmp_path / 'cut.pth', *options)
    assert 'truncated' in message
    message = failure(
        capsys, 'test', CONFIG, trained / 'epoch_2.pth', '--work-dir', tmp_path, *options, 'model.backbone.arch=base'
    )
    assert 'does not fit' in message and "FrostNet(arch='small', widen_factor=0.5)" in message
    message = failure(capsys, 'infer', CONFIG, trained / 'epoch_2.pth', tmp_path / 'no_images', '--out', tmp_path / 'o')
    assert 'no_images does not exist' in message
    broken = tmp_path / 'broken.py'
    broken.write_text('model = dict(\n')
    assert 'broken.py cannot be read: SyntaxError' in failure(capsys, 'train', broken)
    message = failure(capsys, 'train', CONFIG, '--amp', *options)
    assert '--amp needs a GPU' in message


def test_coco_config_without_data_says_where_coco_belongs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = failure(capsys, 'train', ROOT / 'configs/ssdlite_frostnet_coco.py')
    for words in ('data/coco', 'COCO_ROOT', 'data_root=', 'make_mini_data.py coco', 'ssdlite_frostnet_minicoco.py'):
        assert words in message


def test_release_weights_through_the_converter(tmp_path, capsys):
    from reference_frostnet import ReferenceFrostNetSmall

    from frostnet_mm import FrostNet

    reference = ReferenceFrostNetSmall()
    torch.save(dict(state_dict=reference.state_dict()), tmp_path / 'release.tar')
    args = 'convert_frostnet_weights', tmp_path / 'release.tar', tmp_path / 'clean.pth'
    assert run_tool(*args) == 0
    assert "FrostNet(arch='small', widen_factor=1.0), 4,858,776 parameters" in capsys.readouterr().out
    net = FrostNet(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'clean.pth')))
    net.init_weights()
    assert torch.equal(net.stem.conv.weight, reference.conv1.conv[0].weight)
    assert 'exists already' in failure(capsys, *args)
    assert "not in the authors' format" in failure(
        capsys, 'convert_frostnet_weights', tmp_path / 'clean.pth', tmp_path / 'again.pth'
    )
