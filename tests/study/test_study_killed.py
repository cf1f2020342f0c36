"""A study that is killed with SIGKILL at random moments, and started again, has the rows of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Server, exit_status, start, wait_for

from relscope.results import Run, open_run
from tiny_study import SHORT, assert_same_rows

N_KILLS = 6


@pytest.fixture(scope="module")
def fields(tiny_model_folder: Path) -> dict[str, Any]:
    # 20 pairs of two parts each: many moments to be killed at.
    return {
        "model": str(tiny_model_folder), "device": "cpu", "pairs": 20, "prompt": SHORT, "memory": "7MiB",
        "experiments": {"flow": {"regions": ["query", "document", "last"]}, "heads": {"regions": ["last", "all"]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(server: Server, fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    start(server, {"config": fields, "out": str(folder)})
    assert exit_status(server) == 0
    return open_run(folder)


def n_parts(folder: Path) -> int:
    return len(list((folder / "rows").glob("[a-z]*.parquet"))) if (folder / "rows").is_dir() else 0


def test_killed_at_random_moments_and_resumed_it_has_the_rows_of_an_uninterrupted_run(
    server: Server, fields: dict[str, Any], uninterrupted: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(20250407)
    folder = tmp_path / "run"
    request = {"config": fields, "out": str(folder)}
    stored = [0]
    for attempt in range(N_KILLS):
        child = start(server, request)
        # The first dies while it loads, writes its manifest or judges; the others within a few parts more.
        wait_for(n_parts(folder) + (int(rng.integers(1, 4)) if attempt else 0), lambda: n_parts(folder))
        time.sleep(float(rng.uniform(0, 0.02 if attempt else 0.3)))
        os.kill(child, signal.SIGKILL)
        assert exit_status(server) == -signal.SIGKILL  # it was not done yet
        if (folder / "manifest.json").exists():
            run = open_run(folder)
            assert run.manifest.status == "running"
            stored.append(len(run.rows()))  # reads every part: none is damaged
    assert stored == sorted(stored)
    assert 0 < stored[-1] < len(uninterrupted.rows())
    start(server, request)
    assert exit_status(server) == 0
    finished = open_run(folder)
    assert finished.manifest.status == "complete"
    assert len(finished.rows()) == len(uninterrupted.rows())
    assert_same_rows(finished, uninterrupted)
    assert [path.name for path in folder.rglob("*.partial")] == []
