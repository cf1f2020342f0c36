"""How long does the report of a large run take to build, and how heavy is it?

A synthetic run (no model) of a model of 32 layers of 32 heads: heads and layer components, at five regions. Prints
the seconds from rows to page and figures, the size of the page, and the peak memory of the building process.

    python benchmarks/report_size.py [--pairs 100] [--layers 32] [--heads 32]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_SECONDS = 60.0
GOAL_MEGABYTES = 15.0
TESTS = Path(__file__).resolve().parents[1] / "tests"


def build(run_dir: Path) -> None:
    """Build the report here, in a process that has done nothing else, and print what it took."""
    began = time.perf_counter()
    from relscope.report import build_report

    page = build_report(run_dir)
    seconds = time.perf_counter() - began
    megabytes = page.stat().st_size / 1e6
    figures = list((run_dir / "figures").iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"built in {seconds:.1f} s ({_verdict(seconds, GOAL_SECONDS)}), peak memory {peak:.0f} MiB")
    print(f"report.html {megabytes:.1f} MB ({_verdict(megabytes, GOAL_MEGABYTES)})")
    print(f"{len(figures)} figures, {sum(f.stat().st_size for f in figures) / 1e6:.1f} MB")


def main() -> None:
    """Make the rows, then build their report in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        build(options.run)
        return
    sys.path.insert(0, str(TESTS))
    from synthetic import write_synthetic_run

    with tempfile.TemporaryDirectory() as folder:
        run_dir = write_synthetic_run(
            Path(folder) / "run", n_pairs=options.pairs, n_layers=options.layers, n_heads=options.heads
        )
        subprocess.run([sys.executable, __file__, "--run", str(run_dir)], check=True)


def _verdict(measured: float, goal: float) -> str:
    return f"goal < {goal:g}, {'within' if measured < goal else 'falls short'}"


if __name__ == "__main__":
    main()
