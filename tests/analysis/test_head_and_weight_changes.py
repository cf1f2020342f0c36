"""How far heads and weights moved is a ratio of root sums of squares, joined to the right effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_models import own_queries, random_rows

from relscope.analysis import (
    bootstrap_weights,
    effect_differences,
    head_moves,
    move_correlations,
    moved_and_matters,
    part_moves,
    weight_moves,
)
from relscope.errors import InputError


def changes_of(distance: np.ndarray, norm: np.ndarray, region: str = "last") -> pd.DataFrame:
    """`distance` and `norm` are [pair, prompt, head] of layer 0."""
    pair, prompt, head = (index.ravel() for index in np.indices(distance.shape))
    return pd.DataFrame(
        {
            "pair_id": [f"p{i}" for i in pair],
            "prompt": np.array(["clean", "corrupted"])[prompt],
            "layer": np.zeros(len(pair), dtype=np.int16),
            "head": head.astype(np.int16),
            "region": region,
            "norm_base": norm.ravel().astype(np.float32),
            "norm_tuned": norm.ravel().astype(np.float32),
            "distance": distance.ravel().astype(np.float32),
        }
    )


def weights_of(*rows: tuple[str, int | None, int | None, str, float, float]) -> pd.DataFrame:
    names = ["name", "layer", "head", "part", "norm_base", "norm_change"]
    frame = pd.DataFrame(rows, columns=names).assign(n_values=100)
    return frame.astype({"layer": "Int16", "head": "Int16"})


def test_moved_is_the_ratio_of_root_sums_done_by_hand() -> None:
    # distances 3, 4 and norms 6, 8: sqrt(9 + 16) / sqrt(36 + 64)
    changes = changes_of(np.array([[[3.0], [4.0]]]), np.array([[[6.0], [8.0]]]))
    (head,) = head_moves(changes, own_queries(1)).to_dict("records")
    assert head["moved"] == 0.5
    assert np.isnan(head["moved_low"])  # one query


def test_a_prompt_on_which_the_head_is_silent_does_not_dominate() -> None:
    distance, norm = np.array([[[1.0], [0.001]]]), np.array([[[10.0], [0.0001]]])  # 10 % and 1000 %
    (head,) = head_moves(changes_of(distance, norm), own_queries(1)).to_dict("records")
    assert head["moved"] == pytest.approx(0.1, rel=1e-4)  # the silent prompt adds a millionth


def test_models_that_are_the_same_did_not_move() -> None:
    changes = changes_of(np.zeros((4, 2, 3)), np.ones((4, 2, 3)))
    moves = head_moves(changes, own_queries(4))
    assert (moves[["moved", "moved_low", "moved_high"]] == 0).all(axis=None)
    assert (moves["n_pairs"] == 4).all()


def test_a_head_that_writes_nothing_anywhere_has_no_relative_distance() -> None:
    moves = head_moves(changes_of(np.ones((2, 2, 1)), np.zeros((2, 2, 1))), own_queries(2))
    assert moves["moved"].isna().all()


def test_the_interval_is_that_of_a_bootstrap_done_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    distance, norm = rng.uniform(0, 1, (6, 2, 2)), rng.uniform(1, 2, (6, 2, 2))
    query_of = {f"p{i}": f"q{i // 2}" for i in range(6)}
    moves = head_moves(changes_of(distance, norm), query_of, n_resamples=150, seed=3)
    counts = bootstrap_weights([query_of[f"p{i}"] for i in range(6)], 150, 3).astype(int)
    for head in range(2):
        values = []
        for drawn in counts:
            pairs = np.repeat(np.arange(6), drawn)
            values.append(np.sqrt((distance[pairs, :, head] ** 2).sum() / (norm[pairs, :, head] ** 2).sum()))
        low, high = np.quantile(values, [0.025, 0.975])
        # norms are stored in float32
        assert moves["moved_low"][head] == pytest.approx(low, rel=1e-6)
        assert moves["moved_high"][head] == pytest.approx(high, rel=1e-6)


def test_weights_move_by_the_share_of_their_norm_for_each_head() -> None:
    weights = weights_of(
        ("l0.q", 0, 0, "q", 4.0, 1.0),
        ("l0.q", 0, 1, "q", 4.0, 2.0),
        ("l0.o", 0, 0, "o", 2.0, 0.0),
        ("l0.o", 0, 1, "o", 2.0, 1.0),
        ("l0.k", 0, 0, "k", 1.0, 1.0),
        ("l0.q", 0, None, "q", 9.0, 9.0),  # the whole matrix is no head's
    )
    moves = weight_moves(weights)
    assert moves.to_dict("list") == {"layer": [0, 0], "head": [0, 1], "moved_q": [0.25, 0.5], "moved_o": [0.0, 0.5]}


def test_parts_move_by_root_sums_over_their_matrices_and_name_the_layer_that_moved_most() -> None:
    weights = weights_of(
        ("l0.mlp", 0, None, "mlp", 3.0, 0.0),
        ("l1.mlp", 1, None, "mlp", 4.0, 2.0),
        ("l0.q", 0, None, "q", 1.0, 0.0),
        ("l0.q", 0, 0, "q", 1.0, 1.0),  # a head's slice is counted with its matrix already
        ("embed", None, None, "embedding", 5.0, 1.0),
    )
    found = part_moves(weights).set_index("part")
    assert list(found.index) == ["q", "mlp", "embedding"]
    assert found.loc["mlp", "moved"] == pytest.approx(2 / 5)
    assert (found.loc["mlp", "layer"], found.loc["mlp", "layer_moved"]) == (1, 0.5)
    assert (found.loc["mlp", "n_matrices"], found.loc["mlp", "n_values"]) == (2, 200)
    assert found.loc["q", "moved"] == 0.0
    assert found.loc["embedding", "moved"] == 0.2
    assert found["layer"].isna()["embedding"]


def test_every_head_is_joined_to_its_own_effect_and_weights() -> None:
    changes = changes_of(np.tile([0.1, 0.2, 0.3], (8, 2, 1)), np.ones((8, 2, 3)))
    differences = effect_differences(random_rows(0, n_sites=3), random_rows(1, n_sites=3), own_queries(8))
    weights = weight_moves(weights_of(("l0.q", 0, 1, "q", 1.0, 0.5), ("l0.o", 0, 1, "o", 1.0, 0.25)))
    joined = moved_and_matters(head_moves(changes, own_queries(8)), weights, differences).set_index("head")
    np.testing.assert_allclose(joined["moved"], [0.1, 0.2, 0.3], rtol=1e-6)  # stored in float32
    np.testing.assert_array_equal(joined["difference"], differences["difference"])
    assert (joined.loc[1, "moved_q"], joined.loc[1, "moved_o"]) == (0.5, 0.25)
    assert joined["moved_q"].isna().to_list() == [True, False, True]
    assert moved_and_matters(head_moves(changes, own_queries(8)), None, differences)["moved_o"].isna().all()


def test_two_directions_at_once_are_refused() -> None:
    rows = random_rows(0, n_sites=3)
    both = pd.concat([rows, rows.assign(direction="noise")])
    differences = effect_differences(both, both, own_queries(8))
    changes = changes_of(np.ones((8, 2, 3)), np.ones((8, 2, 3)))
    with pytest.raises(InputError, match="choose one direction first"):
        moved_and_matters(head_moves(changes, own_queries(8)), None, differences)
    with pytest.raises(InputError, match="give the rows of one direction"):
        move_correlations(changes, both, both, own_queries(8))


def test_the_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(4)
    base, tuned = random_rows(0), random_rows(1)
    distance = rng.uniform(0, 1, (8, 2, 30))
    changes = changes_of(distance, np.ones((8, 2, 30)))
    differences = effect_differences(base, tuned, own_queries(8))
    moved = np.sqrt((distance**2).mean(axis=(0, 1)))
    for found in move_correlations(changes, base, tuned, own_queries(8)):
        expected = stats.spearmanr(moved, differences[found.matters].abs()).statistic
        assert found.correlation.value == pytest.approx(expected)
        assert found.correlation.low < found.correlation.high
        assert (found.region, found.n_heads, found.n_pairs) == ("last", 30, 8)
        # scipy's own approximation of the p value; 1000 relabellings are good to some 0.02
        assert found.p_value == pytest.approx(stats.spearmanr(moved, differences[found.matters].abs()).pvalue, abs=0.05)


def test_heads_that_moved_as_far_as_they_matter_correlate_entirely() -> None:
    base, tuned = random_rows(0), random_rows(1)
    differences = effect_differences(base, tuned, own_queries(8))
    size = differences["effect_tuned"].abs().to_numpy()
    # the order of the tables and of their heads does not matter
    changes = changes_of(np.tile(size, (8, 2, 1)), np.ones((8, 2, 30))).sample(frac=1, random_state=0)
    by_kind = {one.matters: one for one in move_correlations(changes, base, tuned, own_queries(8))}
    assert by_kind["effect_tuned"].correlation.value == pytest.approx(1.0)
    assert by_kind["effect_tuned"].p_value == 1 / 1001
    assert by_kind["difference"].correlation.value < 1


def test_pairs_without_effects_are_left_out_of_the_correlation() -> None:
    base, tuned = random_rows(0, n_pairs=6), random_rows(1, n_pairs=6)
    distance = np.random.default_rng(4).uniform(0, 1, (8, 2, 30))
    longer = move_correlations(changes_of(distance, np.ones((8, 2, 30))), base, tuned, own_queries(8))
    alone = move_correlations(changes_of(distance[:6], np.ones((6, 2, 30))), base, tuned, own_queries(8))
    assert longer == alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="distance"), "heads.parquet: columns missing: distance"),
        (lambda frame: frame.assign(distance=np.inf), "distance holds a value that is not finite"),
        (lambda frame: pd.concat([frame, frame[:1]]), "pair p0 comes twice at one head and prompt"),
    ],
)
def test_a_damaged_table_of_head_changes_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        head_moves(change(changes_of(np.ones((2, 2, 3)), np.ones((2, 2, 3)))), own_queries(2))


def test_a_damaged_table_of_weight_changes_is_refused() -> None:
    weights = weights_of(("l0.q", 0, 0, "q", 1.0, 0.5))
    with pytest.raises(InputError, match=r"weights.parquet: columns missing: norm_change"):
        part_moves(weights.drop(columns="norm_change"))
    with pytest.raises(InputError, match="norm_base holds a value that is not finite"):
        weight_moves(weights.assign(norm_base=np.nan))
