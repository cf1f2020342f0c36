"""The filter `correct`: only pairs that the model judges correctly are patched, and the others are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relscope.report import build_report
from relscope.results import Run
from relscope.study import run_study
from tiny_study import N_RIGHT_OF_10, Told, assert_same_rows, tiny_config

AT_LAST: dict[str, Any] = {"experiments": {"heads": {"regions": ["last"]}}}


@pytest.fixture(scope="module")
def filtered(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(tiny_model_folder, pairs=10, filter="correct", **AT_LAST)
    return run_study(config, tmp_path_factory.mktemp("filtered") / "run")


def right_pairs(run: Run) -> set[str]:
    """Pairs whose positive document gets a yes and whose negative does not."""
    return {str(row.pair_id) for row in run.rows("judge").itertuples() if row.ld_clean > 0 >= row.ld_corrupted}


def test_every_pair_is_judged_and_the_right_ones_alone_are_patched(filtered: Run) -> None:
    assert len(filtered.rows("judge")) == 10
    assert len(right_pairs(filtered)) == N_RIGHT_OF_10
    assert set(filtered.rows("heads")["pair_id"]) == right_pairs(filtered)


def test_the_others_are_exclusions_with_both_verdicts_in_words(filtered: Run) -> None:
    judged = filtered.rows("judge").set_index("pair_id")
    exclusions = {e.pair_id: e for e in filtered.manifest.exclusions}
    assert set(exclusions) == set(judged.index) - right_pairs(filtered)
    for pair_id, exclusion in exclusions.items():
        assert (exclusion.stage, exclusion.reason) == ("filter", "misjudged")
        clean, corrupted = judged.loc[pair_id, ["ld_clean", "ld_corrupted"]]
        assert exclusion.detail == f"LD {clean:+.2f} for the positive, {corrupted:+.2f} for the negative"


def test_the_manifest_marks_the_pairs_that_were_not_patched(filtered: Run) -> None:
    marked = {pair.pair_id for pair in filtered.manifest.pairs if pair.filtered}
    assert marked == {pair.pair_id for pair in filtered.manifest.pairs} - right_pairs(filtered)


def test_the_rows_of_kept_pairs_are_those_without_a_filter(
    filtered: Run, tiny_model_folder: Path, tmp_path: Path
) -> None:
    every = run_study(tiny_config(tiny_model_folder, pairs=10, **AT_LAST), tmp_path / "run")
    kept = every.rows("heads")
    assert_same_rows(filtered.rows("heads"), kept[kept["pair_id"].isin(right_pairs(filtered))])
    assert every.manifest.exclusions == []


def test_resuming_a_filtered_run_counts_nobody_twice(filtered: Run, tiny_model_folder: Path) -> None:
    config = tiny_config(tiny_model_folder, pairs=10, filter="correct", **AT_LAST)
    again = run_study(config, filtered.directory)
    assert again.manifest.exclusions == filtered.manifest.exclusions
    assert len(again.rows()) == len(filtered.rows())


def test_a_run_without_any_right_pair_ends_with_a_message_and_has_a_report(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    told = Told()
    run = run_study(tiny_config(tiny_model_folder, pairs=3, filter="correct"), tmp_path / "run", told)
    assert run.manifest.status == "complete"
    assert [(e.stage, e.reason) for e in run.manifest.exclusions] == [("filter", "misjudged")] * 3
    assert set(run.rows()["experiment"]) == {"judge"}
    assert any("no pair is judged correctly" in text and "'all'" in text for text in told.warnings)
    page = build_report(run.directory).read_text(encoding="utf-8")
    assert "misjudged" in page


def test_a_model_that_judges_at_chance_is_warned_of_in_words(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = Told()
    run_study(tiny_config(tiny_model_folder, pairs=3, **AT_LAST), tmp_path / "run", told)
    assert any("say little about relevance" in text for text in told.warnings)
