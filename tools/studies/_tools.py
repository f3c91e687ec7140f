"""Makes what lies in tools/ importable, and with it what every tool needs; imported for its effect."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import _path  # noqa: E402, F401
