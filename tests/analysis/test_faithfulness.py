"""Faithfulness, its areas and its intervals, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import SetMetrics, areas_under, circuit_sizes, curve_table, set_name
from relscope.errors import InputError

QUERY_OF = {"a:0": "a", "a:1": "a", "b:0": "b", "c:0": "c"}
LDS = {
    "full": [(4, -2), (2, -2), (3, 1), (5, -3)],  # gaps 6, 4, 2, 8
    "empty": [(1, 1), (0, 0), (1, 0), (1, 0)],  # gaps 0, 0, 1, 1
    "keep 2": [(2, 0), (1, -1), (2, 1), (1, -3)],  # gaps 2, 2, 1, 4
    "knock_out 2": [(1, 0), (1, 0), (1, 0), (1, 0)],
    "circuit": [(4, -2), (2, -2), (3, 1), (5, -3)],
    "without x": [(1, 1), (0, 0), (1, 0), (1, 0)],
}


def rows(lds: dict[str, list[tuple[float, float]]] = LDS) -> pd.DataFrame:
    return pd.DataFrame(
        [(name, pair_id, clean, corrupted) for name, of in lds.items()
         for pair_id, (clean, corrupted) in zip(QUERY_OF, of, strict=True)],
        columns=["set", "pair_id", "ld_clean", "ld_corrupted"],
    )  # fmt: skip


def test_faithfulness_is_the_share_of_full_less_empty() -> None:
    metrics = SetMetrics(rows(), QUERY_OF)
    assert metrics.value("full", "ld_gap").value == 5.0
    assert metrics.value("empty", "ld_gap").value == 0.5
    # mean gap 2.25: (2.25 - 0.5) / (5 - 0.5)
    assert metrics.faithfulness("keep 2", "ld_gap").value == pytest.approx(1.75 / 4.5)
    assert metrics.faithfulness("empty", "ld_gap").value == 0.0
    assert metrics.faithfulness("full", "ld_gap").value == 1.0
    assert metrics.loss("circuit", "without x", "ld_gap").value == 1.0
    assert metrics.incompleteness("keep 2", "full", "ld_gap").value == pytest.approx(2.75 / 4.5)
    # Full: of 8 verdicts (3, 1) alone is wrong on its corrupted prompt. Empty: yes to 3 clean prompts, 1 corrupted.
    assert metrics.value("full", "accuracy").value == 7 / 8
    assert metrics.value("empty", "accuracy").value == (3 + 3) / 8
    assert metrics.value("full", "f1").value == pytest.approx(2 * 4 / (2 * 4 + 1))


def test_verdicts_on_which_every_query_agrees_have_the_exact_bound_of_the_binomial() -> None:
    right = LDS | {"circuit": [(1.0, -1.0)] * 4, "keep 2": [(1.0, 2.0)] * 4}
    metrics = SetMetrics(rows(right), QUERY_OF)
    bound = 0.025 ** (1 / 3)  # three queries
    for metric in ("accuracy", "f1", "roc_auc"):
        found = metrics.value("circuit", metric)
        assert (found.low, found.value, found.high) == (pytest.approx(bound), 1.0, 1.0)
    yes = metrics.value("keep 2", "accuracy")  # yes to everything: half of the verdicts of every query
    assert (yes.low, yes.high) == pytest.approx((bound / 2, bound / 2 + 1 - bound))
    gap = metrics.value("circuit", "ld_gap")  # no share: nothing bounds what another query's gap is
    assert gap.no_width


def test_one_ld_for_every_prompt_has_its_metrics_by_construction() -> None:
    metrics = SetMetrics(rows(LDS | {"keep 2": [(1.0, 1.0)] * 4}), QUERY_OF)
    for metric, value in (("accuracy", 0.5), ("f1", 2 / 3), ("roc_auc", 0.5)):
        found = metrics.value("keep 2", metric)
        assert found.no_width
        assert not found.exact
        assert found.value == pytest.approx(value)


def test_numerator_and_denominator_are_resampled_together() -> None:
    """f of a set whose gaps are everywhere half way between empty and full has no spread, whatever is drawn."""
    middle = [((f + e) / 2, (g + h) / 2) for (f, g), (e, h) in zip(LDS["full"], LDS["empty"], strict=True)]
    metrics = SetMetrics(rows(LDS | {"half": middle}), QUERY_OF)
    f = metrics.faithfulness("half", "ld_gap")
    assert (f.low, f.value, f.high) == pytest.approx((0.5, 0.5, 0.5))
    assert metrics.value("half", "ld_gap").low < metrics.value("half", "ld_gap").high


def test_a_full_model_that_may_be_no_better_than_the_empty_one_gives_no_interval() -> None:
    worse = LDS | {"full": [(0, 5), (9, -2), (1, 0), (1, 0)]}
    f = SetMetrics(rows(worse), QUERY_OF).faithfulness("keep 2", "ld_gap")
    assert np.isfinite(f.value)
    assert np.isnan([f.low, f.high]).all()
    equal = LDS | {"full": LDS["empty"]}
    assert np.isnan(SetMetrics(rows(equal), QUERY_OF).faithfulness("keep 2", "ld_gap").value)


def test_areas_are_trapezoids_over_a_linear_share() -> None:
    f = np.array([[0.2], [0.6], [1.4], [1.0]])
    cpr, cmd = areas_under(f, [0.1, 0.2, 0.5, 1.0])
    # 0.1 * 0.4 + 0.3 * 1.0 + 0.5 * 1.2; |1 - f| = 0.8, 0.4, 0.4, 0: 0.1 * 0.6 + 0.3 * 0.4 + 0.5 * 0.2
    assert cpr == pytest.approx([0.94])
    assert cmd == pytest.approx([0.28])
    with pytest.raises(InputError, match="must rise"):
        areas_under(f, [0.1, 0.1, 0.5, 1.0])


def test_a_perfect_curve_has_the_largest_cpr_and_no_cmd() -> None:
    cpr, cmd = areas_under(np.ones((3, 1)), [0.001, 0.5, 1.0])
    assert cpr == pytest.approx([0.999])
    assert cmd == pytest.approx([0.0])


def test_both_ends_of_both_curves_are_the_full_and_the_empty_model() -> None:
    assert [set_name(mode, size, 9) for mode in ("keep", "knock_out") for size in (0, 9)] == [
        "empty", "full", "full", "empty",
    ]  # fmt: skip
    table = curve_table(SetMetrics(rows(), QUERY_OF), [2, 4], 4)
    gap = table[table["metric"] == "ld_gap"].set_index(["mode", "n_sites"])["faithfulness"]
    assert gap["keep"].to_dict() == pytest.approx({0: 0.0, 2: 1.75 / 4.5, 4: 1.0})
    assert gap["knock_out"].to_dict() == pytest.approx({0: 1.0, 2: 0.5 / 4.5, 4: 0.0})
    areas = SetMetrics(rows(), QUERY_OF).areas(["keep 2", "full"], [0.5, 1.0], "ld_gap")
    assert areas.cpr.value == pytest.approx(0.5 * (1.75 / 4.5 + 1) / 2)
    assert areas.cpr.low < areas.cpr.value < areas.cpr.high


def test_rankings_are_a_metric_of_their_own_queries() -> None:
    ranked = pd.DataFrame(
        [(name, "nDCG@10", f"q{i}", value) for name, of in
         {"full": [0.8, 0.6, 1.0], "empty": [0.2, 0.4, 0.3], "keep 2": [0.5, 0.5, 0.65]}.items()
         for i, value in enumerate(of)],
        columns=["set", "measure", "query_id", "value"],
    )  # fmt: skip
    metrics = SetMetrics(rows(), QUERY_OF, ranked)
    assert metrics.metrics[-1] == "nDCG@10"
    assert metrics.faithfulness("keep 2", "nDCG@10").value == pytest.approx(0.5)
    assert not metrics.has("circuit", "nDCG@10")


def test_sizes_are_distinct_counts_of_the_shares() -> None:
    assert circuit_sizes(1080) == (1, 2, 5, 11, 22, 54, 108, 216, 540, 1080)
    assert circuit_sizes(16) == (1, 2, 3, 8, 16)
    assert circuit_sizes(16, [0.25]) == (4, 16)  # the curves always end at the whole model
    with pytest.raises(InputError, match=r"share 0.0 of all sites: give numbers above 0"):
        circuit_sizes(16, [0.0, 1.0])


def test_sets_of_other_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="not every set was measured on the same pairs"):
        SetMetrics(rows().iloc[1:], QUERY_OF)
    with pytest.raises(InputError, match="there are none yet"):
        SetMetrics(rows().iloc[:0], QUERY_OF)
