"""How far is the time that `relscope plan` predicts from what the run takes?

Plans and runs studies of the embedded model on demo pairs, one after the other, and prints both times. The run's time
does not count loading, which the plan does not predict.

    python benchmarks/planned.py [--pairs 6]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from relscope.study import StudyConfig, plan_study, run_study
from relscope.study.prepare import Silent

GOAL = 0.3
STUDIES: dict[str, dict[str, Any]] = {
    "flow at five regions": {"experiments": {"flow": {}}},
    "heads at the last token": {"experiments": {"heads": {"regions": ["last"]}}},
    "heads at three regions": {"experiments": {"heads": {"regions": ["last", "query", "document"]}}},
    "heads at three regions, delta": {
        "experiments": {"heads": {"regions": ["last", "query", "document"]}},
        "precision": "delta",
    },
}


class Clock(Silent):
    """Notes when pairs begin to be judged, after which nothing is loaded."""

    began = 0.0

    def stage(self, text: str) -> None:
        """The first stage after loading is that of judging."""
        if not self.began and text.startswith("judging"):
            self.began = time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    options = parser.parse_args()
    print("| study | planned, s | taken, s | planned / taken | goal |")
    print("| --- | --- | --- | --- | --- |")
    for name, fields in STUDIES.items():
        config = StudyConfig(model="smollm2-135m", data="demo", pairs=options.pairs, device="cpu", **fields)
        planned = plan_study(config).seconds
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            run_study(config, Path(folder) / "run", clock)
        assert clock.began
        taken = time.perf_counter() - clock.began
        ratio = planned / taken
        label = "within" if abs(ratio - 1) <= GOAL else "falls short"
        print(f"| {name} | {planned:.1f} | {taken:.1f} | {ratio:.2f} | 1 ± {GOAL}, {label} |", flush=True)


if __name__ == "__main__":
    main()
