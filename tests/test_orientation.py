"""The loader of a config decides whether EXIF orientation is applied, in every tool."""

import json

import pytest
from conftest import run_tool
from PIL import Image
from test_golden import CHECKPOINT, CONFIG, DATA

from frostnet_mm.apis.inference import build_pipeline
from frostnet_mm.data.loading import LoadImage
from frostnet_mm.device import read_image
from frostnet_mm.device.predictor import Predictor
from frostnet_mm.engine.config import load_config


@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation'])
def test_the_loaders_orientation_is_obeyed_by_infer(color_type, tmp_path):
    """A lying photograph that EXIF turns upright: found and drawn in the frame that the config asks for."""
    (tmp_path / 'images').mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(tmp_path / 'images/a.jpg', exif=exif)
    options = ('--cfg-options', f'test_dataloader.dataset.pipeline.0.color_type={color_type}')
    assert run_tool('infer', CONFIG, CHECKPOINT, tmp_path / 'images', '--out', tmp_path / 'out', *options) == 0
    found = json.loads((tmp_path / 'out/results.json').read_text())['images']['a.jpg']
    expected = (40, 30) if color_type == 'color' else (30, 40)
    assert (found['height'], found['width']) == expected
    assert Image.open(tmp_path / 'out/a.jpg').size == expected[::-1]


def test_calibration_and_deployment_load_as_the_config_says():
    cfg = load_config(CONFIG)
    step = cfg.test_dataloader.dataset.pipeline[0]
    step.color_type = 'color_ignore_orientation'
    loader = build_pipeline(cfg).transforms[0]
    assert type(loader) is LoadImage and loader.color_type == 'color_ignore_orientation'
    for other in (dict(type='LoadImageFromNDArray'), dict(type='LoadImageFromFile', color_type='unchanged')):
        cfg.test_dataloader.dataset.pipeline[0] = other
        assert build_pipeline(cfg).transforms[0].color_type == 'color'


@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation'])
def test_a_deployment_reads_as_the_config_says(color_type, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.jpg', exif=exif)
    options = ('--cfg-options', DATA, f'test_dataloader.dataset.pipeline.0.color_type={color_type}')
    arguments = ('--engine', 'onnxruntime', '--out', tmp_path / 'out', '--num-images', 1, *options)
    assert run_tool('deploy', CONFIG, CHECKPOINT, *arguments) == 0
    predictor = Predictor(tmp_path / 'out')
    stored = color_type != 'color'
    assert predictor.description['preprocessing'].get('ignore_orientation', False) is stored
    shape = (30, 40) if stored else (40, 30)
    assert predictor._read(tmp_path / 'a.jpg').shape == (*shape, 3)
    assert read_image(tmp_path / 'a.jpg', ignore_orientation=stored).shape == (*shape, 3)
