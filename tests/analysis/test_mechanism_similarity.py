"""Runs of one mechanism are alike, others are as alike as chance says, and a run is not said to agree beyond itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_runs import SHAPE, noisy, run_of, sites_of

from relscope.analysis import MEASURES, MechanismSimilarity, RunEffects, bootstrap_weights, mechanism_similarity
from relscope.analysis.mechanisms import joint_shares
from relscope.analysis.stability import half_shares
from relscope.errors import InputError

N_SITES = SHAPE[0] * SHAPE[1]


def at_last(effects: np.ndarray, queries: list[str] | None = None) -> RunEffects:
    """A run of heads at the last token, [site, pair]."""
    return run_of(sites_of(places=["last"]), effects, queries=queries)


def only(one: RunEffects, other: RunEffects, **options: int) -> MechanismSimilarity:
    (found,), unmatched = mechanism_similarity(one, other, **options)
    assert unmatched == []
    return found


def planted(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, N_SITES)


def test_a_run_is_entirely_like_itself_and_chance_is_far_below() -> None:
    run = at_last(noisy(planted(), 8, 0))
    found = only(run, run)
    assert tuple(one.measure for one in found.measures) == MEASURES
    for one in found.measures:
        # the same queries are drawn in both runs, so that every resample agrees entirely
        assert (one.value.value, one.value.low, one.value.high) == pytest.approx((1.0, 1.0, 1.0))
        assert one.chance.p_value == 1 / 1001
        assert one.chance.mean < 0.75  # 30 sites: overlap at 20 by chance is 2/3
        assert one.ceilings[0] == one.ceilings[1] < 1
    assert (found.n_sites, found.n_pairs, found.n_queries, found.same_queries) == (N_SITES, (8, 8), (8, 8), True)


def test_runs_whose_sites_are_shuffled_are_as_alike_as_chance_says() -> None:
    mean = np.random.default_rng(3).standard_t(3, 300)
    shuffled = mean[np.random.default_rng(4).permutation(300)]
    shape = (30, 10)
    sites = sites_of(shape, ["last"])
    found = only(run_of(sites, noisy(mean, 6, 0), shape), run_of(sites, noisy(shuffled, 6, 1), shape))
    for one in found.measures:
        assert one.chance.p_value > 0.05
    # 10 of 300 drawn twice share a thirtieth on average; the mean of 1000 such draws has a standard error of 0.002
    assert found.of("overlap_10").chance.mean == pytest.approx(1 / 30, abs=0.01)
    assert found.of("rbo").value.value < 0.25


def test_a_shared_profile_over_layers_beats_chance_but_not_chance_within_layers() -> None:
    shape = (12, 10)
    sites = sites_of(shape, ["last"])
    of_layer = np.repeat(np.arange(12.0), 10)
    rng = np.random.default_rng(5)
    one, other = (run_of(sites, noisy(of_layer + rng.normal(0, 1, 120), 6, i), shape) for i in range(2))
    rank = only(one, other).of("spearman")
    assert rank.chance.p_value == 1 / 1001
    assert rank.in_layers is not None
    assert rank.in_layers.mean > 0.8  # layers alone order most of the sites
    assert rank.in_layers.p_value > 0.05


def test_the_same_heads_beat_chance_within_layers() -> None:
    one, other = (at_last(noisy(planted(), 6, i, noise=0.1)) for i in range(2))
    in_layers = only(one, other).of("rbo").in_layers
    assert in_layers is not None
    assert in_layers.p_value < 0.01


def test_modules_have_no_chance_within_layers_for_they_stand_alone_there() -> None:
    sites = sites_of(places=["last"], experiment="flow", component="attn_out")
    one, other = (run_of(sites, noisy(np.arange(6.0), 4, i)) for i in range(2))
    assert all(measured.in_layers is None for measured in only(one, other).measures)


def test_intervals_of_the_same_queries_are_those_of_a_loop_over_resamples() -> None:
    effects = noisy(planted(), 6, 0), noisy(planted(), 6, 1)
    queries = ["a", "b", "b", "c", "d", "e"]
    found = only(*(at_last(e, queries) for e in effects), n_resamples=60, seed=7)
    slow = []
    for weights in bootstrap_weights(queries, 60, 7):
        means = [np.abs(np.average(e, axis=1, weights=weights)) for e in effects]
        slow.append((stats.spearmanr(*means).statistic, stats.kendalltau(*means).statistic, stats.pearsonr(*means)[0]))
    for measure, values in zip(("spearman", "kendall", "pearson"), np.transpose(slow), strict=True):
        value = found.of(measure).value
        assert (value.low, value.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_runs_of_other_queries_are_resampled_apart() -> None:
    effects = noisy(planted(), 6, 0)
    one, other = at_last(effects), at_last(effects, [f"other {i}" for i in range(6)])
    found = only(one, other)
    assert not found.same_queries
    rank = found.of("spearman").value
    assert rank.value == pytest.approx(1.0)
    assert rank.high < 1  # each run draws its own queries, so that no resample agrees entirely


def test_a_query_that_both_runs_have_weighs_the_same_in_both() -> None:
    one = ("a", "b", "b", "c", "d", "e")
    other = ("b", "d", "d", "x")
    first, second = joint_shares(one, other, 4000, 0)
    for shares in (first, second):
        np.testing.assert_allclose(shares.sum(axis=0), 1.0)  # no resample is without a query of a run
    np.testing.assert_array_equal(first[1], first[2])
    # b against d has one ratio in both runs, whatever the sums are
    np.testing.assert_allclose(first[1] * second[1], first[4] * second[0], atol=1e-12)


def test_a_run_and_a_part_of_its_queries_draw_a_loops_resamples() -> None:
    effects = noisy(planted(), 8, 0)
    found = only(at_last(effects), at_last(effects[:, :3]), n_resamples=80, seed=5)
    assert (found.n_queries, found.n_shared_queries, found.same_queries) == ((8, 3), 3, False)
    generator, slow = np.random.default_rng(5), []
    counts = generator.multinomial(8, np.full(8, 1 / 8), size=80)
    while (empty := counts[:, :3].sum(axis=1) == 0).any():
        counts[empty] = generator.multinomial(8, np.full(8, 1 / 8), size=int(empty.sum()))
    for drawn in counts:
        means = [np.abs(np.average(effects[:, :n], axis=1, weights=drawn[:n])) for n in (8, 3)]
        slow.append(stats.spearmanr(*means).statistic)
    value = found.of("spearman").value
    assert (value.low, value.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)


def test_the_ceiling_is_the_mean_over_halves_of_the_queries() -> None:
    effects = noisy(planted(), 5, 0, noise=1.0)
    run = at_last(effects)
    found = only(run, at_last(noisy(planted(), 5, 1)), n_splits=20, seed=3)
    slow = {"spearman": [], "kendall": [], "pearson": []}
    for first, second in zip(*(shares.T for shares in half_shares(run.changes.query_ids, 20, 3)), strict=True):
        means = [np.abs(np.average(effects, axis=1, weights=half)) for half in (first, second)]
        slow["spearman"].append(stats.spearmanr(*means).statistic)
        slow["kendall"].append(stats.kendalltau(*means).statistic)
        slow["pearson"].append(stats.pearsonr(*means)[0])
    for measure, values in slow.items():
        assert found.of(measure).ceilings[0] == pytest.approx(np.mean(values), abs=1e-12)
        assert found.of(measure).ceilings_low[0] == pytest.approx(np.quantile(values, 0.025), abs=1e-12)


def test_a_quieter_run_has_the_higher_ceiling() -> None:
    found = only(at_last(noisy(planted(), 8, 0, noise=3.0)), at_last(noisy(planted(), 8, 1, noise=0.1)))
    for one in found.measures:
        assert one.ceilings[0] < one.ceilings[1] <= 1


def test_one_query_gives_neither_interval_nor_ceiling() -> None:
    effects = noisy(planted(), 4, 0)
    found = only(at_last(effects, ["q"] * 4), at_last(effects, ["q"] * 4))
    for one in found.measures:
        assert one.value.value == pytest.approx(1.0)
        assert np.isnan([one.value.low, one.value.high, *one.ceilings]).all()


def test_a_run_without_any_effect_has_nothing_to_rank() -> None:
    found = only(at_last(np.zeros((N_SITES, 4))), at_last(noisy(planted(), 4, 0)))
    for one in found.measures:
        assert math.isnan(one.value.value)
        assert math.isnan(one.chance.p_value)


def test_points_keep_the_sign_and_the_measures_do_not() -> None:
    effects = noisy(planted(), 4, 0)
    found = only(at_last(effects), at_last(-2 * effects))
    np.testing.assert_allclose(found.points["other"], -2 * found.points["one"])
    assert found.of("pearson").value.value == pytest.approx(1.0)


def test_two_sites_and_sites_that_no_pair_has_together_are_listed_as_not_compared() -> None:
    shape = (2, 1)
    sites = sites_of(shape, ["query", "last"])
    holes = np.where(np.eye(4, 3, dtype=bool), np.nan, 1.0)  # each of three pairs lacks another site
    holes[3, 0] = np.nan
    one, other = run_of(sites, noisy(np.ones(4), 3, 0), shape), run_of(sites, holes, shape)
    found, unmatched = mechanism_similarity(one, other)
    assert found == []
    assert [(left.place, left.reason) for left in unmatched] == [
        ("query, last", "no pair of one of the runs has all of these sites yet"),
        ("query", "fewer than 3 sites have no ranking to speak of"),
        ("last", "fewer than 3 sites have no ranking to speak of"),
    ]


def test_models_of_two_shapes_with_one_profile_are_alike_by_depth() -> None:
    def run(shape: tuple[int, int], seed: int, late: float) -> RunEffects:
        sites = sites_of(shape, ["query", "last"])
        depth = sites["layer"].to_numpy(dtype=float) / (shape[0] - 1)
        mean = np.where(sites["region"] == "last", depth**2, late - depth) + 0.2
        return run_of(sites, noisy(mean, 6, seed, noise=0.02), shape)

    found, unmatched = mechanism_similarity(run((6, 4), 0, 1.0), run((15, 7), 1, 1.0))
    assert unmatched == []
    assert [(one.matched.by, one.n_sites) for one in found] == [("depth", 12), ("depth", 6), ("depth", 6)]
    assert found[0].of("pearson").value.value > 0.98
    assert found[0].of("spearman").chance.p_value < 0.01


def test_the_same_runs_give_the_same_numbers() -> None:
    one, other = (at_last(noisy(planted(), 5, i)) for i in range(2))
    assert only(one, other).measures == only(one, other).measures


@pytest.mark.parametrize("options", [{"n_resamples": 0}, {"n_splits": 0}])
def test_no_resamples_or_divisions_are_refused(options: dict[str, int]) -> None:
    run = at_last(noisy(planted(), 3, 0))
    with pytest.raises(InputError, match=f"{next(iter(options))} is 0; give at least 1"):
        mechanism_similarity(run, run, **options)


def test_joint_patches_are_each_runs_own_and_are_not_compared() -> None:
    def run(seed: int) -> RunEffects:
        heads = sites_of(places=["last"])
        sites = pd.concat(
            [heads, heads.assign(experiment="joint", component="joint", head=pd.NA, region=None)], ignore_index=True
        ).astype({"head": "Int16"})
        return run_of(sites, noisy(np.ones(len(sites)), 3, seed))

    found, unmatched = mechanism_similarity(run(0), run(1))
    assert [one.matched.experiment for one in found] == ["heads"]
    reason = "each run patches sets of heads of its own together"
    assert [(left.experiment, left.place, left.which, left.reason) for left in unmatched] == [
        ("joint", "sets of heads", "one", reason),
        ("joint", "sets of heads", "other", reason),
    ]
