"""The benchmarks are scripts beside the package: their folder is put on the path, last."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
