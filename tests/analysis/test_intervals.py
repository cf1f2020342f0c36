"""Intervals over queries: whole queries are drawn, and means under the weights are the means of the resamples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from relscope.analysis import Estimate, bootstrap_weights, excluded_by_chance, percentile_interval
from relscope.analysis.intervals import queries_of
from relscope.errors import InputError


def test_whole_queries_are_drawn_as_many_as_there_are() -> None:
    query_ids = ["b", "a", "b", "c", "a", "b"]
    weights = bootstrap_weights(query_ids, 500, seed=0)
    assert weights.shape == (500, 6)
    assert weights.dtype == np.float64
    by_query = {query: weights[:, query_ids.index(query)] for query in "abc"}
    for column, query in enumerate(query_ids):
        np.testing.assert_array_equal(weights[:, column], by_query[query])
    np.testing.assert_array_equal(sum(by_query.values()), np.full(500, 3.0))


def test_each_query_is_drawn_once_on_average_and_varies_as_a_binomial() -> None:
    weights = bootstrap_weights([f"q{i}" for i in range(20)], 20_000, seed=1)
    # Binomial(20, 1/20): mean 1, variance 0.95. Standard errors over 20,000 resamples are 0.007 and about 0.01.
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=0.035)
    np.testing.assert_allclose(weights.var(axis=0), 0.95, atol=0.06)


def test_the_draws_of_a_query_depend_neither_on_the_order_nor_on_the_number_of_its_pairs() -> None:
    few = bootstrap_weights(["a", "b", "c"], 50, seed=7)
    many = bootstrap_weights(["c", "c", "a", "b", "b", "b"], 50, seed=7)
    np.testing.assert_array_equal(many, few[:, [2, 2, 0, 1, 1, 1]])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    query_ids = [f"q{i}" for i in range(10)]
    np.testing.assert_array_equal(bootstrap_weights(query_ids, 5, 3), bootstrap_weights(query_ids, 5, 3))
    assert not np.array_equal(bootstrap_weights(query_ids, 5, 3), bootstrap_weights(query_ids, 5, 4))


def test_percentiles_of_a_known_list() -> None:
    # 0, 1, ..., 100: the 5 % and 95 % points of 101 equally spaced values are 5 and 95 exactly
    low, high = percentile_interval(np.arange(101.0)[None, ::-1], confidence=0.9)
    # (1 - 0.9) / 2 is 0.05 up to rounding
    np.testing.assert_allclose((low[0], high[0]), (5.0, 95.0), rtol=1e-12)


def test_the_interval_of_a_mean_agrees_with_scipy_where_every_query_has_one_pair() -> None:
    rng = np.random.default_rng(5)
    values = rng.exponential(2.0, size=40)
    weights = bootstrap_weights([f"q{i}" for i in range(40)], 20_000, seed=0)
    low, high = percentile_interval(weights @ values / 40, confidence=0.95)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    # Two independent sets of resamples: a 2.5 % point of 20,000 has a standard error of about 0.01 here.
    np.testing.assert_allclose((low, high), (theirs.low, theirs.high), atol=0.05)


def test_repeating_every_pair_of_a_query_does_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=15)
    query_ids = [f"q{i:02d}" for i in range(15)]
    once = bootstrap_weights(query_ids, 1000, seed=0) @ values / 15
    ten_times = bootstrap_weights(query_ids * 10, 1000, seed=0) @ np.tile(values, 10) / 150
    # The same sums in another order: float64 rounding alone differs.
    np.testing.assert_allclose(ten_times, once, atol=1e-13)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    # 30 queries of 4 pairs that share most of their value; over pairs, the interval would cover far less often.
    rng = np.random.default_rng(11)
    query_ids = [f"q{i}" for i in range(30) for _ in range(4)]
    covered = 0
    for trial in range(400):
        values = np.repeat(rng.normal(size=30), 4) + 0.3 * rng.normal(size=120)
        weights = bootstrap_weights(query_ids, 400, seed=trial)
        low, high = percentile_interval(weights @ values / weights.sum(axis=1), confidence=0.9)
        covered += int(low <= 0.0 <= high)
    # A percentile interval of 30 clusters covers slightly less than its 90 %; 400 trials have a standard error of
    # 1.5 %.
    assert 0.83 <= covered / 400 <= 0.94


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match=r"such as 0\.95"):
        percentile_interval(np.zeros((1, 10)), confidence)


def test_no_pairs_and_no_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="no pairs"):
        bootstrap_weights([], 10, 0)
    with pytest.raises(InputError, match="n_resamples is 0"):
        bootstrap_weights(["a"], 0, 0)


def test_a_pair_without_a_query_is_named() -> None:
    pairs = pd.Series(["a:0", "b:0"], dtype="category")
    assert queries_of(pairs, {"a:0": "a", "b:0": "b"}) == ["a", "b"]
    with pytest.raises(InputError, match="1 pairs of the rows have no query, such as 'b:0'"):
        queries_of(pairs, {"a:0": "a"})


def test_an_estimate_prints_its_interval_and_gives_null_for_json() -> None:
    assert str(Estimate(0.491, 0.402, 0.567)) == "0.49 [0.40, 0.57]"
    assert str(Estimate(0.5, float("nan"), float("nan"))) == "0.50"
    assert Estimate(1.0, float("nan"), 2.0).as_dict() == {"value": 1.0, "low": None, "high": 2.0}


@pytest.mark.parametrize("n_queries", [2, 3, 4, 6, 10, 30])
def test_intervals_exclude_0_by_chance_as_often_as_a_simulation_says(n_queries: int) -> None:
    changes = np.random.default_rng(n_queries).normal(size=(4000, n_queries))  # no effect
    weights = bootstrap_weights([str(i) for i in range(n_queries)], 1000, seed=0) / n_queries
    low, high = percentile_interval(changes @ weights.T, 0.95)
    share = ((low > 0) | (high < 0)).mean()
    # four standard errors of 4000 sites are 0.03 at most; the resampled means are not quite normal
    assert excluded_by_chance(n_queries, 0.95) == pytest.approx(share, abs=0.03)


def test_the_share_of_intervals_that_exclude_0_by_chance_falls_to_what_they_say() -> None:
    shares = [excluded_by_chance(n, 0.95) for n in (2, 3, 6, 10, 100, 10_000)]
    assert shares[0] == 0.5  # two queries agree in sign
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0.05, abs=1e-4)
    assert np.isnan(excluded_by_chance(1, 0.95))


@pytest.mark.parametrize(("low", "high", "none"), [(0.3, 0.3, True), (0.3, 0.3 + 1e-16, True), (0.3, 0.31, False)])
def test_ends_that_are_one_number_have_no_width(low: float, high: float, none: bool) -> None:
    assert Estimate(0.3, low, high).no_width is none
    assert not Estimate(0.3, np.nan, np.nan).no_width
