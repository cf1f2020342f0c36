"""Two halves of the queries agree as far as the sites differ more than their queries do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_models import own_queries, random_rows, rows_of

from relscope.analysis import Estimate, Stability, split_half_stability
from relscope.errors import InputError


def rows_with(changes: np.ndarray, **options: str) -> pd.DataFrame:
    """Rows of these changes [pair, site], from LD 0 on."""
    return rows_of(changes, [4.0] * len(changes), [0.0] * len(changes), **options)


@pytest.mark.parametrize("n", range(2, 10))
def test_divisions_are_counted_as_they_can_be_listed(n: int) -> None:
    whole = frozenset(range(n))
    halves = {frozenset((frozenset(half), whole - set(half))) for half in itertools.combinations(whole, n // 2)}
    none = Estimate(math.nan, math.nan, math.nan)
    assert Stability("heads", "denoise", none, none, 9, n, n).n_divisions == len(halves)


def only(found: list[Stability]) -> Stability:
    (one,) = found
    return one


def test_two_queries_have_one_division_and_its_correlation_is_that_of_scipy() -> None:
    changes = np.random.default_rng(0).normal(0, 1, (4, 30))
    queries = {"p0": "a", "p1": "b", "p2": "b", "p3": "b"}
    found = only(split_half_stability(rows_with(changes), queries, n_splits=5))
    stored = changes.astype(np.float32).astype(np.float64)  # as rows hold them
    of_a, of_b = stored[0], stored[1:].mean(axis=0)
    for estimate, theirs in (
        (found.pearson, stats.pearsonr(of_a, of_b).statistic),
        (found.spearman, stats.spearmanr(of_a, of_b).statistic),
    ):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((theirs,) * 3, rel=1e-10)
    assert (found.n_sites, found.n_pairs, found.n_queries) == (30, 4, 2)


def test_the_mean_over_random_divisions_is_near_that_over_all_of_them() -> None:
    changes = np.random.default_rng(1).normal(0, 1, (5, 12)) + np.linspace(-1, 1, 12)
    of_every = []
    for half in itertools.combinations(range(5), 2):  # two queries against three
        rest = [i for i in range(5) if i not in half]
        of_every.append(np.corrcoef(changes[list(half)].mean(axis=0), changes[rest].mean(axis=0))[0, 1])
    found = only(split_half_stability(rows_with(changes), own_queries(5), n_splits=4000))
    # ten divisions, each drawn about 400 times; a standard error of the mean of 4000 draws, four times over
    assert found.pearson.value == pytest.approx(np.mean(of_every), abs=4 * np.std(of_every) / math.sqrt(4000))
    # the tails of so few different values are the least and the largest of them, float32 rows apart
    assert found.pearson.low == pytest.approx(min(of_every), abs=1e-6)
    assert found.pearson.high == pytest.approx(max(of_every), abs=1e-6)


def test_queries_that_all_agree_give_one_and_queries_of_noise_give_zero() -> None:
    rng = np.random.default_rng(2)
    same = only(split_half_stability(rows_with(np.tile(rng.normal(0, 1, 50), (6, 1))), own_queries(6)))
    for estimate in (same.spearman, same.pearson):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.0, 1.0, 1.0))
    assert same.pearson_of_whole == pytest.approx(1.0)
    noise = only(split_half_stability(rows_with(rng.normal(0, 1, (40, 500))), own_queries(40)))
    # 500 sites: a correlation has a standard error of 0.045
    assert noise.pearson.value == pytest.approx(0.0, abs=0.1)
    assert noise.spearman.value == pytest.approx(0.0, abs=0.1)


def test_spearman_brown_gives_what_two_whole_runs_reach() -> None:
    rng = np.random.default_rng(3)
    sites = rng.normal(0, 1, 3000)
    runs = [sites + rng.normal(0, 4, (20, 3000)) for _ in range(2)]
    found = only(split_half_stability(rows_with(runs[0]), own_queries(20), n_splits=100))
    measured = np.corrcoef(*(run.mean(axis=0) for run in runs))[0, 1]
    # the variance of a half's mean is 1 + 16 / 10, of a whole run's 1 + 16 / 20; 3000 sites: standard errors of 0.015
    assert found.pearson.value == pytest.approx(1 / 2.6, abs=0.06)
    assert found.pearson_of_whole == pytest.approx(1 / 1.8, abs=0.06)
    assert found.pearson_of_whole == pytest.approx(measured, abs=0.06)
    r = found.pearson.value
    assert found.pearson_of_whole == pytest.approx(2 * r / (1 + r), rel=1e-12)


def test_halves_that_contradict_each_other_have_no_reliability() -> None:
    changes = np.random.default_rng(4).normal(0, 1, 20)
    found = only(split_half_stability(rows_with(np.stack([changes, -changes])), own_queries(2)))
    assert found.pearson.value == pytest.approx(-1.0)
    assert math.isnan(found.pearson_of_whole)


def test_pairs_of_one_query_fall_into_the_same_half() -> None:
    # the pairs of a query are copies of each other: over pairs, both halves would hold them and agree
    rng = np.random.default_rng(5)
    changes = np.repeat(rng.normal(0, 1, (8, 400)), 6, axis=0)
    found = only(split_half_stability(rows_with(changes), {f"p{i}": f"q{i // 6}" for i in range(48)}))
    assert found.pearson.value == pytest.approx(0.0, abs=0.2)  # four standard errors of 400 sites
    assert found.n_queries == 8


def test_each_experiment_and_direction_has_its_own() -> None:
    flow = random_rows(0, experiment="flow")
    heads = random_rows(1)
    noise = random_rows(2, direction="noise")
    found = split_half_stability(pd.concat([flow, heads, noise], ignore_index=True), own_queries(8))
    assert [(one.experiment, one.direction) for one in found] == [
        ("flow", "denoise"),
        ("heads", "denoise"),
        ("heads", "noise"),
    ]
    for one, rows in zip(found, (flow, heads, noise), strict=True):
        assert one == only(split_half_stability(rows, own_queries(8)))


def test_only_pairs_with_every_site_of_the_experiment_count() -> None:
    rows = random_rows(0)
    cut = rows.drop(rows.index[[0, 35]])  # one site of p0 and one of p1
    whole = rows[~rows["pair_id"].isin(["p0", "p1"])]
    found = only(split_half_stability(cut, own_queries(8)))
    expected = only(split_half_stability(whole, own_queries(8)))
    assert found.n_pairs == expected.n_pairs == 6
    # the same sums, of sites in another order
    assert found.pearson.value == pytest.approx(expected.pearson.value, rel=1e-12)


def test_one_query_two_sites_or_no_effect_at_all_give_no_number() -> None:
    for rows, queries in (
        (random_rows(0), dict.fromkeys(own_queries(8), "q")),
        (random_rows(0, n_sites=2), own_queries(8)),
        (rows_with(np.zeros((8, 30))), own_queries(8)),
    ):
        found = only(split_half_stability(rows, queries))
        assert np.isnan([found.spearman.value, found.pearson.value, found.pearson.low, found.pearson_of_whole]).all()
        assert found.n_pairs == 8
    assert split_half_stability(random_rows(0).iloc[:0], own_queries(8)) == []


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = only(split_half_stability(random_rows(0), own_queries(8), n_splits=50))
    monkeypatch.setattr("relscope.analysis.stability._MOST_CELLS", 100)  # three divisions at a time
    assert only(split_half_stability(random_rows(0), own_queries(8), n_splits=50)).pearson.value == pytest.approx(
        whole.pearson.value, rel=1e-12
    )


def test_no_divisions_are_refused() -> None:
    with pytest.raises(InputError, match="n_splits is 0; give at least 1"):
        split_half_stability(random_rows(0), own_queries(8), n_splits=0)
