"""Numbers, counts and names as a reader sees them, by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from relscope.report import words


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.126, 2, "0.13"), (-0.126, 2, "−0.13"), (-0.001, 2, "0.00"), (3.0, 0, "3"), (math.nan, 2, "–"), (None, 2, "–")],
)
def test_a_number_has_a_true_minus_and_never_a_negative_zero(value: float | None, decimals: int, text: str) -> None:
    assert words.number(value, decimals) == text


def test_an_interval_without_an_end_is_a_dash_and_not_a_zero() -> None:
    assert words.interval(-0.5, 1.25) == "[−0.50, 1.25]"
    assert words.interval(math.nan, 1.25) == "–"


@pytest.mark.parametrize(
    ("values", "decimals"), [([12.0], 2), ([0.5, 0.01], 2), ([0.05], 3), ([0.004], 4), ([1e-9], 4), ([], 2), ([0.0], 2)]
)
def test_two_significant_digits_of_the_largest_value_are_shown(values: list[float], decimals: int) -> None:
    assert words.decimals_for(values) == decimals


def test_counts_agree_in_number_and_group_thousands() -> None:
    assert words.count(1, "pair") == "1 pair"
    assert words.count(1024, "head") == "1,024 heads"
    assert words.count(2, "query", "queries") == "2 queries"


def test_whole_regions_come_in_reading_order_before_their_first_and_last_tokens() -> None:
    shuffled = [
        "query.last",
        "all",
        "zebra",
        "document.first",
        "last",
        "query",
        "query.first",
        "instruction",
        "document",
    ]
    assert sorted(shuffled, key=words.region_key) == [
        "query",
        "document",
        "instruction",
        "last",
        "all",
        "zebra",
        "query.first",
        "query.last",
        "document.first",
    ]


def test_only_regions_without_common_tokens_are_compared() -> None:
    assert words.disjoint(["all", "last", "query", "query.first", "document", "document_a"]) == (
        "query",
        "document",
        "last",
    )
    assert words.disjoint(["document_b", "document_a"]) == ("document_a", "document_b")


def test_sizes_are_short() -> None:
    assert words.parameters(134_515_008) == "135 M parameters"
    assert words.parameters(8_030_261_248) == "8.03 B parameters"
    assert words.size(1_300_000) == "1.3 MB"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0341, "0.034"), (0.0009, "< 0.001"), (1.0, "1.000"), (float("nan"), "–")]
)
def test_a_probability_is_never_shown_as_zero(value: float, text: str) -> None:
    assert words.probability(value) == text


ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = sorted((ROOT / "src" / "relscope" / "report" / "templates").glob("*.j2"))


@pytest.mark.parametrize("path", [*WRITTEN, *PAGES], ids=lambda path: path.name)
def test_limits_and_thousands_are_written_one_way(path: Path) -> None:
    """`q ≤ 0.05` and `3,240 heads`."""
    text = path.read_text("utf-8")
    assert re.findall(r"(?:\bq|\|IE\||\bp) (?:<=|>=) 0", text) == []
    assert re.findall(r"(?<![\w.,/:=-])\d{4,} (?:heads|sites|pairs|rows|queries|resamples|times|prompts)\b", text) == []


def test_the_label_of_a_head_at_a_region_is_that_of_rows_and_configurations() -> None:
    assert words.site_label(12, 3, "last") == "L12H3@last"


def test_components_stand_in_the_order_in_which_they_are_computed() -> None:
    names = ["pattern_renormalised", "unknown", "pattern", "scores"]
    assert sorted(names, key=words.component_key) == ["scores", "pattern", "pattern_renormalised", "unknown"]
