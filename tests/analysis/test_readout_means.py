"""Means of readouts, the score S against effects, and joint effects are those done by hand and done slowly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_models import own_queries, rows_of

from relscope.analysis import (
    bootstrap_weights,
    clean_minus_corrupted,
    interaction_score_means,
    joint_interactions,
    readout_means,
    remainder,
    score_correlations,
)
from relscope.errors import InputError
from relscope.results import rows_table

QUERY_OF = {"p0": "a", "p1": "a", "p2": "b"}


def table(values: dict[str, list[float]]) -> pd.DataFrame:
    """An item a key, a pair a value."""
    rows = [(item, f"p{n}", value) for item, of_pairs in values.items() for n, value in enumerate(of_pairs)]
    return pd.DataFrame(rows, columns=["item", "pair_id", "value"])


def interaction(differences: list[list[float]]) -> pd.DataFrame:
    """s(q, d) of head i of layer 0 on pair j: `differences[i][j]` more with the positive document."""
    rows = [(f"p{j}", 0, i, 1.0 + d, 1.0) for i, of in enumerate(differences) for j, d in enumerate(of)]
    return pd.DataFrame(rows, columns=["pair_id", "layer", "head", "positive", "negative"])


def joint_rows(effects: dict[str, list[float]], direction: str = "denoise") -> pd.DataFrame:
    """Rows of sets: LD is 3 in the clean run and -1 in the corrupted one, and the effect away from the start."""
    names = [(name, f"p{n}", effect) for name, of in effects.items() for n, effect in enumerate(of)]
    start = -1.0 if direction == "denoise" else 3.0
    nothing = [None] * len(names)
    columns = dict.fromkeys(("head", "region", "dest"), nothing)
    columns |= {"component": ["joint"] * len(names), "layer": [0] * len(names), "direction": [direction] * len(names)}
    columns |= {"pair_id": [pair for _, pair, _ in names], "src": [name for name, _, _ in names]}
    patched = np.array([start + effect for _, _, effect in names])
    values = {"clean": np.full(len(names), 3.0), "corrupted": np.full(len(names), -1.0), "patched": patched}
    columns |= {f"ld_{run}": value for run, value in values.items()}
    columns |= {f"p_{run}": np.tanh(value / 2) for run, value in values.items()}
    return rows_table("joint", columns).to_pandas().astype({"layer": "Int16"})


def test_a_mean_is_over_pairs_and_its_interval_over_queries() -> None:
    means = readout_means(table({"x": [1.0, 3.0, 8.0], "y": [2.0, 2.0, 2.0]}), ["item"], QUERY_OF)
    assert list(means["item"]) == ["x", "y"]
    assert list(means["mean"]) == [4.0, 2.0]
    assert set(means["n_pairs"]) == {3}
    assert set(means["n_queries"]) == {2}
    # drawn are a twice, both, or b twice: means of 2, 4 and 8, the first and the last each in a quarter of all draws
    assert (means["low"][0], means["high"][0]) == (2.0, 8.0)
    assert (means["low"][1], means["high"][1]) == (2.0, 2.0)


def test_the_interval_is_that_of_a_slow_bootstrap() -> None:
    values = np.random.default_rng(3).normal(size=(2, 7))
    query_of = {f"p{i}": f"q{i // 2}" for i in range(7)}
    means = readout_means(table({"x": list(values[0]), "y": list(values[1])}), ["item"], query_of, n_resamples=200)
    weights = bootstrap_weights([query_of[f"p{i}"] for i in range(7)], 200, 0)
    for i in range(2):
        resampled = [float((w * values[i]).sum() / w.sum()) for w in weights]
        np.testing.assert_allclose(means["low"][i], np.quantile(resampled, 0.025), rtol=1e-12)  # float64 sums
        np.testing.assert_allclose(means["high"][i], np.quantile(resampled, 0.975), rtol=1e-12)


def test_one_query_has_a_mean_and_no_interval() -> None:
    means = readout_means(table({"x": [1.0, 2.0]}), ["item"], {"p0": "a", "p1": "a"})
    assert means["mean"][0] == 1.5
    assert np.isnan(means["low"][0])
    assert np.isnan(means["high"][0])


def test_nulls_name_an_item_like_any_value() -> None:
    parts = table({"mlp": [1.0, 1.0, 1.0], "embedding": [2.0, 2.0, 2.0]})
    parts["layer"] = pd.array([3, 3, 3, None, None, None], dtype="Int16")
    means = readout_means(parts, ["item", "layer"], QUERY_OF)
    assert list(means["mean"]) == [1.0, 2.0]
    assert means["layer"].isna().tolist() == [False, True]


@pytest.mark.parametrize("change", ["lacks", "repeats"])
def test_an_item_that_is_not_once_on_every_pair_is_refused(change: str) -> None:
    whole = table({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]})
    changed = whole[1:] if change == "lacks" else pd.concat([whole[1:], whole[1:2]])
    with pytest.raises(InputError, match="once on every pair"):
        readout_means(changed, ["item"], QUERY_OF)


def test_clean_minus_corrupted_is_taken_pair_by_pair() -> None:
    both = pd.concat([table({"x": [5.0, 6.0]}).assign(run="clean"), table({"x": [1.0, 4.0]}).assign(run="corrupted")])
    assert list(clean_minus_corrupted(both, ["item"], "value")["value"]) == [4.0, 2.0]
    with pytest.raises(InputError, match="2 values of clean runs, 1 of corrupted"):
        clean_minus_corrupted(both[:3], ["item"], "value")


def test_the_remainder_is_that_of_the_worst_run() -> None:
    parts = [("p0", "mlp", 1.0), ("p0", "head", 2.0), ("p0", "logit_diff", 3.0)]
    parts += [("p1", "mlp", 1.0), ("p1", "head", 2.0), ("p1", "logit_diff", 2.5)]
    found = remainder(pd.DataFrame(parts, columns=["pair_id", "part", "value"]).assign(run="clean"))
    assert (found.largest, found.n_runs) == (0.5, 2)
    none = remainder(pd.DataFrame(columns=["pair_id", "run", "part", "value"]))
    assert np.isnan(none.largest)


def test_s_weighs_every_query_once_however_many_pairs_it_has() -> None:
    means = interaction_score_means(interaction([[1.0, 3.0, 5.0]]), QUERY_OF)
    assert means["mean"][0] == (2.0 + 5.0) / 2
    assert means["n_queries"][0] == 2


def test_scores_against_effects_are_the_correlations_of_scipy() -> None:
    rng = np.random.default_rng(5)
    scores, effects = rng.normal(size=(6, 8)), rng.normal(size=(8, 6))
    rows = rows_of(effects - 2.0, [2.0] * 8, [-2.0] * 8)
    (found,) = score_correlations(interaction(scores.tolist()), rows, own_queries(8), n_resamples=50)
    of_heads = (scores.mean(axis=1), effects.mean(axis=0))
    # float32 rows
    assert found.spearman.value == pytest.approx(stats.spearmanr(*of_heads).statistic, abs=1e-6)
    assert found.pearson.value == pytest.approx(stats.pearsonr(*of_heads).statistic, abs=1e-6)
    resampled = [
        stats.pearsonr(scores @ w / w.sum(), effects.T @ w / w.sum()).statistic
        for w in bootstrap_weights([f"q{i}" for i in range(8)], 50, 0)
    ]
    assert found.pearson.low == pytest.approx(np.quantile(resampled, 0.025), abs=1e-6)
    assert found.pearson.high == pytest.approx(np.quantile(resampled, 0.975), abs=1e-6)
    assert (found.n_heads, found.n_pairs, found.n_queries) == (6, 8, 8)


def test_six_heads_in_the_same_order_are_seldom_so_by_chance() -> None:
    effects = np.repeat(np.arange(6.0)[None], 4, axis=0)
    rows = rows_of(effects - 2.0, [2.0] * 4, [-2.0] * 4)
    same = interaction([[float(head)] * 4 for head in range(6)])
    (found,) = score_correlations(same, rows, own_queries(4), n_resamples=5000)
    assert found.spearman.value == pytest.approx(1.0)
    # of 720 orders two have |r| = 1; 5000 draws of 2/720: 14 expected, standard deviation 4
    assert 2 / 720 - 4 * 4 / 5000 < found.p_value < 2 / 720 + 4 * 4 / 5000


def test_pairs_without_a_score_or_an_effect_are_left_out_of_both() -> None:
    rows = rows_of(np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [9.0, 1.0, 2.0]]), [2.0] * 3, [-2.0] * 3)
    scores = interaction([[0.0, 0.0, 50.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    (found,) = score_correlations(scores[scores["pair_id"] != "p2"], rows, own_queries(3))
    assert found.n_pairs == 2
    assert found.pearson.value == pytest.approx(1.0)


def test_two_heads_have_no_correlation_to_speak_of() -> None:
    rows = rows_of(np.zeros((3, 2)), [2.0] * 3, [-2.0] * 3)
    assert score_correlations(interaction([[1.0] * 3, [2.0] * 3]), rows, own_queries(3)) == []


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_an_interaction_is_the_joint_effect_less_the_single_ones(direction: str) -> None:
    effects = {"L0H0@last": [1.0, 3.0], "L0H1@last": [2.0, 2.0], "L0H0@last+L0H1@last": [2.0, 6.0]}
    sets = joint_interactions(joint_rows(effects, direction), own_queries(2)).set_index("src")
    both = sets.loc["L0H0@last+L0H1@last"]
    assert both["n_heads"] == 2
    assert both["effect"] == 4.0
    assert both["sum_of_singles"] == 4.0
    assert both["interaction"] == 0.0
    # pair by pair it is -1 and 1, and whole resamples of two queries are -1, 0 or 1
    assert (both["interaction_low"], both["interaction_high"]) == (-1.0, 1.0)
    assert sets.loc["L0H0@last", "interaction"] == 0.0
    assert sets.loc["L0H0@last", "interaction_high"] == 0.0


def test_a_set_with_a_head_whose_single_effect_is_missing_is_left_out() -> None:
    effects = {"L0H0@last": [1.0], "L0H0@last+L0H1@last": [2.0]}
    sets = joint_interactions(joint_rows(effects), own_queries(1))
    assert list(sets["src"]) == ["L0H0@last"]
    assert np.isnan(sets["interaction_low"][0])  # one query


def test_sets_are_compared_on_the_pairs_that_have_all_of_them() -> None:
    effects = {"L0H0@last": [1.0, 9.0], "L0H1@last": [2.0], "L0H0@last+L0H1@last": [3.5]}
    sets = joint_interactions(joint_rows(effects), own_queries(2)).set_index("src")
    assert sets.loc["L0H0@last", "effect"] == 1.0
    assert sets.loc["L0H0@last+L0H1@last", "interaction"] == 0.5
    assert set(sets["n_pairs"]) == {1}


def test_without_any_set_there_is_a_table_without_rows() -> None:
    assert len(joint_interactions(rows_of(np.zeros((2, 3)), [1.0] * 2, [0.0] * 2), own_queries(2))) == 0
