"""Runs a deployment: images in, boxes or label maps out, with nothing but NumPy, an engine and a decoder of images.

This file lies in every deployment, beside the package ``frostnet_device`` that does the work, and runs there::

    python predictor.py --check
    python predictor.py street.jpg --out found.png --json found.json

From Python: ``from predictor import Predictor``. It needs numpy, the engine's package (onnxruntime, openvino,
executorch or torch) and OpenCV or Pillow.
"""

import hashlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def _load_package():
    """The package beside this file, and no other of its name: deployments of several versions may share a process."""
    home = FOLDER if (FOLDER / 'engines').is_dir() else FOLDER / 'frostnet_device'
    init = (home / '__init__.py').resolve()
    if not init.is_file():
        text = f'{home} is missing: predictor.py runs with all that was deployed with it. Copy the whole folder again.'
        raise SystemExit(f'error: {text}') if __name__ == '__main__' else ImportError(text)
    own = f'frostnet_device_{hashlib.sha256(str(init).encode()).hexdigest()[:16]}'
    for name in (__package__, 'frostnet_device', own):
        file = getattr(sys.modules.get(name or ''), '__file__', None)
        if file is not None and Path(file).resolve() == init:
            return sys.modules[name]
    taken = {name.partition('.')[0] for name in list(sys.modules)}
    name = own if 'frostnet_device' in taken else 'frostnet_device'
    spec = spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
    package = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise
    return package


_package = _load_package()
globals().update({name: getattr(_package, name) for name in (*_package.__all__, *_package.RENAMED)})


def main(arguments=None):
    """Predict image files, or compare the engine with what was deployed; returns the exit status."""
    return _package.command.main(arguments, FOLDER)


if __name__ == '__main__':
    sys.exit(main())
