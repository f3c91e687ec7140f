"""What every tool needs before the package is imported; imported for its effect.

The package is found in a checkout that is not installed. OpenMP threads that wait give their core away, because data
loading workers need it: otherwise they spin, and a training step on two cores takes a fifth longer (docs/training.md).
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # read when torch loads its OpenMP
if find_spec('frostnet_mm') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
