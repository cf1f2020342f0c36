"""How long does `make demo` take from nothing: a fresh clone, no virtual environment, no cache of packages or models?

python benchmarks/demo.py
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

GOAL_MINUTES = 15.0


def main() -> None:
    """Measure and print."""
    repository = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch, "relscope")
        subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        environment |= {"RELSCOPE_CACHE": str(Path(scratch, "models")), "PIP_NO_CACHE_DIR": "1"}
        began = time.perf_counter()
        subprocess.run(["make", "demo"], cwd=clone, env=environment, check=True)
        minutes = (time.perf_counter() - began) / 60
    label = "within" if minutes < GOAL_MINUTES else "falls short"
    print(f"make demo from nothing: {minutes:.1f} min on {os.cpu_count()} cores (goal < {GOAL_MINUTES:g} min, {label})")


if __name__ == "__main__":
    main()
