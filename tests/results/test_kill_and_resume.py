"""A run that is killed at any moment goes on where it was: every row once, none lost, none damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_study
import numpy as np
import pandas as pd
import pytest

from relscope.results import KEY_COLUMNS, open_run

PROGRAM = Path(fake_study.__file__)


def sorted_rows(folder: Path) -> pd.DataFrame:
    rows = open_run(folder).rows().astype({"layer": "float64", "head": "float64"})
    text = dict.fromkeys((name for name in KEY_COLUMNS if name not in ("layer", "head")), str)
    return rows.astype(text).sort_values(list(KEY_COLUMNS)).reset_index(drop=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    fake_study.run(folder)
    return sorted_rows(folder)


def assert_is_the_uninterrupted_run(folder: Path, uninterrupted: pd.DataFrame) -> None:
    assert open_run(folder).manifest.status == "complete"
    assert len(sorted_rows(folder)) == len(fake_study.planned())
    pd.testing.assert_frame_equal(sorted_rows(folder), uninterrupted, check_exact=True)
    leftovers = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
    assert leftovers == []


def test_killed_at_random_moments_and_resumed_it_holds_the_rows_of_an_uninterrupted_run(
    tmp_path: Path, uninterrupted: pd.DataFrame
) -> None:
    rng = np.random.default_rng(20250102)
    folder = tmp_path / "run"
    stored = [0]
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), "paced"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            for _ in range(int(rng.integers(1, 5))):  # parts to wait for; an uninterrupted run has 34
                assert program.stdout.readline() != ""
                program.stdin.write("go on\n")
                program.stdin.flush()
            time.sleep(float(rng.uniform(0.0, 0.01)))  # so that it dies anywhere within the next part
            program.send_signal(signal.SIGKILL)
        assert program.returncode == -signal.SIGKILL  # it was not done yet
        stored.append(len(open_run(folder).rows()))
    assert stored == sorted(stored)
    assert 0 < stored[1] < stored[-1] < len(uninterrupted)
    fake_study.run(folder)
    assert_is_the_uninterrupted_run(folder, uninterrupted)


def test_killed_at_each_step_of_writing_its_first_files_it_holds_the_same_rows(
    tmp_path: Path, uninterrupted: pd.DataFrame
) -> None:
    # The n-th attempt dies at its n-th step: half-way through the manifest's bytes, before they are flushed, before
    # it is renamed, before its folder is flushed, and so on through the first parts.
    folder = tmp_path / "run"
    for nth in range(1, 11):
        program = subprocess.run(
            [sys.executable, str(PROGRAM), str(folder), str(nth)], capture_output=True, text=True, check=False
        )
        assert program.returncode == -signal.SIGKILL, program.stderr
    assert 0 < len(open_run(folder).rows()) < len(uninterrupted)
    fake_study.run(folder)
    assert_is_the_uninterrupted_run(folder, uninterrupted)


def test_resuming_a_complete_run_measures_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fake_study.run(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    written: list[int] = []
    fake_study.run(folder, after_part=written.append)
    assert written == []
    assert {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()} == before


def test_an_interrupt_in_the_middle_of_a_part_loses_that_part_alone(
    tmp_path: Path, uninterrupted: pd.DataFrame
) -> None:
    folder = tmp_path / "run"

    def interrupt(start: int) -> None:
        if start:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake_study.run(folder, after_part=interrupt)
    fake_study.run(folder)
    assert_is_the_uninterrupted_run(folder, uninterrupted)
