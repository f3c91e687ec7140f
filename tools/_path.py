"""What every tool needs before the package is imported; imported for its effect.

A checkout's tools work with the package beside them, whichever one is installed. OpenMP threads that wait give their
core away, because data loading workers need it: otherwise they spin, and a training step on two cores takes a fifth
longer (docs/training.md).
"""

import os
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # read when torch loads its OpenMP
ROOT = Path(__file__).resolve().parent.parent  # of a checkout; in a wheel the package is elsewhere
if (ROOT / 'frostnet_mm' / '__init__.py').is_file():
    sys.path.insert(0, str(ROOT))
