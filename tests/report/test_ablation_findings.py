"""What an ablation is said to show: of sets that are knocked out, and of sets that are kept alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import Page, section

from relscope.analysis import FIRST_STAGE, RANKING_MEASURE, Estimate
from relscope.report import build_ablation_report
from relscope.report.ablation_contents import read_ablation
from relscope.report.ablation_findings import findings
from relscope.report.findings import Finding
from relscope.results import read_ablation_header
from synthetic_ablation import SETTINGS, write_synthetic_ablation

N = 300
KEPT: dict[str, Any] = {"settings": SETTINGS | {"keep_only": True}}
AS_MUCH = range(1, 6)


def judging(directory: Path, shares: Mapping[str, float], others: float, **fields: Any) -> Finding:
    """The finding on F1 of 60 queries and 20 draws of each kind; the full model is always right."""
    folder = write_synthetic_ablation(
        directory / "a", 60, n_draws=20, ranks=False, shares={"Full model": 1.0} | dict(shares), others=others, **fields
    )
    return findings(read_ablation(folder, N))[0]


def of_draws(name: str, share: float) -> dict[str, float]:
    return {f"{name}, draw {n}": share for n in AS_MUCH}


def test_a_set_that_some_draws_equal_is_not_said_to_do_more_than_random_sets(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.5} | of_draws("Matched-2", 0.5), 1.0)
    assert found.title.endswith(
        "Mixed-2 lowers F1 more than matched random sets on average, but 5 of 20 draws lower it as much"
    )
    # (1 + 5) / (1 + 20)
    assert (
        "5 of 20 draws lower it at least as much (p = 0.286), and the interval of its decrease lies above" in found.text
    )


def test_a_set_that_lowers_far_less_than_matched_sets_does_not_overlap_with_them(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.8}, 0.2)
    assert found.title.endswith("Mixed-2 lowers F1, but less than matched random sets on average")
    assert (
        "20 of 20 draws lower it at least as much (p = 1.000), and the interval of its decrease lies below"
        in found.text
    )
    assert "overlap" not in found.text


def test_decreases_that_overlap_are_told_as_such(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.78}, 0.8)
    assert found.title.endswith("Mixed-2 lowers F1, not shown to be more than matched random sets")
    assert "and the intervals of the two decreases overlap" in found.text


def test_a_set_that_keeps_more_than_random_ones_is_praised(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.8}, 0.3, **KEPT)
    assert found.title.endswith("Mixed-2 alone keeps 80\u00a0% of F1, more than matched random sets")
    assert found.text.startswith("With only Mixed-2 left, F1 is 0.80 [")
    assert "below the full model's 1.00: it keeps 80\u00a0%. 20 random sets matched to it leave it 0.70 [" in found.text
    assert "on average they keep 30\u00a0%. 0 of 20 draws keep at least as much (p = 0.048), and" in found.text
    assert "the interval of the set's change lies above that of theirs" in found.text
    assert "lower it" not in found.text
    assert "times as much" not in found.text


def test_a_set_that_keeps_less_than_random_ones_is_not(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.75}, 0.95, **KEPT)
    assert found.title.endswith("Mixed-2 alone keeps 75\u00a0% of F1, less than matched random sets on average")
    assert (
        "20 of 20 draws keep at least as much (p = 1.000), and the interval of the set's change lies below"
        in found.text
    )


def test_a_set_that_keeps_as_much_as_random_ones_is_not(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.85}, 0.85, **KEPT)
    assert found.title.endswith("Mixed-2 alone keeps 85\u00a0% of F1, not shown to be more than matched random sets")
    assert "and the intervals of the two changes overlap" in found.text


def test_a_set_that_some_draws_keep_up_with_is_not_said_to_keep_more(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.8} | of_draws("Matched-2", 0.9), 0.1, **KEPT)
    assert found.title.endswith("more than matched random sets on average, but 5 of 20 draws keep as much")
    assert "5 of 20 draws keep at least as much (p = 0.286)" in found.text


def test_a_kept_set_that_tells_nothing_apart_is_not_praised_for_the_f1_that_is_left(tmp_path: Path) -> None:
    found = judging(tmp_path, {"Mixed-2": 0.5}, 0.0, **KEPT)
    assert found.title.endswith("Mixed-2 alone is not shown to judge better than chance")
    assert "not shown to be above that of chance: what is left of F1 may be that of verdicts" in found.text


def test_the_ranking_of_a_kept_set_stands_beside_the_first_stage(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 60, n_draws=20, shares={"Full model": 1.0}, others=0.5, **KEPT)
    _, ranking = findings(read_ablation(folder, N))
    assert "Mixed-2 alone keeps 82\u00a0% of nDCG@10; 1 random draw is too few to say" in ranking.title
    # every query's relevant document is second in the first stage: 1 / log2(3)
    assert ranking.text.endswith("The first stage, without any model, has 0.63.")
    assert "One more random set would keep most of all by chance in 50\u00a0% of cases" in ranking.text


def test_nothing_is_said_of_a_full_model_without_anything_to_lose(tmp_path: Path) -> None:
    contents = read_ablation(write_synthetic_ablation(tmp_path / "a", 20), N)
    none = Estimate(0.0, 0.0, 0.0)
    outcomes = tuple(
        replace(o, full=0.0, value=none, difference=none) if o.measure == RANKING_MEASURE else o
        for o in contents.outcomes
    )
    _, ranking = findings(replace(contents, outcomes=outcomes))
    assert ranking.title.endswith("nothing can be said, as the full model's nDCG@10 is 0")


def test_no_loss_says_nothing_where_the_model_is_not_shown_to_add_to_the_first_stage(tmp_path: Path) -> None:
    contents = read_ablation(write_synthetic_ablation(tmp_path / "a", 20), N)

    def ranking_with(change: Estimate) -> Finding:
        changes = {FIRST_STAGE: Estimate(-0.1, -0.3, 0.0), contents.largest: change}
        of = tuple(
            replace(o, difference=changes.get(o.condition, o.difference)) if o.measure == RANKING_MEASURE else o
            for o in contents.outcomes
        )
        return findings(replace(contents, outcomes=of))[-1]

    unclear = ranking_with(Estimate(-0.1, -0.3, 0.0))
    assert unclear.title.endswith("the full model is not shown to rank better than the first stage")
    assert "The first stage has 0.63" in unclear.text
    assert "Mixed-2 lowers nDCG@10" in ranking_with(Estimate(-0.1, -0.3, -0.05)).title


@pytest.mark.parametrize("keep_only", [False, True])
def test_the_page_is_worded_for_what_was_done(tmp_path: Path, keep_only: bool) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", settings=SETTINGS | {"keep_only": keep_only})
    assert read_ablation_header(folder).settings["keep_only"] is keep_only
    page = Page.read(build_ablation_report(folder, N).report)
    of_kept = [
        "with the heads found alone?",
        "heads that carry relevance keep the value far above that of random sets when all others are ablated",
        "A set should lie right of its matched random sets",
        "What was kept",
        "what is kept beyond this is kept by which heads they are",
    ]
    of_lost = [
        "without the heads found?",
        "heads that carry relevance lower the value far below that of random sets",
        "how many times as much as its matched random sets",
        "What was ablated",
        "what is lost beyond this is lost by which heads they are",
    ]
    said, unsaid = (of_kept, of_lost) if keep_only else (of_lost, of_kept)
    assert [text for text in said if text not in page.text] == []
    assert [text for text in unsaid if text in page.text] == []
    header = '<th scope="col">kept</th>' if keep_only else '<th scope="col">ratio to matched</th>'
    assert header in section(page.html, "chart")
