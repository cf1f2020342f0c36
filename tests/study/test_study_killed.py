"""A study that is killed with SIGKILL at random moments, and started again, has the rows of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_server

from relscope.results import Run, open_run
from tiny_study import SHORT, assert_same_rows

N_KILLS = 6
PATIENCE = 60.0  # seconds; what is waited for takes less than one on an idle machine


@pytest.fixture(scope="module")
def fields(tiny_model_folder: Path) -> dict[str, Any]:
    # 20 pairs of two parts each: many moments to be killed at.
    return {
        "model": str(tiny_model_folder), "device": "cpu", "pairs": 20, "prompt": SHORT, "memory": "7MiB",
        "experiments": {"flow": {"regions": ["query", "document", "last"]}, "heads": {"regions": ["last", "all"]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, study_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def uninterrupted(
    server: subprocess.Popen[str], fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    start(server, fields, folder)
    assert exit_status(server) == 0
    return open_run(folder)


def n_parts(folder: Path) -> int:
    return len(list((folder / "rows").glob("[a-z]*.parquet"))) if (folder / "rows").is_dir() else 0


def start(server: subprocess.Popen[str], fields: dict[str, Any], folder: Path) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"config": fields, "out": str(folder)}) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def exit_status(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    return int(server.stdout.readline())


def wait_for_parts(folder: Path, n: int) -> None:
    patience = time.monotonic() + PATIENCE
    while n_parts(folder) < n:
        assert time.monotonic() < patience, f"no part number {n} after {PATIENCE} s"
        time.sleep(0.001)


def test_killed_at_random_moments_and_resumed_it_has_the_rows_of_an_uninterrupted_run(
    server: subprocess.Popen[str], fields: dict[str, Any], uninterrupted: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(20250407)
    folder = tmp_path / "run"
    stored = [0]
    for attempt in range(N_KILLS):
        child = start(server, fields, folder)
        # The first dies while it loads, writes its manifest or judges; the others within a few parts more.
        wait_for_parts(folder, n_parts(folder) + (int(rng.integers(1, 4)) if attempt else 0))
        time.sleep(float(rng.uniform(0, 0.02 if attempt else 0.3)))
        os.kill(child, signal.SIGKILL)
        assert exit_status(server) == -signal.SIGKILL  # it was not done yet
        if (folder / "manifest.json").exists():
            run = open_run(folder)
            assert run.manifest.status == "running"
            stored.append(len(run.rows()))  # reads every part: none is damaged
    assert stored == sorted(stored)
    assert 0 < stored[-1] < len(uninterrupted.rows())
    start(server, fields, folder)
    assert exit_status(server) == 0
    finished = open_run(folder)
    assert finished.manifest.status == "complete"
    assert len(finished.rows()) == len(uninterrupted.rows())
    assert_same_rows(finished, uninterrupted)
    assert [path.name for path in folder.rglob("*.partial")] == []
