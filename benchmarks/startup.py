"""How long does `relscope --help` take?

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL_SECONDS = 0.5


def main() -> None:
    """Measure and print."""
    command = [str(Path(sys.executable).with_name("relscope")), "--help"]
    seconds = []
    for _ in range(11):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])
    label = "within" if median < GOAL_SECONDS else "falls short"
    print(f"relscope --help: median {median:.2f} s of 10 (goal < {GOAL_SECONDS} s, {label})")


if __name__ == "__main__":
    main()
