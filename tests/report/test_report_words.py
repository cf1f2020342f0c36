"""Numbers, counts and names as a reader sees them, by hand."""

from __future__ import annotations

import math

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
