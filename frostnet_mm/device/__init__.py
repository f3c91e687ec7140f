"""What runs a deployment: images in, predictions out, with NumPy, an engine, and OpenCV or Pillow alone.

The package imports nothing of the rest of ``frostnet_mm``: it is copied as a whole into every deployment, as
``frostnet_device/``, beside ``predictor.py``, which loads it.
"""

from . import engines
from .check import (
    ALLOWANCE,
    CHECK,
    CHECKED,
    FACTOR,
    FLOAT_BOUND,
    OutputDifference,
    check_deployment,
    check_values,
    compare_outputs,
    describe_outputs,
)
from .command import CHECK_RUNS, PICTURES
from .decoding import MARGIN, decode
from .description import AGAIN, DECODINGS, DESCRIPTION, FORMAT, KEYS, deployed_weight_bits, format_of, read_deployment
from .engines.onnxruntime import SATURATION_FREE, saturation_free_session
from .errors import DeploymentError, ImageError, ImageSizeError, SaturationWarning, UserError
from .image_files import as_bgr, read_image
from .images import channels_of, normalize_pixels, padding_pixel, preprocess, with_channels
from .network import Network, may_saturate, open_network, warn_of_saturation
from .pictures import write_image
from .pipeline import Predictor
from .resizing import resize_plane, resized
from .results import ClassScores, Detections, Geometry, LabelMap, geometry_values
from .saturation import SATURATION, cpu_saturates
from .suppression import NMS_BLOCK, nms

#: Names that earlier predictors had, for the scripts that use them.
RENAMED = {
    'EXACT_PRODUCTS': SATURATION_FREE,
    'OVERFLOW': SATURATION,
    'OverflowWarning': SaturationWarning,
    'exact_session': saturation_free_session,
    'may_overflow': may_saturate,
    'sums_overflow': cpu_saturates,
    'weight_bits_of': deployed_weight_bits,
}
globals().update(RENAMED)

__all__ = [
    'AGAIN',
    'ALLOWANCE',
    'CHECK',
    'CHECKED',
    'CHECK_RUNS',
    'DECODINGS',
    'DESCRIPTION',
    'FACTOR',
    'FLOAT_BOUND',
    'FORMAT',
    'KEYS',
    'MARGIN',
    'NMS_BLOCK',
    'PICTURES',
    'SATURATION',
    'SATURATION_FREE',
    'ClassScores',
    'DeploymentError',
    'Detections',
    'Geometry',
    'ImageError',
    'ImageSizeError',
    'LabelMap',
    'Network',
    'OutputDifference',
    'Predictor',
    'SaturationWarning',
    'UserError',
    'as_bgr',
    'channels_of',
    'check_deployment',
    'check_values',
    'compare_outputs',
    'cpu_saturates',
    'decode',
    'deployed_weight_bits',
    'describe_outputs',
    'engines',
    'format_of',
    'geometry_values',
    'may_saturate',
    'nms',
    'normalize_pixels',
    'open_network',
    'padding_pixel',
    'preprocess',
    'read_deployment',
    'read_image',
    'resize_plane',
    'resized',
    'saturation_free_session',
    'warn_of_saturation',
    'with_channels',
    'write_image',
]
