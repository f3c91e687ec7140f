"""tools/infer.py and the drawing of tests: every file that loading copes with is drawn, nothing found is lost."""

import json
import os
import unicodedata

import cv2
import numpy as np
import pytest
from conftest import run_tool
from image_formats import encoded, saved, scene, write_formats
from test_golden import CHECKPOINT, CONFIG, DEPLOYMENT

from frostnet_mm.apis.inference import build_pipeline, predict_shown
from frostnet_mm.apis.model import load_model
from frostnet_mm.device import drawing
from frostnet_mm.device.predictor import Predictor
from frostnet_mm.engine.config import load_config


@pytest.fixture(scope='module', autouse=True)
def loaded_once():
    """The model, which infer.py would load in every test."""
    loaded = load_model(str(CONFIG), str(CHECKPOINT), 'cpu')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('frostnet_mm.apis.model.load_model', lambda *args: loaded)
        yield


def infer(*args):
    return run_tool('infer', CONFIG, CHECKPOINT, *args, '--score-thr', '0.05')


def results_of(out):
    return json.loads((out / 'results.json').read_text())


def message(capsys, *args):
    """The one message of a run that is refused."""
    capsys.readouterr()
    assert infer(*args) == 2
    shown = capsys.readouterr().err
    assert 'Traceback' not in shown and shown.count('error: ') == 1
    return shown.partition('error: ')[2].strip()


@pytest.fixture(scope='module')
def formats(tmp_path_factory):
    """A folder of every format, its expected pixels, and what infer.py makes of it."""
    folder = tmp_path_factory.mktemp('formats')
    expected = write_formats(folder)
    out = tmp_path_factory.mktemp('drawn')
    assert infer(folder, '--out', out) == 0
    return folder, expected, out


def test_every_format_is_found_and_drawn(formats):
    _, expected, out = formats
    results = results_of(out)
    assert set(results['images']) == set(expected) and results['failed'] == {}
    pictures = {result['picture'] for result in results['images'].values()}
    assert len(pictures) == len(expected)
    assert {'plain.jpg', 'plain.png', 'plain_bmp.png', 'turned_webp.png', 'lossy.png'} <= pictures
    for name, result in results['images'].items():
        drawn = cv2.imread(str(out / result['picture']))
        assert drawn.shape == expected[name].shape == (result['height'], result['width'], 3)
        changed = np.abs(drawn.astype(int) - expected[name]).max(axis=2) > 30
        assert (changed.mean() < 0.05) != bool(result['detections'])  # nothing but labels and outlines is painted


def test_infer_and_deployment_see_the_pixels_of_the_training_loader(formats, monkeypatch):
    """What reaches the float and the simulated network, and what reaches the deployment."""
    folder, expected, _ = formats
    pipeline, predictor = build_pipeline(load_config(CONFIG)), Predictor(DEPLOYMENT)
    seen = []
    monkeypatch.setattr('frostnet_mm.device.pipeline.preprocess', lambda image, _: seen.append(image) or (None, None))
    monkeypatch.setattr('frostnet_mm.device.pipeline.decode', lambda *_: None)
    predictor.network = lambda _: []

    class Model:
        @staticmethod
        def test_step(data):
            return [data['inputs'][0]]

    for name in expected:
        resized, shown = predict_shown(Model, pipeline, folder / name)
        predictor.predict(folder / name)
        assert np.array_equal(shown, seen.pop()), name
        tensor = cv2.resize(shown, (128, 128), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resized.permute(1, 2, 0).numpy(), tensor), name


def test_tests_draw_on_what_the_pipeline_loads(formats, tmp_path):
    """--show-dir, over a data set of what upstream's hook crashes on or turns: truth beside prediction, one a file."""
    folder, expected = formats[0], {name: formats[1][name] for name in DRAWN}
    images = [
        dict(id=k, file_name=name, height=image.shape[0], width=image.shape[1])
        for k, (name, image) in enumerate(expected.items(), 1)
    ]
    boxes = [
        dict(id=i['id'], image_id=i['id'], category_id=1, bbox=[4, 4, 20, 20], area=400, iscrowd=0) for i in images
    ]
    categories = [dict(id=k, name=f'shape {k - 1}') for k in (1, 2)]
    truth = tmp_path / 'truth.json'
    truth.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    dataset = 'test_dataloader.dataset'
    options = (f'{dataset}.data_root=', f'{dataset}.ann_file={truth}', f'{dataset}.data_prefix.img={folder}')
    options += (f'test_evaluator.ann_file={truth}',)
    shown = tmp_path / 'shown'
    arguments = ('--work-dir', tmp_path / 'work', '--show-dir', shown, '--cfg-options', *options)
    assert run_tool('test', CONFIG, CHECKPOINT, *arguments) == 0
    pictures = {path.name: cv2.imread(str(path)) for path in shown.iterdir()}
    assert len(pictures) == len(expected) and {'plain.jpg', 'animated.png', 'animated_gif.png', 'cmyk.png'} <= set(
        pictures
    )
    for suffix, drawn in (('avif', 'turned.png'), ('webp', 'turned_webp.png'), ('tif', 'turned_tif.png')):
        picture, image = pictures[drawn], expected[f'turned.{suffix}']
        assert picture.shape == (64, 96, 3)
        free = np.s_[30:, 4:44]  # below the box of the truth
        assert np.abs(picture[free].astype(int) - image[free]).mean() < 9  # matplotlib blurs


DRAWN = ('plain.jpg', 'animated.png', 'animated.gif', 'cmyk.jp2', 'float.tif', 'colour16.png', 'double.tif')
DRAWN += ('turned.avif', 'turned.webp', 'turned.tif')


def odd_folder(folder):
    """Names as people have them, and what only looks like an image."""
    jpeg, png = saved('JPEG'), saved('PNG')
    files = {'a.jpg': jpeg, 'a.png': png, 'a.bmp': saved('BMP'), 'a_bmp.png': png, 'A.JPG': jpeg}
    files |= {'sub/a.jpg': jpeg, 'sub2/a.jpg': jpeg, 'masks/a.png': png, 'dir.jpg/in.jpg': jpeg, '-x.jpg': jpeg}
    files |= {unicodedata.normalize(form, 'Blüten.jpg'): jpeg for form in ('NFC', 'NFD')}
    files |= {'100%.jpg': jpeg, '50%d %s.jpg': jpeg, 'spa ce [1].jpg': jpeg, 'new\nline.jpg': jpeg, '细胞.jpg': jpeg}
    files |= {'x' * 240 + '.bmp': saved('BMP'), 'back\\slash.jpg': jpeg, os.fsdecode(b'\xff.jpg'): jpeg}
    files |= {'tiny.png': encoded('.png', scene()[:1, :1]), 'flat.png': encoded('.png', scene(2, 700))}
    good = set(files)
    bad = {'empty.jpg': b'', 'page.jpg': b'<html>', 'cut.jpg': jpeg[: len(jpeg) // 2]}
    other = {'v.mp4': b'x', 'b.heic': b'x', 'c.HEIC': b'x', '._a.jpg': b'x', 'notes.txt': b'x'}
    other |= {'.thumbnails/a.jpg': jpeg, 'sub/@eaDir/a.jpg': jpeg, '__MACOSX/sub/._a.jpg': b'x', '.DS_Store': b'x'}
    for name, content in (files | bad | other).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / 'broken.jpg').symlink_to('/nowhere/x.jpg')
    (folder / 'loop').symlink_to(folder)
    os.mkfifo(folder / 'fifo.jpg')
    return good, {*bad, 'broken.jpg'}


def test_odd_names_bad_files_and_results_inside_of_the_images(tmp_path, capsys):
    good, bad = odd_folder(tmp_path)
    runs = []
    for name in ('out', 'out', 'later/out'):  # a second run into the same folder, and one into another
        capsys.readouterr()
        assert infer(tmp_path, '--out', tmp_path / name) == 1
        shown, results = capsys.readouterr().out, results_of(tmp_path / name)
        assert set(results['images']) == good and set(results['failed']) == bad
        assert f'{len(good)} of {len(good | bad)} images done' in shown
        assert 'Left out: 1 ._*, 2 .heic, 1 .mp4; these formats are not read' in shown
        assert 'no images' not in shown  # a text and a pipe, which nobody takes for one
        hidden = (tmp_path / '.thumbnails', tmp_path / '__MACOSX', tmp_path / 'sub/@eaDir')
        assert f'Left out: hidden images and folders: {", ".join(map(str, hidden))}.' in shown
        assert 'failed: empty.jpg: ' in shown and results['failed']['broken.jpg'].endswith('the file does not exist')
        runs.append(shown)
    assert f'Left out: folders of results: {tmp_path}/out.' in runs[2]
    pictures = [result['picture'] for result in results['images'].values()]
    assert len({unicodedata.normalize('NFC', name).casefold() for name in pictures}) == len(good)
    assert not any(name.endswith(('.jpg.png', '.png.png')) for name in pictures)
    assert all((tmp_path / 'later/out' / name).is_file() for name in pictures)


def test_what_cannot_be_drawn_is_named_and_the_results_are_kept(tmp_path, capsys):
    images, out = tmp_path / 'images', tmp_path / 'out'
    images.mkdir()
    for name in 'abc':
        (images / f'{name}.png').write_bytes(saved('PNG'))
    assert infer(images, '--out', out) == 0
    before = results_of(out)['images']
    (out / 'b.png').unlink()
    (out / 'b.png').mkdir()  # as good as a full disk
    assert infer(images, '--out', out) == 1
    results = results_of(out)
    assert results['images']['a.png'] == before['a.png'] and results['images']['c.png'] == before['c.png']
    assert results['images']['b.png'] == {key: v for key, v in before['b.png'].items() if key != 'picture'}
    assert results['failed'] == {'b.png': f"cannot write '{out}/b.png': Is a directory"}
    assert "failed: b.png: cannot write '" in capsys.readouterr().out


def test_a_crash_leaves_what_was_found_before(tmp_path, monkeypatch):
    (tmp_path / 'images').mkdir()
    for name in 'abc':
        (tmp_path / 'images' / f'{name}.png').write_bytes(saved('PNG'))
    paint = drawing.draw
    calls = []

    def crash(*args):
        calls.append(args)
        if len(calls) == 3:
            raise ZeroDivisionError
        return paint(*args)

    monkeypatch.setattr(drawing, 'draw', crash)
    with pytest.raises(ZeroDivisionError):
        infer(tmp_path / 'images', '--out', tmp_path / 'out')
    assert list(results_of(tmp_path / 'out')['images']) == ['a.png', 'b.png']


def test_several_images_patterns_and_what_is_given_twice(tmp_path, capsys):
    for name in ('a/1.png', 'b/1.png', 'b/2.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved('PNG'))
    given = (tmp_path / 'a/1.png', f'{tmp_path}/b/*.png', tmp_path / 'b/../b/2.png', tmp_path / 'b')
    assert infer(*given, '--out', tmp_path / 'out') == 0
    assert list(results_of(tmp_path / 'out')['images']) == ['a/1.png', 'b/1.png', 'b/2.png']
    assert 'Given twice, taken once: 3 images.' in capsys.readouterr().out
    assert sorted(str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.png')) == [
        'a/1.png',
        'b/1.png',
        'b/2.png',
    ]


def test_what_cannot_be_taken_is_refused_with_one_message(tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    (images / 'a.png').write_bytes(saved('PNG'))
    (tmp_path / 'a.png').write_bytes(b'mine')
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos/v.mp4').touch()
    out = ('--out', tmp_path / 'out')
    assert 'v.mp4 is a video: cut it into images, such as ffmpeg' in message(capsys, tmp_path / 'videos/v.mp4', *out)
    assert message(capsys, 'https://x.org/a.jpg', *out).startswith('https://x.org/a.jpg is an address: download')
    assert 'none.jpg does not exist: give an image, a folder' in message(capsys, tmp_path / 'none.jpg', *out)
    assert '*.jpg matches no file' in message(capsys, f'{images}/*.jpg', *out)
    shown = message(capsys, tmp_path / 'videos', *out)
    assert 'videos holds no image (.jpg, ' in shown and 'Left out: 1 .mp4' in shown
    assert 'give another folder with --out' in message(capsys, images, '--out', images / '../images')
    assert 'would replace an image that was given' in message(capsys, images / 'a.png', '--out', images)
    assert 'results cannot be written to' in message(capsys, images, '--out', tmp_path / 'a.png')
    assert 'would replace a file of yours' in message(capsys, images, '--out', tmp_path)
    assert (tmp_path / 'a.png').read_bytes() == b'mine' and not (tmp_path / 'out').exists()
