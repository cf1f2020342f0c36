"""What a reranking leaves beside its verdicts: rows and facts that belong together, and costs that add up."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from relscope.errors import InputError
from relscope.results import (
    JudgingCost,
    RunError,
    Spent,
    Verdicts,
    read_costs,
    read_measures,
    read_reranking_header,
    run_file_of,
    verdicts_folder,
    write_reranking,
)
from synthetic import write_synthetic_run
from synthetic_reranking import write_synthetic_reranking

IDENTITY = {"model": {"name": "m"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = write_synthetic_run(tmp_path / "run", n_pairs=2)
    return verdicts_folder(write_synthetic_reranking(run, tmp_path / "a.trec"))


def test_what_calls_took_adds_up_and_each_call_counts_once(tmp_path: Path) -> None:
    for spent in (Spent(1.5, 2.0, "cpu"), Spent(2.5, 1.0, "cuda")):
        with Verdicts(tmp_path, IDENTITY, str) as verdicts:
            verdicts.add({("q1", f"d{spent.device}"): 1.0, ("q2", "d"): 0.5}, spent)
            verdicts.add({("q3", f"d{spent.device}"): 1.0}, Spent(0.25, 0.5, spent.device))
    assert read_costs(tmp_path) == JudgingCost(2, 6, 4.5, 4.0, ("cpu", "cuda"))


def test_a_hundred_documents_take_their_prompts_at_the_seconds_of_one() -> None:
    cost = JudgingCost(1, 50, 20.0, 10.0, ("cpu",))
    # 0.4 CPU seconds a prompt, 0.2 by the clock; 3 prompts a document
    assert cost.per_100_documents(n_prompts=120, n_documents=40) == Spent(120.0, 60.0, "cpu")
    # what was judged and is not asked for raises nothing
    assert cost.per_100_documents(n_prompts=10, n_documents=10) == Spent(40.0, 20.0, "cpu")
    assert cost.per_100_documents(n_prompts=0, n_documents=0) is None


def test_verdicts_of_a_version_that_kept_no_time_go_on_and_their_time_is_not_known(tmp_path: Path) -> None:
    with Verdicts(tmp_path, IDENTITY, str) as verdicts:
        verdicts.add({("q1", "d1"): 1.0})
    assert not (tmp_path / "costs.jsonl").exists()
    assert read_costs(tmp_path) == JudgingCost(0, 0, 0.0, 0.0, ())
    assert read_costs(tmp_path).per_100_documents(1, 1) is None
    with Verdicts(tmp_path, IDENTITY, str) as verdicts:
        assert verdicts.known == {("q1", "d1"): 1.0}
        verdicts.add({("q1", "d2"): 2.0}, Spent(3.0, 4.0, "cpu"))
    assert read_costs(tmp_path) == JudgingCost(1, 1, 3.0, 4.0, ("cpu",))


def test_half_a_line_of_a_killed_process_is_no_cost_and_others_follow_it_whole(tmp_path: Path) -> None:
    with Verdicts(tmp_path, IDENTITY, str) as verdicts:
        verdicts.add({("q1", "d1"): 1.0}, Spent(1.0, 1.0, "cpu"))
        verdicts.add({("q1", "d2"): 1.0}, Spent(2.0, 2.0, "cpu"))
    path = tmp_path / "costs.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    assert read_costs(tmp_path).cpu_seconds == 1.0
    assert path.read_bytes() == before  # reading changes nothing
    with Verdicts(tmp_path, IDENTITY, str) as verdicts:
        verdicts.add({("q1", "d3"): 1.0}, Spent(4.0, 4.0, "cpu"))
    assert read_costs(tmp_path) == JudgingCost(2, 2, 5.0, 5.0, ("cpu",))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"call": 1, "n_prompts": 1, "cpu_seconds": 1, "wall_seconds": 1}',
        '{"call": 1, "n_prompts": 1, "cpu_seconds": -1, "wall_seconds": 1, "device": "cpu"}',
        '{"call": 1, "n_prompts": 1, "cpu_seconds": NaN, "wall_seconds": 1, "device": "cpu"}',
    ],
)
def test_a_damaged_line_of_the_costs_is_named(folder: Path, line: str) -> None:
    path = folder / "costs.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RunError, match=r"costs\.jsonl, line 4: damaged; delete the line"):
        read_costs(folder)


def test_rows_and_facts_are_read_back_as_they_were(folder: Path) -> None:
    header, rows = read_reranking_header(folder), read_measures(folder)
    assert len(rows) == 16
    assert float(rows["value"].sum()) == 9.5  # 4.0 of the first stage, 5.5 of the ranking
    write_reranking(folder, header, {name: rows[name] for name in rows})
    assert read_reranking_header(folder) == header
    assert read_measures(folder).equals(rows)
    assert run_file_of(folder) == folder.parent / "a.trec"


def test_rows_without_their_facts_are_not_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between the two, or on a disk that is full."""
    header, rows = read_reranking_header(folder), read_measures(folder)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="the disk is full"):
            write_reranking(folder, header, {name: rows[name] for name in rows})
    with pytest.raises(InputError, match=r"has no reranking\.json: its reranking is not finished, or an earlier"):
        read_reranking_header(folder)


def test_facts_and_rows_that_are_damaged_or_gone_are_said_in_one_line(folder: Path) -> None:
    path = folder / "reranking.json"
    content = json.loads(path.read_text())
    for text, told in (
        ("{", "damaged, not JSON"),
        (json.dumps(content | {"schema_version": 9}), "has schema_version 9; this relscope reads 1"),
        (json.dumps(content | {"depth": "deep"}), "depth: Input should be a valid integer"),
        ("[]", "has schema_version None"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=told) as refused:
            read_reranking_header(folder)
        assert "\n" not in str(refused.value)
    rows = folder / "measures.parquet"
    rows.write_bytes(rows.read_bytes()[:-40])
    with pytest.raises(RunError, match=r"measures\.parquet: damaged .*delete it and give the command again"):
        read_measures(folder)
    rows.unlink()
    with pytest.raises(InputError, match=r"has no measures\.parquet; give its relscope rerank again"):
        read_measures(folder)
