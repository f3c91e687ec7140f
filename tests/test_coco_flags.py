"""The flags iscrowd and ignore: what is understood, what is refused; nothing trains or evaluates on nothing."""

import json
import shutil

import pytest

pytest.importorskip('mmdet')
from coco_files import NUM_IMAGES, annotation, assert_in, build, edit, error_of, log_to, write_dataset  # noqa: E402
from conftest import ROOT, SHORT, run_tool  # noqa: E402

from frostnet_mm.data.coco_flags import IGNORED, settle_flags  # noqa: E402


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path)


@pytest.fixture
def log(tmp_path):
    with log_to(tmp_path / 'test.log') as lines:
        yield lines


def set_flag(root, flag, value, positions=slice(None)):
    edit(root, lambda data: [entry.update({flag: value}) for entry in data['annotations'][positions]])


def ignore_flags(dataset):
    return [entry['ignore_flag'] for i in range(len(dataset)) for entry in dataset.get_data_info(i)['instances']]


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', [0, 0.0, False])
def test_numbers_and_booleans_need_no_word(root, log, flag, value):
    set_flag(root, flag, value)
    assert ignore_flags(build(root, test_mode=True)) == [0] * 20 and log() == []


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', ['0', 'False', 'false', ' 0.0', 'no', None])
@pytest.mark.parametrize('test_mode', [False, True])
def test_text_and_null_are_understood_and_said_once(root, log, flag, value, test_mode):
    set_flag(root, flag, value)
    dataset = build(root, test_mode=test_mode)
    assert ignore_flags(dataset) == [0] * 20 and dataset.problems == {}
    assert len(log()) == 1
    assert_in(log()[0], f'{flag} is text or null in 20 of 20 annotations', f'{value!r} as 0 (20 times) understood')


@pytest.mark.parametrize('value', [1, 1.0, True, '1', 'True', 'yes'])
def test_ignored_boxes_are_counted(root, log, value):
    set_flag(root, 'iscrowd', value, slice(0, 3))
    set_flag(root, 'ignore', value, slice(2, 4))
    dataset = build(root)
    assert ignore_flags(dataset) == [1, 1] + [0] * 16  # mmdet leaves out what has ignore
    assert dataset.problems == {IGNORED: 4}
    assert_in(log('INFO')[-1], '4 of 20 boxes are ignored', 'annotation ids 2, 3, 4 and 1 more')


def test_many_ignored_boxes_are_a_warning(root, log):
    set_flag(root, 'iscrowd', 1, slice(0, 11))
    build(root)
    assert_in(log()[0], '11 of 20 boxes are ignored')


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', [2, -1, 0.5, float('nan'), 'maybe', '', '2', [0], {}])
@pytest.mark.parametrize('test_mode', [False, True])
def test_anything_else_is_refused_by_annotation_and_value(root, flag, value, test_mode):
    set_flag(root, flag, value, slice(5, 7))
    message = f'the annotation 7 has {flag}={value!r}, expected 0 (a single object) or 1 (ignored); 2 of '
    assert_in(error_of(root, test_mode=test_mode), 'train.json', message)


def test_settled_flags_are_integers():
    values = [0, 1, False, True, '0', '1', None, 1.0]
    data = dict(annotations=[dict(annotation(i), iscrowd=value) for i, value in enumerate(values)])
    message = settle_flags(data, 'a.json')
    settled = [entry['iscrowd'] for entry in data['annotations']]
    assert settled == [0, 1, 0, 1, 0, 1, 0, 1] and set(map(type, settled)) == {int}
    assert message == [
        "'a.json': iscrowd is text or null in 3 of 8 annotations, expected the number 0 or 1: "
        "'0' as 0 (1 times), '1' as 1 (1 times), None as 0 (1 times) understood."
    ]


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('test_mode, aim', [(False, 'nothing to learn'), (True, 'every metric would be -1')])
def test_no_box_that_counts_is_an_error(root, flag, test_mode, aim):
    set_flag(root, flag, 1)
    assert_in(
        error_of(root, test_mode=test_mode),
        f'none of its 20 boxes can be used (20 {IGNORED})',
        aim,
        'set them to 0 in the file',
    )


@pytest.mark.parametrize('test_mode', [False, True])
def test_no_box_of_the_configs_classes_is_an_error(root, test_mode):
    edit(root, lambda data: [entry.update(category_id=3) for entry in data['annotations']])
    assert_in(error_of(root, classes=('cat', 'owl'), test_mode=test_mode), 'none of its 20 boxes can be used')
    edit(root, lambda data: [data['annotations'][4].update(category_id=7)])
    assert len(build(root, classes=('cat', 'owl'), test_mode=test_mode)) == NUM_IMAGES


@pytest.mark.parametrize('test_mode', [False, True])
def test_no_annotations_are_an_error(root, test_mode):
    edit(root, lambda data: data.update(annotations=[]))
    assert_in(error_of(root, test_mode=test_mode), 'holds no annotations', "type='mmdet.CocoDataset'")


# --- tools


@pytest.fixture
def coco(mini_coco, tmp_path):
    return shutil.copytree(mini_coco, tmp_path / 'coco')


def flag_all(coco, split, **flags):
    path = coco / 'annotations' / f'instances_{split}.json'
    data = json.loads(path.read_text())
    for entry in data['annotations']:
        entry.update(flags)
    path.write_text(json.dumps(data))
    return len(data['annotations'])


@pytest.mark.parametrize('split', ['train2017', 'val2017'])
@pytest.mark.parametrize('flags', [dict(iscrowd=1), dict(ignore='1'), dict(iscrowd='crowd')])
def test_prepare_coco_judges_as_training_does(coco, split, flags, tmp_path, capsys):
    total = flag_all(coco, split, **flags)
    assert run_tool('prepare_coco', coco, '--fast') == 1
    report = capsys.readouterr().out
    config = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
    options = ('--work-dir', tmp_path / 'work', '--cfg-options', f'data_root={coco}', *SHORT)
    assert run_tool('train', config, *options) == 2
    error = capsys.readouterr().err
    expected = 'has iscrowd=' if 'crowd' in flags.values() else f'none of its {total} boxes can be used'
    assert_in(report, f"PROBLEM: '{coco}/annotations/instances_{split}.json': ", expected)
    assert_in(error, f"error: '{coco}/annotations/instances_{split}.json': ", expected)
    assert not list((tmp_path / 'work').rglob('*.pth'))


def test_prepare_coco_says_what_it_understood(coco, capsys):
    total = flag_all(coco, 'val2017', iscrowd='False')
    assert run_tool('prepare_coco', coco, '--fast') == 0
    assert f'iscrowd is text or null in {total} of {total} annotations' in capsys.readouterr().out
