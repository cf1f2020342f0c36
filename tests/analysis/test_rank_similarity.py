"""Two rankings are alike as far as the textbook measures say, and ties do not pass for agreement."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_models import own_queries, random_rows, rows_of

from relscope.analysis import MEASURES, Similarity, rank_similarity
from relscope.analysis.similarity import RBO_P, similarities
from relscope.errors import InputError


def measured(base: list[float], tuned: list[float]) -> dict[str, float]:
    """All measures of two lists of |effect|; ties in the order of the lists."""
    ties = np.stack([np.arange(len(base))] * 2)
    found = similarities(np.array([base], dtype=float), np.array([tuned], dtype=float), ties)
    return {name: float(values[0]) for name, values in found.items()}


def by_measure(found: list[Similarity]) -> dict[str, Similarity]:
    return {one.measure: one for one in found}


def with_effects(effects: np.ndarray, n_pairs: int = 4) -> pd.DataFrame:
    return rows_of(np.tile(effects, (n_pairs, 1)), [9.0] * n_pairs, [0.0] * n_pairs)


def test_rank_biased_overlap_is_that_done_by_hand() -> None:
    # ranked a b c d and a c b d: in common among the first 1, 2, 3, 4 are 1, 1, 3, 4
    p = RBO_P
    by_hand = (1 - p) / p * (p * 1 / 1 + p**2 * 1 / 2 + p**3 * 3 / 3 + p**4 * 4 / 4) + p**4
    assert measured([4, 3, 2, 1], [4, 2, 3, 1])["rbo"] == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.955)


def test_rank_biased_overlap_of_reversed_lists_is_that_done_by_hand() -> None:
    # ranked a b c and c b a: in common 0, 1, 3
    p = RBO_P
    by_hand = (1 - p) / p * (p**2 * 1 / 2 + p**3) + p**3
    assert measured([3, 2, 1], [1, 2, 3])["rbo"] == pytest.approx(by_hand)


def test_correlations_are_those_done_by_hand() -> None:
    found = measured([4, 3, 2, 1], [4, 2, 3, 1])
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks are off by one
    assert found["kendall"] == pytest.approx((5 - 1) / 6)  # one of six pairs is out of order
    assert found["pearson"] == pytest.approx(0.8)


def test_overlap_counts_the_common_ones_among_the_first_ten() -> None:
    base = np.arange(30, 0, -1.0)
    tuned = base.copy()
    tuned[:3], tuned[20:23] = base[20:23], base[:3]  # three of the first ten change places with later ones
    found = measured(list(base), list(tuned))
    assert found["overlap_10"] == pytest.approx(0.7)
    assert found["overlap_20"] == pytest.approx(17 / 20)


def test_an_overlap_that_every_list_has_is_not_given() -> None:
    found = measured(list(range(10)), list(range(10)))
    assert np.isnan(found["overlap_10"])
    assert np.isnan(found["overlap_20"])


def test_all_correlations_are_those_of_scipy_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    base, tuned = rng.integers(0, 9, (5, 40)).astype(float), rng.integers(0, 9, (5, 40)).astype(float)
    found = similarities(base, tuned, np.stack([np.arange(40)] * 2))
    for row in range(5):
        assert found["spearman"][row] == pytest.approx(stats.spearmanr(base[row], tuned[row]).statistic)
        assert found["kendall"][row] == pytest.approx(stats.kendalltau(base[row], tuned[row]).statistic)
        assert found["pearson"][row] == pytest.approx(stats.pearsonr(base[row], tuned[row]).statistic)


def test_a_ranking_is_entirely_like_itself_whatever_the_scale_and_the_sign() -> None:
    effects = np.random.default_rng(0).normal(0, 1, 40)
    found = by_measure(rank_similarity(with_effects(effects), with_effects(-3 * effects), own_queries(4)))
    assert tuple(found) == MEASURES
    for one in found.values():
        assert one.value.value == pytest.approx(1.0)
        assert one.p_value == 1 / 1001  # no relabelling is as alike, and the measured one counts
        assert (one.n_sites, one.n_pairs, one.n_queries) == (40, 4, 4)


def test_reversed_rankings_are_unlike() -> None:
    effects = np.arange(1.0, 41.0)
    found = by_measure(rank_similarity(with_effects(effects), with_effects(41 - effects), own_queries(4)))
    for measure in ("spearman", "kendall", "pearson"):
        assert found[measure].value.value == pytest.approx(-1.0)
        assert found[measure].p_value == 1.0
    assert found["overlap_10"].value.value == 0.0


def test_unrelated_rankings_are_as_alike_as_chance_says() -> None:
    rng = np.random.default_rng(1)
    found = by_measure(
        rank_similarity(with_effects(rng.normal(0, 1, 100)), with_effects(rng.normal(0, 1, 100)), own_queries(4))
    )
    # 10 of 100 drawn twice share 1 on average; the mean of 1000 such draws has a standard error of 0.003
    assert found["overlap_10"].by_chance == pytest.approx(0.1, abs=0.015)
    assert found["spearman"].by_chance == pytest.approx(0.0, abs=0.02)
    assert found["spearman"].p_value > 0.05


def test_sites_without_any_effect_do_not_pass_for_agreement() -> None:
    rng = np.random.default_rng(2)
    base, tuned = np.zeros(400), np.zeros(400)
    base[[3, 5]], tuned[[7, 9]] = rng.normal(5, 1, 2), rng.normal(5, 1, 2)
    found = by_measure(rank_similarity(with_effects(base), with_effects(tuned), own_queries(4)))
    # 398 equal sites in the order of the rows would share 8 of the first ten
    assert found["overlap_10"].value.value <= 0.2
    assert found["rbo"].value.value < 0.2


def test_models_without_any_effect_have_no_ranking_to_compare() -> None:
    found = by_measure(rank_similarity(with_effects(np.zeros(30)), with_effects(np.zeros(30)), own_queries(4)))
    for measure in MEASURES:
        assert np.isnan([found[measure].value.value, found[measure].p_value, found[measure].by_chance]).all()


def test_intervals_come_from_resampled_queries_and_one_query_gives_none() -> None:
    base, tuned = random_rows(0), random_rows(0, n_pairs=8)
    noisy = tuned.assign(ld_patched=tuned["ld_patched"] + np.random.default_rng(5).normal(0, 1, len(tuned)))
    found = by_measure(rank_similarity(base, noisy, own_queries(8)))
    for one in found.values():
        assert one.value.low < one.value.high <= 1
    alone = by_measure(rank_similarity(base, noisy, dict.fromkeys(own_queries(8), "q")))
    assert alone["spearman"].value.value == found["spearman"].value.value
    assert np.isnan(alone["spearman"].value.low)


def test_only_pairs_that_have_every_site_in_both_models_count() -> None:
    base, tuned = random_rows(0), random_rows(1)
    cut = tuned.drop(tuned.index[[0, 35]])  # one site of p0 and one of p1
    kept = ~tuned["pair_id"].isin(["p0", "p1"])
    found = rank_similarity(base, cut, own_queries(8))
    assert found == rank_similarity(base[kept.to_numpy()], tuned[kept.to_numpy()], own_queries(8))
    assert found[0].n_pairs == 6


def test_two_sites_have_no_ranking_to_compare() -> None:
    assert rank_similarity(random_rows(0, n_sites=2), random_rows(1, n_sites=2), own_queries(8)) == []


def test_the_same_rows_give_the_same_numbers() -> None:
    one, again = (rank_similarity(random_rows(0), random_rows(1), own_queries(8)) for _ in range(2))
    assert one == again


def test_no_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="n_resamples is 0; give at least 1"):
        rank_similarity(random_rows(0), random_rows(1), own_queries(8), n_resamples=0)


def test_some_measures_are_the_same_as_among_all() -> None:
    base, tuned, query_of = random_rows(1), random_rows(2), own_queries(8)
    every = {found.measure: found for found in rank_similarity(base, tuned, query_of, n_resamples=50)}
    some = rank_similarity(base, tuned, query_of, measures=("pearson", "overlap_10"), n_resamples=50)
    assert some == [every["pearson"], every["overlap_10"]]
    with pytest.raises(InputError, match="measure 'r' does not exist"):
        rank_similarity(base, tuned, query_of, measures=("r",))
