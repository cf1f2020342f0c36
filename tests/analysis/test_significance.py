"""p and q are those done by hand and those of scipy, chance alone gives no more than it may, and size counts too."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_models import own_queries, rows_of

from relscope.analysis import (
    LEAST_IE,
    MOST_Q,
    important_sites,
    q_values,
    sign_flip_p_values,
    significance_limits,
    site_effects,
    smallest_p_value,
)
from relscope.errors import InputError


def one_a_query(n_pairs: int) -> list[str]:
    return [f"q{i:03d}" for i in range(n_pairs)]


def p_of(changes: list[float], query_ids: list[str] | None = None) -> float:
    queries = one_a_query(len(changes)) if query_ids is None else query_ids
    return float(sign_flip_p_values(np.array([changes]), queries)[0])


def slow_p(changes: np.ndarray, query_ids: list[str]) -> float:
    """Every sign pattern of the queries, one after the other."""
    queries = sorted(set(query_ids))
    hits = 0
    for signs in itertools.product([1, -1], repeat=len(queries)):
        sign_of = dict(zip(queries, signs, strict=True))
        total = math.fsum(sign_of[query] * change for query, change in zip(query_ids, changes, strict=True))
        hits += abs(total) >= abs(math.fsum(changes)) - 1e-9
    return hits / 2 ** len(queries)


def test_three_queries_by_hand() -> None:
    # |+-1 +-2 +-3| over the eight patterns: 6, 4, 2, 0, 0, 2, 4, 6
    assert p_of([1.0, 2.0, 3.0]) == 2 / 8  # a sum of 6: itself and its opposite
    assert p_of([-1.0, 2.0, 3.0]) == 4 / 8  # a sum of 4
    assert p_of([1.0, -2.0, 3.0]) == 6 / 8  # a sum of 2
    assert p_of([1.0, 2.0, -3.0]) == 1.0  # a sum of 0
    assert p_of([-1.0, -2.0, -3.0]) == 2 / 8  # two-sided


def test_pairs_of_one_query_flip_together() -> None:
    # sums of the two queries: a 3 and b 1; |+-3 +-1| is 4, 2, 2, 4. Six separate pairs would give 2 / 64.
    changes, queries = [1.0, 1.0, 1.0, 0.5, 0.25, 0.25], ["a", "a", "a", "b", "b", "b"]
    assert p_of(changes, queries) == 2 / 4
    assert p_of(changes) == 2 / 64


def test_what_a_query_gains_and_loses_in_its_pairs_cancels_before_it_flips() -> None:
    # query a sums to 0 and only doubles every pattern of the others
    assert p_of([5.0, -5.0, 1.0, 2.0, 3.0], ["a", "a", "b", "c", "d"]) == p_of([1.0, 2.0, 3.0])


@pytest.mark.parametrize("n_pairs", [4, 9, 13])
def test_every_pattern_is_counted_as_plain_loops_count_it(n_pairs: int) -> None:
    rng = np.random.default_rng(n_pairs)
    changes = rng.normal(0.4, 1.0, (6, n_pairs))
    queries = [f"q{i // 2}" for i in range(n_pairs)]
    found = sign_flip_p_values(changes, queries)
    assert found.tolist() == [slow_p(row, queries) for row in changes]


def test_p_is_that_of_scipy() -> None:
    changes = np.random.default_rng(0).normal(0.5, 1.0, (5, 10))
    theirs = stats.permutation_test((changes,), np.mean, permutation_type="samples", n_resamples=np.inf, axis=1)
    assert sign_flip_p_values(changes, one_a_query(10)).tolist() == theirs.pvalue.tolist()  # both are exact


def test_drawn_patterns_agree_with_all_patterns_and_count_the_measured_one() -> None:
    changes = np.random.default_rng(1).normal(0.5, 1.0, (40, 13))
    exact = sign_flip_p_values(changes, one_a_query(13), n_flips=4096)
    drawn = sign_flip_p_values(changes, one_a_query(13), n_flips=4095)
    assert (exact * 4096 == np.round(exact * 4096)).all()  # 2^12 patterns up to the common sign
    np.testing.assert_allclose(drawn * 4096, np.round(drawn * 4096), rtol=1e-12)  # (1 + hits) / (1 + 4095)
    # 4095 draws have a standard error of at most 0.008
    np.testing.assert_allclose(drawn, exact, atol=0.03)


def test_a_change_that_every_query_shares_has_the_smallest_p_there_can_be() -> None:
    changes = np.random.default_rng(2).uniform(0.1, 1.0, (3, 30))
    # a pattern that flips none of 30, or all, is drawn with a chance of 1e-5 in 10,000 draws
    assert sign_flip_p_values(changes, one_a_query(30)).tolist() == [1 / 10_001] * 3
    assert sign_flip_p_values(changes[:, :8], one_a_query(8)).tolist() == [2 / 2**8] * 3


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-7, 1e6])
def test_equal_sums_count_as_equal_whatever_their_rounding(scale: float) -> None:
    # 0.1 + 0.2 + 0.3 differs from 0.6 by an ulp: here half of all patterns tie with the measured one
    changes = [0.1 * scale, 0.2 * scale, 0.3 * scale, -0.6 * scale, 0.7 * scale]
    assert p_of(changes) == slow_p(np.round(np.array(changes) / scale, 1), one_a_query(5))
    every_order = [p_of([changes[i] for i in order]) for order in itertools.permutations(range(5))]
    assert set(every_order) == {every_order[0]}


def test_a_site_that_changes_nothing_has_p_one() -> None:
    assert p_of([0.0] * 6) == 1.0
    assert p_of([0.0] * 30) == 1.0


def test_one_query_alone_has_no_p_and_two_have_a_half_at_best() -> None:
    assert math.isnan(p_of([1.0, 2.0], ["a", "a"]))
    assert p_of([1.0, 1.0]) == 0.5


def test_p_depends_neither_on_the_order_of_the_pairs_nor_on_the_other_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = np.random.default_rng(3).normal(0.2, 1.0, (7, 40))
    queries = [f"q{i // 2:02d}" for i in range(40)]
    whole = sign_flip_p_values(changes, queries, n_flips=500)
    order = np.random.default_rng(4).permutation(40)
    mixed = sign_flip_p_values(changes[:, order], [queries[i] for i in order], n_flips=500)
    assert mixed.tolist() == whole.tolist()
    monkeypatch.setattr("relscope.analysis.significance._MOST_CELLS", 1000)  # two sites at a time
    assert sign_flip_p_values(changes, queries, n_flips=500).tolist() == whole.tolist()


@pytest.mark.parametrize("n_queries", [12, 40])
def test_without_any_effect_p_is_uniform(n_queries: int) -> None:
    # each site has its own changes of a skewless distribution with heavy tails
    changes = np.random.default_rng(5).standard_t(3, (4000, n_queries))
    p_values = sign_flip_p_values(changes, one_a_query(n_queries), n_flips=2048)
    for level in (0.01, 0.05, 0.2, 0.5, 0.9):
        # 4000 sites: four standard errors, and the patterns that all sites share add one part in 2048 draws
        error = 4 * math.sqrt(level * (1 - level) * (1 / 4000 + 1 / 2048))
        assert np.mean(p_values <= level) == pytest.approx(level, abs=error)


def test_pairs_of_one_query_taken_as_independent_would_find_what_is_not_there() -> None:
    # ten pairs of a query share its change: over queries 5 % are below 0.05, over pairs far more
    shared = np.repeat(np.random.default_rng(6).normal(0, 1, (1000, 10)), 10, axis=1)
    over_queries = sign_flip_p_values(shared, [f"q{i // 10}" for i in range(100)])
    over_pairs = sign_flip_p_values(shared, one_a_query(100), n_flips=1000)
    assert np.mean(over_queries <= 0.05) == pytest.approx(0.05, abs=0.03)  # four standard errors of 1000 sites
    assert np.mean(over_pairs <= 0.05) > 0.4


def test_q_values_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.5 times 4/1, 4/2, 4/3, 4/4: 0.04, 0.04, 0.04, 0.5
    found = q_values(np.array([0.5, 0.01, 0.03, 0.02]))
    np.testing.assert_allclose(found, [0.5, 0.04, 0.04, 0.04], rtol=1e-12)
    # 0.01 x 3 and 0.04 x 3/2 and 0.05: the second is capped by the third
    np.testing.assert_allclose(q_values(np.array([0.01, 0.04, 0.05])), [0.03, 0.05, 0.05], rtol=1e-12)


def test_sites_without_a_p_value_are_left_out_and_stay_without() -> None:
    found = q_values(np.array([math.nan, 0.01, math.nan, 0.04]))
    np.testing.assert_allclose(found, [math.nan, 0.02, math.nan, 0.04], rtol=1e-12)  # of two sites, not of four
    assert np.isnan(q_values(np.full(3, math.nan))).all()
    assert len(q_values(np.array([]))) == 0


PLANTED = (3, 50, 51, 120)


def planted_rows(seed: int, n_pairs: int = 40, n_sites: int = 200, *, size: float = 1.0) -> pd.DataFrame:
    """A gap of 8 logits; the planted sites restore about `size` of it in logits, the others nothing on average."""
    rng = np.random.default_rng(seed)
    restored = rng.normal(0, 0.1, (n_pairs, n_sites))
    restored[:, PLANTED] += size
    return rows_of(restored - 4.0, [4.0] * n_pairs, [-4.0] * n_pairs)


def test_planted_sites_are_important_and_no_others() -> None:
    effects = site_effects(planted_rows(0), own_queries(40))
    assert np.flatnonzero(important_sites(effects)).tolist() == list(PLANTED)
    # 1e-4 is the smallest p; four of 200 sites have it
    np.testing.assert_allclose(effects.loc[list(PLANTED), "q_value"], 200 / 4 / 10_001, rtol=1e-12)


def test_without_any_effect_one_run_in_twenty_at_most_finds_something() -> None:
    rng = np.random.default_rng(7)
    n_found = 0
    for _ in range(300):
        p_values = sign_flip_p_values(rng.normal(0, 1, (130, 13)), one_a_query(13))
        n_found += bool((q_values(p_values) <= 0.05).any())
    # the smallest p of 2^12 patterns is small enough for a single one of 130 sites
    assert smallest_p_value(13) * 130 < 0.05
    # 15 of 300 on average, four standard errors of 3.8 more are 30; steps of p make it fewer
    assert 3 <= n_found <= 30


def test_neither_a_small_q_value_nor_a_large_effect_is_enough() -> None:
    effects = pd.DataFrame(
        {
            "q_value": [0.05, 0.051, 0.001, 0.001, math.nan, 0.001, 0.001],
            "ie": [0.02, 0.9, 0.019, -0.5, 0.9, math.nan, 7.0],
            "unstable_ie": [False] * 6 + [True],
        }
    )
    assert (MOST_Q, LEAST_IE) == (0.05, 0.02)
    assert important_sites(effects).tolist() == [True, False, False, True, False, False, False]
    assert important_sites(effects, most_q=0.06, least_ie=0.6).tolist() == [False, True] + [False] * 5
    assert important_sites(effects.iloc[:0]).tolist() == []


def test_a_tiny_effect_that_all_queries_share_is_significant_and_not_important() -> None:
    effects = site_effects(planted_rows(1, size=0.12), own_queries(40))  # 0.015 of the gap
    assert (effects.loc[list(PLANTED), "q_value"] < 0.05).all()
    assert not important_sites(effects).any()


def test_few_queries_are_said_to_reach_nothing() -> None:
    effects = site_effects(planted_rows(0, n_pairs=5), own_queries(5))
    assert effects.loc[list(PLANTED), "p_value"].tolist() == [2 / 2**5] * 4
    assert not important_sites(effects).any()
    (limit,) = significance_limits(effects)
    # even if all 200 sites had p = 0.0625, q would be 0.0625
    assert (limit.smallest_p_value, limit.sites_needed, limit.reachable) == (0.0625, 250, False)
    assert str(limit) == (
        "heads (denoise): p is at least 0.062 with 5 queries, so that none of 200 sites can reach q ≤ 0.05; "
        "use more queries"
    )


def test_some_queries_allow_many_sites_together_and_not_one_alone() -> None:
    rows = planted_rows(0, n_pairs=10)
    (limit,) = significance_limits(site_effects(rows, own_queries(10)))
    # 2 / 2^10 * 200 / 0.05 = 7.8: four planted sites are too few
    assert (limit.smallest_p_value, limit.sites_needed, limit.reachable) == (2 / 2**10, 8, True)
    assert str(limit).endswith("at least 8 together reach q ≤ 0.05, or none does; use more queries")
    assert not important_sites(site_effects(rows, own_queries(10))).any()


def test_the_number_of_sites_needed_is_exact() -> None:
    # eight of 200 sites at the smallest p reach 0.05 and seven do not
    p_values = np.ones(200)
    p_values[:7] = smallest_p_value(10)
    assert q_values(p_values).min() > 0.05
    p_values[7] = smallest_p_value(10)
    assert q_values(p_values).min() <= 0.05


def test_many_queries_allow_a_single_site_and_one_query_no_test() -> None:
    (limit,) = significance_limits(site_effects(planted_rows(0), own_queries(40)))
    assert (limit.smallest_p_value, limit.sites_needed, limit.n_queries) == (1 / 10_001, 1, 40)
    assert "a single one of 200 sites can reach q ≤ 0.05" in str(limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effects = site_effects(planted_rows(0), dict.fromkeys(own_queries(40), "q"))
    assert effects[["p_value", "q_value"]].isna().all(axis=None)
    (limit,) = significance_limits(effects)
    assert (limit.sites_needed, limit.reachable) == (None, False)
    assert str(limit) == "heads (denoise): no test is possible with fewer than two queries"


def test_few_sign_flips_of_many_queries_are_said_to_reach_nothing_too() -> None:
    effects = site_effects(planted_rows(0), own_queries(40), n_flips=15)
    (limit,) = significance_limits(effects, n_flips=15)
    assert (limit.smallest_p_value, limit.reachable) == (1 / 16, False)
    assert effects.loc[list(PLANTED), "p_value"].tolist() == [1 / 16] * 4
    assert str(limit).endswith("none of 200 sites can reach q ≤ 0.05; use more sign flips")


def test_six_queries_are_the_fewest_that_can_be_below_one_in_twenty() -> None:
    assert next(n for n in range(2, 20) if smallest_p_value(n) <= 0.05) == 6
    assert smallest_p_value(14) == 2 / 2**14
    assert smallest_p_value(15) == 1 / 10_001  # 16,384 patterns are more than 10,000
    assert math.isnan(smallest_p_value(1))


def test_options_that_mean_nothing_are_refused() -> None:
    effects = pd.DataFrame({"q_value": [0.01], "ie": [0.5], "unstable_ie": [False]})
    with pytest.raises(InputError, match=r"most_q is 5\.0; .* such as 0\.05"):
        important_sites(effects, most_q=5.0)
    with pytest.raises(InputError, match=r"least_ie is -0\.1"):
        important_sites(effects, least_ie=-0.1)
    with pytest.raises(InputError, match="n_flips is 0; give at least 1"):
        sign_flip_p_values(np.ones((1, 2)), ["a", "b"], n_flips=0)
    with pytest.raises(InputError, match="changes of 2 pairs, but 3 query ids"):
        sign_flip_p_values(np.ones((1, 2)), ["a", "b", "c"])
