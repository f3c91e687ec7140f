"""Lets the tools run from a checkout whose package is not installed. Imported for its effect, before the package."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('frostnet_mm') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
