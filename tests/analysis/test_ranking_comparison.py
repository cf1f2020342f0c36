"""Measures of rankings and their tests, against arithmetic by hand, ir-measures and scipy."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relscope.analysis import check_measures, compare_rankings, holm, ranking_values
from relscope.errors import InputError

QRELS = {"q1": {"a": 2, "b": 0, "c": 1}, "q2": {"a": 1, "x": 0}, "q3": {"a": 1}}
RANKINGS = {
    "old": {"q1": ["b", "c", "a"], "q2": ["x", "a"]},
    "new": {"q1": ["a", "b", "c"], "q2": ["a", "x"], "q9": []},
}


def of(values: pd.DataFrame, system: str, measure: str) -> dict[str, float]:
    chosen = values[(values["system"] == system) & (values["measure"] == measure)]
    return dict(zip(chosen["query_id"], chosen["value"], strict=True))


def test_ndcg_by_hand_and_a_judged_query_without_ranking_is_0() -> None:
    values = ranking_values(RANKINGS, QRELS, ["nDCG@10", "RR"])
    ideal = 2 + 1 / math.log2(3)
    # 1e-6: ir-measures' trec_eval rounds nothing, but computes in another order
    assert of(values, "new", "nDCG@10") == pytest.approx({"q1": (2 + 1 / 2) / ideal, "q2": 1.0, "q3": 0.0}, abs=1e-6)
    assert of(values, "old", "nDCG@10") == pytest.approx(
        {"q1": (1 / math.log2(3) + 2 / 2) / ideal, "q2": 1 / math.log2(3), "q3": 0.0}, abs=1e-6
    )
    assert of(values, "old", "RR") == {"q1": 0.5, "q2": 0.5, "q3": 0.0}


def test_a_long_ranking_keeps_its_order() -> None:
    # equal values would be sorted by id: places are kept apart down to the last of 5,000
    ids = [f"d{(i * 7919) % 5000}" for i in range(5000)]
    values = ranking_values({"long": {"q": ids}}, {"q": {ids[4321]: 1}}, ["RR"])
    assert values["value"].tolist() == pytest.approx([1 / 4322], rel=1e-9)


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("ndgc@10", "measures: 'ndgc@10' is none that ir-measures reads"),
        ("", "measures: '' is none"),
        ("nDCG@x", "measures: 'nDCG@x' is none"),
        ("nonsense(", r"measures: 'nonsense\(' is none"),
        ("alpha_nDCG@10", "measures: ir-measures cannot compute 'alpha_nDCG@10' here"),
    ],
)
def test_a_measure_that_cannot_be_had_is_named(measure: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_measures(["nDCG@10", measure])


def test_a_measure_named_twice_and_nothing_judged_are_refused() -> None:
    with pytest.raises(InputError, match="named twice"):
        ranking_values(RANKINGS, QRELS, ["nDCG@10", "RR", "nDCG@10"])
    with pytest.raises(InputError, match="no query is judged"):
        ranking_values(RANKINGS, {}, ["nDCG@10"])


def frame(values: dict[str, list[float]], measure: str = "AP") -> pd.DataFrame:
    return pd.DataFrame(
        [(system, f"q{i}", measure, v) for system, of_queries in values.items() for i, v in enumerate(of_queries)],
        columns=["system", "query_id", "measure", "value"],
    )


def test_the_tests_are_scipys_and_the_flips_by_hand() -> None:
    old, new = [0.1, 0.4, 0.2, 0.9], [0.5, 0.5, 0.5, 0.8]
    (found,) = compare_rankings(frame({"old": old, "new": new}), "old")
    assert found.value.value == pytest.approx(0.575)
    assert found.baseline_value.value == pytest.approx(0.4)
    assert found.difference.value == pytest.approx(0.175)
    assert found.p_t == pytest.approx(stats.ttest_rel(new, old).pvalue)
    # sum of +0.4 +0.1 +0.3 -0.1 = 0.7; of the 8 patterns that keep the first sign, those with |sum| >= 0.7:
    # + + + -: 0.7, + + + +: 0.9, + - + +: 0.7
    assert found.p_flip == 3 / 8
    assert (found.p_t_holm, found.p_flip_holm) == (found.p_t, found.p_flip)
    assert found.difference.low < 0.175 < found.difference.high
    assert (found.n_queries, found.system, found.baseline) == (4, "new", "old")


def test_systems_that_do_not_differ_have_p_1_and_one_query_has_none() -> None:
    (same,) = compare_rankings(frame({"old": [0.5, 0.2], "new": [0.5, 0.2]}), "old")
    assert (same.p_t, same.p_flip, same.difference.value) == (1.0, 1.0, 0.0)
    (one,) = compare_rankings(frame({"old": [0.5], "new": [0.7]}), "old")
    assert math.isnan(one.p_t_holm)
    assert math.isnan(one.p_flip)
    (equal,) = compare_rankings(frame({"old": [0.1, 0.2, 0.3], "new": [0.2, 0.3, 0.4]}), "old")
    assert math.isnan(equal.p_t)  # not a p of almost 0, by the rounding of equal differences
    assert equal.p_flip == 1 / 4
    assert one.as_dict()["p_t"] is None
    assert one.as_dict()["difference"] == {"value": pytest.approx(0.2), "low": None, "high": None}


def test_all_systems_and_measures_are_one_family() -> None:
    draw = np.random.default_rng(0)
    values = pd.concat(
        frame({name: draw.random(20).tolist() for name in ("old", "one", "two")}, measure) for measure in ("AP", "RR")
    )
    found = compare_rankings(values, "old")
    assert [(c.measure, c.system) for c in found] == [("AP", "one"), ("AP", "two"), ("RR", "one"), ("RR", "two")]
    p_t, p_flip = np.array([c.p_t for c in found]), np.array([c.p_flip for c in found])
    assert [c.p_t_holm for c in found] == holm(p_t).tolist()
    assert [c.p_flip_holm for c in found] == holm(p_flip).tolist()


def test_a_baseline_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"baseline: 'BM25' and another system are needed, and there are old, new"):
        compare_rankings(frame({"old": [1.0], "new": [0.0]}), "BM25")


def test_systems_measured_on_different_queries_are_not_compared() -> None:
    with pytest.raises(InputError, match="not every system is measured on the same queries"):
        compare_rankings(frame({"old": [1.0, 0.5], "new": [0.0]}), "old")


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .9: 4 x .01, 3 x .02, max(3 x .02, 2 x .03), 1 x .9
    assert holm(np.array([0.03, 0.01, math.nan, 0.9, 0.02])).tolist() == pytest.approx(
        [0.06, 0.04, math.nan, 0.9, 0.06], nan_ok=True
    )
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    level = 0.05
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, i in enumerate(order):
        if (len(order) - step) * p_values[i] > level:  # from here on, none
            break
        rejected.add(i)
    assert set(np.flatnonzero(holm(np.array(p_values)) <= level).tolist()) == rejected


def test_the_mean_is_that_of_ir_measures() -> None:
    found = compare_rankings(ranking_values(RANKINGS, QRELS, ["nDCG@10", "AP"]), "old")
    run = {q: {d: float(-i) for i, d in enumerate(docs)} for q, docs in RANKINGS["new"].items()}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.AP], QRELS, run)
    assert {c.measure: c.value.value for c in found} == pytest.approx({str(m): v for m, v in expected.items()})
