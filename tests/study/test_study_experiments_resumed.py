"""Studies of sets of heads and of readouts that are interrupted: the same sets, whole tables, nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from replaced import fail, replace, study_module

from relscope.interventions import Joint
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, Run, open_run, read_readout, readout_path
from relscope.study import run_study
from tiny_study import assert_same_rows, interrupted_after, tiny_config

TABLES = (CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY)
# Room for one pair at a time: each is then a part of its own.
STUDY: dict[str, Any] = {
    "experiments": {
        "heads": {"regions": ["last"]}, "joint": {"top": 3}, "interaction": {}, "vocabulary": {"regions": ["last"]}
    },
    "memory": "7MiB",
}  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(tiny_config(tiny_model_folder, **STUDY), tmp_path_factory.mktemp("whole") / "run")


def assert_same_readouts(run: Run, expected: Run) -> None:
    for schema in TABLES:
        found, wanted = (read_readout(of.directory, schema) for of in (run, expected))
        pd.testing.assert_frame_equal(found, wanted)  # the same code on the same prompts, in the same order


def test_a_finished_study_reads_and_patches_nothing_again(
    tiny_model_folder: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {path: path.stat().st_mtime_ns for path in uninterrupted.directory.glob("*/*.parquet")}
    assert len(times) == 1 + 3 + 3 + len(TABLES)
    for module, name in (("run", "patch_pairs"), ("run", "verdicts"), ("readouts", "head_writes")):
        replace(monkeypatch, module, name, fail)
    again = run_study(tiny_config(tiny_model_folder, **STUDY), uninterrupted.directory)
    assert again.manifest.status == "complete"
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_study_killed_among_its_sets_goes_on_with_the_heads_it_had_chosen(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_joint = 0

    def interrupted(judge: Any, work: Any, **options: Any) -> Any:
        nonlocal n_joint
        n_joint += isinstance(work[0][1][0], Joint)
        if n_joint == 2:
            raise KeyboardInterrupt
        return patch_pairs(judge, work, **options)

    patch_pairs = study_module("run").patch_pairs
    replace(monkeypatch, "run", "patch_pairs", interrupted)
    config = tiny_config(tiny_model_folder, **STUDY)
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run")
    monkeypatch.undo()
    kept = open_run(tmp_path / "run")
    assert kept.manifest.status == "running"
    assert kept.manifest.joint_heads == uninterrupted.manifest.joint_heads
    assert kept.rows("joint")["pair_id"].nunique() == 1
    replace(monkeypatch, "run", "strongest_heads", fail)
    run = run_study(config, tmp_path / "run")
    assert run.manifest.status == "complete"
    assert_same_rows(run, uninterrupted)


def test_a_study_killed_while_it_reads_out_leaves_no_table_and_begins_them_again(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    config = tiny_config(tiny_model_folder, **STUDY)
    with interrupted_after(2, study_module("readouts"), "head_writes"), pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run")
    assert not any(readout_path(tmp_path / "run", schema).exists() for schema in TABLES)
    run = run_study(config, tmp_path / "run")
    assert_same_readouts(run, uninterrupted)
    assert_same_rows(run, uninterrupted)


@pytest.mark.parametrize("lost", TABLES, ids=["contributions", "interaction", "lens", "vocabulary"])
def test_only_the_table_that_is_lost_is_made_again(
    tiny_model_folder: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch, lost: Any
) -> None:
    wanted = read_readout(uninterrupted.directory, lost)
    others = [readout_path(uninterrupted.directory, schema) for schema in TABLES if schema != lost]
    times = [path.stat().st_mtime_ns for path in others]
    readout_path(uninterrupted.directory, lost).unlink()
    replace(monkeypatch, "run", "patch_pairs", fail)
    run = run_study(tiny_config(tiny_model_folder, **STUDY), uninterrupted.directory)
    assert run.manifest.status == "complete"
    # Recorded with or without what restarts need, attention is computed by other code.
    pd.testing.assert_frame_equal(read_readout(run.directory, lost), wanted, check_exact=False, rtol=0, atol=1e-5)
    assert [path.stat().st_mtime_ns for path in others] == times
