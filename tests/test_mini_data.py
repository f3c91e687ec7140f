"""The generated detection data, checked with pycocotools and by hand, not with the generator's own code."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frostnet_mm.data.generated import mini_coco
from frostnet_mm.data.generated.mini_coco import generate_mini_coco

COUNTS = dict(num_train=40, num_val=24)
SMALL = dict(num_train=6, num_val=3, progress=False)
NAMES = ['disc', 'square', 'triangle', 'star', 'ring', 'cross']


def hashes(root):
    """sha256 of every file, by its path below root."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(root).rglob('*'))
        if p.is_file()
    }


def load(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / 'annotations' / f'instances_{split}2017.json'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp('mini') / 'coco'
    generate_mini_coco(path, seed=3, progress=False, **COUNTS)
    return path


@pytest.fixture(scope='module')
def cocos(root):
    return {split: load(root, split) for split in ('train', 'val')}


@pytest.fixture(scope='module')
def tool():
    tools = Path(__file__).resolve().parents[1] / 'tools'
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tools))
        return importlib.import_module('make_mini_data')


# --- the bytes


def test_same_seed_gives_same_bytes_and_another_seed_others(root, tmp_path):
    generate_mini_coco(tmp_path / 'again', seed=3, progress=False, **COUNTS)
    generate_mini_coco(tmp_path / 'other', seed=4, **SMALL)
    first, again, other = (hashes(p) for p in (root, tmp_path / 'again', tmp_path / 'other'))
    assert first == again
    assert len([name for name in other if name.endswith('.jpg')]) == 9
    assert not [name for name in other if first[name] == other[name]]


def test_images_do_not_depend_on_the_number_of_images(root, tmp_path):
    generate_mini_coco(tmp_path / 'few', seed=3, **SMALL)
    first, few = hashes(root), hashes(tmp_path / 'few')
    images = [name for name in few if name.endswith('.jpg')]
    assert len(images) == 9
    assert all(few[name] == first[name] for name in images)
    ours, theirs = load(root, 'train'), load(tmp_path / 'few', 'train')
    assert [ours.imgToAnns[i] for i in sorted(theirs.imgs)] == [theirs.imgToAnns[i] for i in sorted(theirs.imgs)]


def test_no_image_is_in_both_splits_or_twice(root):
    images = {name: digest for name, digest in hashes(root).items() if name.endswith('.jpg')}
    assert len(images) == len(set(images.values())) == 64
    assert not {Path(n).name for n in images if n.startswith('train')} & {
        Path(n).name for n in images if n.startswith('val')
    }


def test_images_are_small_files(root):
    sizes = [p.stat().st_size for p in root.rglob('*.jpg')]
    assert max(sizes) <= 32 * 1024
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert len(mini_coco._encode_jpeg(noise, 92)) <= 32 * 1024  # the worst case there is


# --- the json


def test_json_has_all_that_coco_has(root, cocos):
    seen = set()
    for split, count in dict(train=40, val=24).items():
        data = cocos[split].dataset
        assert set(data) == {'info', 'licenses', 'images', 'categories', 'annotations'}
        assert 'synthetic' in data['info']['description']
        assert [c['name'] for c in data['categories']] == NAMES
        assert [c['id'] for c in data['categories']] == [1, 2, 4, 7, 8, 11]
        assert all(c['supercategory'] for c in data['categories'])
        assert len(data['images']) == count
        for entry in data['images']:
            assert entry['file_name'] == f'{entry["id"]:012d}.jpg'
            image = cv2.imread(str(root / f'{split}2017' / entry['file_name']))
            assert image.shape == (entry['height'], entry['width'], 3)
        assert len(list((root / f'{split}2017').iterdir())) == count
        for key in ('images', 'annotations'):
            ids = {(key, entry['id']) for entry in data[key]}
            assert len(ids) == len(data[key]) and not ids & seen
            seen |= ids
        assert {a['image_id'] for a in data['annotations']} <= set(cocos[split].imgs)
        assert {a['category_id'] for a in data['annotations']} == {1, 2, 4, 7, 8, 11}
    assert 'synthetic' in (root / 'README.md').read_text()


def test_boxes_and_areas_are_those_of_the_decoded_masks(cocos):
    # Exactly, without a tolerance: the polygons run along pixel edges.
    checked = 0
    for coco in cocos.values():
        for annotation in coco.dataset['annotations']:
            entry = coco.imgs[annotation['image_id']]
            mask = coco.annToMask(annotation)
            assert mask.shape == (entry['height'], entry['width'])
            assert int(mask.sum()) == annotation['area']
            assert mask_utils.toBbox(coco.annToRLE(annotation)).tolist() == annotation['bbox']
            x, y, w, h = annotation['bbox']
            assert x >= 0 and y >= 0 and x + w <= entry['width'] and y + h <= entry['height']
            assert annotation['iscrowd'] or min(w, h) >= 6
            checked += 1
    assert checked > 200


def test_polygons_do_not_overlap(cocos):
    annotations = [a for a in cocos['train'].dataset['annotations'] if not a['iscrowd']]
    assert any(len(a['segmentation']) > 1 for a in annotations)  # rings and occluded objects
    for annotation in annotations:
        for polygon in annotation['segmentation']:
            assert len(polygon) >= 8 and len(polygon) % 2 == 0
        parts = [np.array(p, float).reshape(-1, 2) for p in annotation['segmentation']]
        shoelace = [0.5 * abs(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1))) for p in parts]
        assert sum(shoelace) == annotation['area']


def test_visible_masks_are_disjoint(cocos):
    for coco in cocos.values():
        for annotations in coco.imgToAnns.values():
            assert sum(coco.annToMask(a).astype(int) for a in annotations).max() == 1


def test_crowds_and_empty_images(cocos):
    for split, crowds, empty in (('train', 3, 2), ('val', 2, 1)):
        coco = cocos[split]
        found = [a for a in coco.dataset['annotations'] if a['iscrowd']]
        assert len(found) == crowds  # images 5, 17, 29
        for annotation in found:
            entry = coco.imgs[annotation['image_id']]
            assert set(annotation['segmentation']) == {'size', 'counts'}
            assert annotation['segmentation']['size'] == [entry['height'], entry['width']]
            assert isinstance(annotation['segmentation']['counts'], list)
            parts = cv2.connectedComponents(coco.annToMask(annotation))[0] - 1
            assert parts >= 3
        bare = [i for i in coco.imgs if not coco.imgToAnns[i]]
        assert len(bare) == empty  # images 13 and 33


def test_classes_are_balanced_and_sizes_are_spread(cocos):
    objects = [a for c in cocos.values() for a in c.dataset['annotations'] if not a['iscrowd']]
    share = np.bincount([a['category_id'] for a in objects], minlength=12) / len(objects)
    # 1/6 each; 0.06 is over 2.5 standard deviations of 200 draws
    assert np.all(np.abs(share[[1, 2, 4, 7, 8, 11]] - 1 / 6) < 0.06)
    areas = np.array([a['area'] for a in objects])
    assert 0.25 < np.mean(areas < 32**2) < 0.6
    assert 0.03 < np.mean(areas >= 96**2) < 0.2
    assert 3 < len(objects) / 64 < 6


def test_returned_counts_are_those_of_the_json(root, cocos):
    counts = generate_mini_coco(root, seed=3, progress=False, **COUNTS)
    for split, coco in cocos.items():
        figures, areas = counts[split], dict(small=[0, 32**2], medium=[32**2, 96**2 - 1])
        for name, limits in areas.items():  # getAnnIds leaves both limits out
            ids = coco.getAnnIds(areaRng=[limits[0] - 0.5, limits[1] - 0.5 + (name == 'medium')], iscrowd=False)
            assert len(ids) == figures[name]
        assert (
            figures['objects']
            == sum(figures['per_class'].values())
            == (figures['small'] + figures['medium'] + figures['large'])
        )
        assert {
            c['name']: len(coco.getAnnIds(catIds=[c['id']], iscrowd=False)) for c in coco.dataset['categories']
        } == figures['per_class']


# --- the evaluator


def evaluate(coco, shift):
    """COCO mAP of the ground truth moved sideways by a share of each box's width."""
    results = [
        dict(
            image_id=a['image_id'],
            category_id=a['category_id'],
            score=1.0,
            bbox=[a['bbox'][0] + shift * a['bbox'][2], *a['bbox'][1:]],
        )
        for a in coco.dataset['annotations']
        if not a['iscrowd']
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(coco, coco.loadRes(results), 'bbox')
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0]


@pytest.mark.parametrize(
    'shift, expected',
    [
        (0.0, 1.0),
        (0.1, 0.7),  # IoU 0.9 / 1.1 = 0.818: over 7 of the 10 thresholds
        (0.3, 0.1),  # IoU 0.7 / 1.3 = 0.538: over 0.50 alone
        (0.6, 0.0),
    ],
)
def test_ground_truth_as_detections_scores_what_it_must(cocos, shift, expected):
    # A moved box can meet a neighbour of its class by chance, hence the tolerance.
    tolerance = 1e-6 if shift == 0 else 0.03
    assert evaluate(cocos['val'], shift) == pytest.approx(expected, abs=tolerance)


# --- second calls, interruptions, other parameters


def test_second_call_returns_at_once(root, monkeypatch):
    def fail(*args):
        raise AssertionError('rendered again')

    monkeypatch.setattr(mini_coco, 'make_sample', fail)
    before = hashes(root)
    counts = generate_mini_coco(root, seed=3, progress=False, **COUNTS)
    assert counts['train']['images'] == 40 and counts['val']['empty'] == 1
    assert hashes(root) == before


def test_interrupted_generation_is_taken_up(tmp_path, monkeypatch):
    generate_mini_coco(tmp_path / 'whole', seed=1, **SMALL)
    make, made = mini_coco.make_sample, []

    def interrupted(*args):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(args)
        return make(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mini_coco, 'make_sample', interrupted)
        generate_mini_coco(tmp_path / 'cut', seed=1, **SMALL)
    left = hashes(tmp_path / 'cut')
    assert '.complete' not in left
    assert len([name for name in left if name.endswith('.jpg')]) == 4
    assert not list((tmp_path / 'cut').glob('.partial-*'))
    generate_mini_coco(tmp_path / 'cut', seed=1, **SMALL)
    assert hashes(tmp_path / 'cut') == hashes(tmp_path / 'whole')


def test_a_run_killed_before_it_wrote_anything_is_taken_up(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    names = ['.partial-abc', f'.partial-{dead.pid}-abc', f'.partial-{os.getppid()}-abc']
    for name in names:
        (tmp_path / 'data' / name).mkdir(parents=True)
    generate_mini_coco(tmp_path / 'data', 1, 1, progress=False)
    assert (tmp_path / 'data' / '.complete').is_file()
    # another process that is running now writes there
    assert [name for name in names if (tmp_path / 'data' / name).exists()] == names[2:]


@pytest.mark.parametrize('stamped', [False, True])
def test_lost_and_broken_files_are_made_again(tmp_path, stamped):
    path = tmp_path / 'data'
    generate_mini_coco(path, seed=1, **SMALL)
    before = hashes(path)
    images = sorted(path.glob('train2017/*.jpg'))
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:100])
    if not stamped:  # killed: no stamp, and what it was writing is still there
        (path / '.complete').unlink()
        (path / '.partial-xyz').mkdir()
        (path / '.partial-xyz' / 'half.jpg').write_bytes(b'half')
        (path / 'annotations' / 'instances_val2017.json').unlink()
    generate_mini_coco(path, seed=1, **SMALL)
    assert hashes(path) == before


def test_other_parameters_are_refused_unless_told_to_overwrite(tmp_path):
    path = tmp_path / 'data'
    generate_mini_coco(path, seed=1, **SMALL)
    before = hashes(path)
    with pytest.raises(FileExistsError, match=r'seed 1 instead of 2.*--overwrite'):
        generate_mini_coco(path, seed=2, **SMALL)
    (path / '.complete').unlink()  # an unfinished one is not silently replaced either
    with pytest.raises(FileExistsError, match=r'num_train 6 instead of 2.*--overwrite'):
        generate_mini_coco(path, 2, 3, seed=1)
    before.pop('.complete')
    assert hashes(path) == before
    generate_mini_coco(path, 2, 1, seed=2, overwrite=True, progress=False)
    generate_mini_coco(tmp_path / 'fresh', 2, 1, seed=2, progress=False)
    assert hashes(path) == hashes(tmp_path / 'fresh')


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_foreign_folder_is_never_touched(tmp_path, overwrite):
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'train2017' / '000000000009.jpg').write_bytes(b'a true photograph')
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match='not made by this generator'):
        generate_mini_coco(tmp_path, overwrite=overwrite, **SMALL)
    assert hashes(tmp_path) == before


@pytest.mark.parametrize('wrong', [dict(num_train=0), dict(num_val=-1), dict(seed=-5)])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        generate_mini_coco(tmp_path / 'data', **{**SMALL, **wrong})
    assert not (tmp_path / 'data').exists()


# --- the command


def test_command_writes_data_and_preview(tool, tmp_path, capsys):
    out, sheet = tmp_path / 'data', tmp_path / 'sheets' / 'preview.png'
    argv = ['coco', '--out', str(out), '--train', '7', '--val', '2', '--seed', '9']
    assert tool.main([*argv, '--preview', str(sheet)]) == 0
    assert 'train: 7 images' in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape == (2 * 320, 6 * 320, 3)
    stamp = json.loads((out / '.complete').read_text())
    assert stamp['parameters'] == dict(version='1.0', seed=9, num_train=7, num_val=2)
    assert tool.main(argv) == 0
    assert '--overwrite' in tool.main([*argv[:-1], '10'])
    assert tool.main([*argv[:-1], '10', '--overwrite']) == 0


def test_command_names_what_is_wrong(tool, tmp_path, capsys, monkeypatch):
    file = tmp_path / 'file'
    file.write_text('something')
    assert f'{file} is a file' in tool.main(['coco', '--out', str(file)])
    assert 'file' in tool.main(['coco', '--out', str(file / 'below')])
    with pytest.raises(SystemExit):
        tool.main(['coco', '--out', str(tmp_path / 'data'), '--train', '-3'])
    assert 'at least 1' in capsys.readouterr().err

    def denied(*args, **kwargs):
        raise PermissionError(13, 'Permission denied', str(tmp_path / 'data'))

    monkeypatch.setattr(Path, 'mkdir', denied)  # tests may run as root, whom no mode bits stop
    assert 'Permission denied' in tool.main(['coco', '--out', str(tmp_path / 'data')])
    shutil.rmtree(tmp_path / 'data', ignore_errors=True)
