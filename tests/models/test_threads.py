"""How many threads may torch use?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from relscope.models import threads


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, cores: int, quota: str | None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    file = folder / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    monkeypatch.setattr(threads, "_QUOTA", file)


@pytest.mark.parametrize(
    ("cores", "quota", "usable"),
    [
        (8, None, 8),
        (8, "max 100000\n", 8),
        (8, "300000 100000\n", 3),
        (2, "300000 100000\n", 2),
        (8, "50000 100000\n", 1),
        (8, "160000 100000\n", 2),
        (1, None, 1),
    ],
)
def test_usable_cores_respect_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, quota: str | None, usable: int
) -> None:
    pretend(monkeypatch, tmp_path, cores, quota)
    assert threads.usable_cores() == usable


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, 3, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert threads.usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.usable_cores() == 1


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_threads_that_the_user_set_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    pretend(monkeypatch, tmp_path, 6, None)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    threads.set_sensible_threads()
    assert chosen == [6]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.setenv(variable, "4")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    threads.set_sensible_threads()
    assert chosen == [6]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
