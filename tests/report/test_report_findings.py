"""Findings name what the numbers say, on maps small enough to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from relscope.analysis import Estimate, JudgeQuality
from relscope.report.findings import (
    by_chance,
    excluding_zero,
    flow_findings,
    flow_words,
    head_findings,
    verdict_finding,
)
from relscope.report.maps import EffectMap


def effect_map(name: str, rows: Sequence[str], ie: Any, half_width: float = 0.01, gap: float = 2.0) -> EffectMap:
    """A map whose IE is given [row, layer], with intervals of that half width; the effect is IE times the gap."""
    values = np.array(ie, dtype=np.float64)
    cells = {
        "ie": values,
        "ie_low": values - half_width,
        "ie_high": values + half_width,
        "effect": gap * values,
        "effect_low": gap * (values - half_width),
        "effect_high": gap * (values + half_width),
        "n_pairs": np.full(values.shape, 12.0),
        "n_queries": np.full(values.shape, 6.0),
    }
    return EffectMap(name, "denoise", tuple(rows), tuple(range(values.shape[1])), cells)


def test_the_largest_site_is_named_with_its_interval_and_all_is_not_compared() -> None:
    rows = ("query", "last", "all")
    (finding,) = flow_findings([effect_map("attn_out", rows, [[0.1, 0.2], [0.0, 0.4], [0.9, 0.9]])], "ie")
    assert finding.title == "Attention output: largest at layer 1, at the last token"
    assert finding.text == (
        "IE 0.40 [0.39, 0.41], an effect of 0.80 [0.78, 0.82] logits, the largest of 4 layer × region sites. "
        "Next: layer 1 at the query (0.20 [0.19, 0.21]) and layer 0 at the query (0.10 [0.09, 0.11])."
    )


def test_a_negative_effect_can_be_the_largest() -> None:
    (finding,) = flow_findings([effect_map("mlp_out", ("query",), [[0.1, -0.3]])], "ie")
    assert finding.text.startswith("IE −0.30 [−0.31, −0.29], an effect of −0.60")


def test_a_largest_effect_whose_interval_includes_zero_is_called_possible_noise() -> None:
    (finding,) = flow_findings([effect_map("mlp_out", ("query",), [[0.1, 0.2]], half_width=0.3)], "ie")
    assert "its interval includes 0, so even this one may be noise" in finding.text


def test_the_residual_stream_hands_over_where_half_of_the_gap_changes_place() -> None:
    ie = [[0.9, 0.7, 0.4, 0.6, 0.0], [0.0, 0.1, 0.6, 0.4, 0.8]]  # the stretches end at the first value below one half
    (finding,) = flow_findings([effect_map("resid_post", ("document", "last"), ie)], "ie")
    assert finding.title.endswith("from the document to the last token between layers 1 and 4")
    assert "at every layer up to 1 (IE 0.70" in finding.text
    assert "at every layer from 4 on (IE 0.80" in finding.text


def test_the_section_leads_with_what_is_not_so_by_construction() -> None:
    maps = [
        effect_map("mlp_out", ("document", "last"), [[1.0, 0.2, 0.1], [0.0, 0.1, 0.3]]),  # layer 0: the words
        effect_map("resid_post", ("document", "last"), [[1.0, 0.7, 0.0], [0.0, 0.1, 1.0]]),
    ]
    assert flow_words(maps, "ie") == (
        "Beyond layer 0 mlp_out is largest at layer 2, at the last token (IE 0.30 [0.29, 0.31]). The residual stream "
        "after the layer: patching it at the document alone gives at least half of the gap at every layer up to 1 "
        "(IE 0.70 [0.69, 0.71]). Patching it at the last token alone does so at every layer from 2 on "
        "(IE 1.00 [0.99, 1.01])."
    )


def test_a_residual_stream_without_a_half_anywhere_says_so() -> None:
    (finding,) = flow_findings([effect_map("resid_post", ("document", "last"), [[0.3, 0.2], [0.0, 0.4]])], "ie")
    assert finding.title.endswith("no single region holds half of the gap")
    assert "The largest is layer 1 at the last token (IE 0.40 [0.39, 0.41])." in finding.text


def test_heads_are_counted_beside_what_chance_alone_would_give() -> None:
    ie = np.full((10, 4), 0.001)
    ie[3, 2], ie[1, 0] = 0.5, -0.25
    maps = [effect_map("last", [str(h) for h in range(10)], ie), effect_map("query", ["0"], [[0.1, 0.0, 0.0, 0.0]])]
    (finding,) = head_findings(maps, "ie", 0.95)
    assert finding.title == "Heads: the largest effect is L2H3's, at the last token"
    assert "next there L0H1 (−0.25 [−0.26, −0.24]) and" in finding.text
    assert "Elsewhere the largest are L0H0 (0.10 [0.09, 0.11]) at the query." in finding.text
    # 2 intervals of 40 heads; over six queries 13 % of 40, and not 5 %
    # (0.5 + 0.25 + 8 x 0.001) / (0.75 + 38 x 0.001) = 96 %
    assert (
        "At the last token 2 intervals of 40 heads exclude 0 (about 5 would if no head had an effect)" in finding.text
    )
    assert "the ten strongest heads hold 96\u00a0% of the summed absolute effects" in finding.text


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "no interval of 9 heads excludes 0"),
        (1, "1 interval of 9 heads excludes 0"),
        (2, "2 intervals of 9 heads exclude 0"),
    ],
)
def test_none_and_one_interval_are_counted_in_words_that_fit(n: int, said: str) -> None:
    assert excluding_zero(n, "9 heads") == said
    # over very many queries 5 % of them exclude 0 by chance
    assert [by_chance(k, 10_000, 0.95) for k in (9, 20)] == ["fewer than 1", "about 1"]


def test_without_an_interval_none_is_shown_and_none_is_counted() -> None:
    one_query = effect_map("last", ["0", "1"], [[0.5, 0.1], [0.2, 0.0]], half_width=np.nan)
    (finding,) = head_findings([one_query], "effect", 0.95)
    assert finding.text == "An effect of 1.00 logits; next there L0H1 (0.40) and L1H0 (0.20)."


@pytest.mark.parametrize(("gap", "has_gap"), [(Estimate(5.0, 4.0, 6.0), True), (None, False)])
def test_the_verdicts_come_with_the_gap_that_effects_are_a_share_of(gap: Estimate | None, has_gap: bool) -> None:
    value = Estimate(0.75, 0.5, 1.0)
    quality = JudgeQuality(8, 4, value, value, value, value, value, at_chance=True, sentence="")
    finding = verdict_finding(quality, gap)
    assert finding.title == "Verdicts: accuracy 0.75 [0.50, 1.00], ROC AUC 0.75 [0.50, 1.00]"
    assert "in 75\u00a0% of 8 pairs (4 queries)" in finding.text
    assert ("5.00 [4.00, 6.00] logits" in finding.text) is has_gap
