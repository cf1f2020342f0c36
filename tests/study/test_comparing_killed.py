"""A comparison that is killed with SIGKILL at random moments, and started again, has what an uninterrupted one has."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import assert_same_comparison
from killing import Server, exit_status, start, wait_for

from relscope.study import StudyConfig, compare_models
from tiny_study import MODEL_SEED, SHORT, save_tiny_model

N_KILLS = 5


def n_files(folder: Path) -> int:
    return len(list(folder.rglob("[a-z]*.parquet"))) if folder.is_dir() else 0


def test_killed_at_random_moments_and_resumed_it_has_what_an_uninterrupted_one_has(
    server: Server, tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(20250407)
    tuned = save_tiny_model(tmp_path / "tuned", tiny_tokenizer, seed=MODEL_SEED + 1)
    fields: dict[str, Any] = {
        "model": str(tiny_model_folder), "device": "cpu", "pairs": 4, "prompt": SHORT,
        "experiments": {"flow": {"regions": ["last"]}, "heads": {"regions": ["last"]}},
    }  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "out"
    compare_models(StudyConfig(**fields), str(tuned), whole)
    request = {"config": fields, "tuned": str(tuned), "out": str(folder)}
    n_all, stored = n_files(whole), [0]
    for attempt in range(N_KILLS):
        child = start(server, request)
        # The first dies while it loads or writes its header; the others a good deal of the way further each.
        goal = n_files(folder) + (int(rng.integers(1, n_all // (N_KILLS + 2))) if attempt else 0)
        wait_for(goal, lambda: n_files(folder))
        time.sleep(float(rng.uniform(0, 0.01 if attempt else 0.3)))
        os.kill(child, signal.SIGKILL)
        assert exit_status(server) == -signal.SIGKILL  # it was not done yet
        if (folder / "comparison.json").exists():
            assert json.loads((folder / "comparison.json").read_text())["status"] == "running"
        stored.append(n_files(folder))
    assert stored == sorted(stored)
    assert 0 < stored[-1] < n_all
    start(server, request)
    assert exit_status(server) == 0
    assert_same_comparison(folder, whole)
    assert [path.name for path in folder.rglob("*.partial")] == []
