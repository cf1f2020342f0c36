"""What is called a change between two models is one: on the same pairs, with the same resamples, in the right unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from two_models import own_queries, random_rows, rows_of

from relscope.analysis import (
    DIFFERENCE_COLUMNS,
    bootstrap_weights,
    effect_differences,
    judge_quality,
    quality_differences,
    site_effects,
)
from relscope.errors import InputError


def judged(clean: list[float], corrupted: list[float]) -> pd.DataFrame:
    ids = [f"p{i}" for i in range(len(clean))]
    return pd.DataFrame({"pair_id": ids, "ld_clean": clean, "ld_corrupted": corrupted})


def test_effects_and_differences_are_those_done_by_hand() -> None:
    # base: gaps 2 and 4, effects 1 and 1; tuned: gaps 8 and 8, effects 2 and 6
    base = rows_of(np.array([[0.0], [-1.0]]), [1, 2], [-1, -2])
    tuned = rows_of(np.array([[-2.0], [2.0]]), [4, 4], [-4, -4])
    (site,) = effect_differences(base, tuned, own_queries(2)).to_dict("records")
    assert (site["effect_base"], site["effect_tuned"], site["difference"]) == (1.0, 4.0, 3.0)
    assert site["ie_base"] == pytest.approx(1 / 3)  # 1 of a mean gap of 3
    assert site["ie_tuned"] == 0.5
    assert site["ie_difference"] == pytest.approx(0.5 - 1 / 3)
    assert (site["n_pairs"], site["n_queries"]) == (2, 2)


def test_each_model_alone_has_the_effects_and_intervals_of_site_effects() -> None:
    query_of = {f"p{i}": f"q{i // 2}" for i in range(8)}
    runs = {"base": random_rows(0), "tuned": random_rows(1)}
    differences = effect_differences(runs["base"], runs["tuned"], query_of)
    assert tuple(differences.columns) == DIFFERENCE_COLUMNS
    for model, rows in runs.items():
        alone = site_effects(rows, query_of)
        for quantity in ("effect", "ie"):
            for end in ("", "_low", "_high"):
                # the same sums in another order
                np.testing.assert_allclose(
                    differences[f"{quantity}_{model}{end}"], alone[f"{quantity}{end}"], atol=1e-12
                )


def test_the_intervals_are_those_of_a_bootstrap_done_pair_by_pair() -> None:
    query_of = {f"p{i}": f"q{i // 3}" for i in range(8)}
    base, tuned = random_rows(0, n_sites=3), random_rows(1, n_sites=3)
    differences = effect_differences(base, tuned, query_of, n_resamples=200, seed=5)
    counts = bootstrap_weights([query_of[f"p{i}"] for i in range(8)], 200, 5).astype(int)
    for head in range(3):
        found: dict[str, list[float]] = {"difference": [], "ie_difference": []}
        of_head = [rows[rows["head"] == head].set_index("pair_id") for rows in (base, tuned)]
        for drawn in counts:
            pairs = [f"p{i}" for i in range(8) for _ in range(drawn[i])]
            effects, shares = [], []
            for rows in of_head:
                sample = rows.loc[pairs].astype(dict.fromkeys(("ld_clean", "ld_corrupted", "ld_patched"), float))
                effects.append((sample["ld_patched"] - sample["ld_corrupted"]).mean())
                shares.append(effects[-1] / (sample["ld_clean"] - sample["ld_corrupted"]).mean())
            found["difference"].append(effects[1] - effects[0])
            found["ie_difference"].append(shares[1] - shares[0])
        for name, values in found.items():
            low, high = np.quantile(values, [0.025, 0.975])
            assert differences[f"{name}_low"][head] == pytest.approx(low, abs=1e-9)
            assert differences[f"{name}_high"][head] == pytest.approx(high, abs=1e-9)


def test_a_model_compared_with_itself_differs_by_nothing_at_all() -> None:
    rows = random_rows(0)
    differences = effect_differences(rows, rows, own_queries(8))
    for name in ("difference", "difference_low", "difference_high", "ie_difference", "ie_difference_high"):
        assert (differences[name] == 0).all()


def test_what_is_hard_about_a_query_cancels_because_both_models_get_the_same_resamples() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (8, 1))
    base = rows_of(noise, [9] * 8, [0] * 8)
    tuned = rows_of(noise + 0.25, [9] * 8, [0] * 8)
    (site,) = effect_differences(base, tuned, own_queries(8)).to_dict("records")
    assert site["effect_tuned_high"] - site["effect_tuned_low"] > 3  # each model alone is uncertain
    # values are stored in float32: 5 + 0.25 rounds in its seventh digit
    assert site["difference_low"] == pytest.approx(0.25, abs=1e-6)
    assert site["difference_high"] == pytest.approx(0.25, abs=1e-6)


def test_pairs_that_only_one_model_has_count_in_neither() -> None:
    base = rows_of(np.array([[1.0], [2.0], [3.0]]), [4] * 3, [0] * 3, pair_ids=["p0", "p1", "p2"])
    tuned = rows_of(np.array([[9.0], [5.0], [7.0]]), [4] * 3, [0] * 3, pair_ids=["p3", "p2", "p1"])
    query_of = {f"p{i}": f"q{i}" for i in range(4)}
    (site,) = effect_differences(base, tuned, query_of).to_dict("records")
    assert (site["effect_base"], site["effect_tuned"], site["n_pairs"]) == (2.5, 6.0, 2)


def test_sites_that_only_one_model_has_are_left_out() -> None:
    base, tuned = random_rows(0, n_sites=3), random_rows(1, n_sites=5)
    differences = effect_differences(base, tuned, own_queries(8))
    assert list(differences["head"]) == [0, 1, 2]


def test_a_gap_that_may_be_zero_leaves_that_models_share_without_an_interval() -> None:
    clean = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]  # the base model separates nothing
    base = rows_of(np.full((6, 1), 0.5), clean, [0.0] * 6)
    tuned = rows_of(np.full((6, 1), 0.5), [4.0] * 6, [0.0] * 6)
    (site,) = effect_differences(base, tuned, own_queries(6)).to_dict("records")
    assert site["unstable_ie"]
    assert np.isnan([site["ie_base"], site["ie_base_low"], site["ie_difference_low"], site["ie_difference_high"]]).all()
    assert site["ie_tuned_low"] == site["ie_tuned_high"] == 0.125
    assert site["difference_low"] == site["difference_high"] == 0.0


def test_one_query_gives_values_and_no_intervals() -> None:
    rows = random_rows(0)
    differences = effect_differences(rows, random_rows(1), dict.fromkeys(own_queries(8), "q"))
    assert differences["difference"].notna().all()
    assert differences[[name for name in DIFFERENCE_COLUMNS if name.endswith(("_low", "_high"))]].isna().all(axis=None)
    assert differences["unstable_ie"].all()


def test_noise_starts_from_the_clean_run() -> None:
    base = rows_of(np.array([[1.0]]), [3.0], [-1.0], direction="noise")
    tuned = rows_of(np.array([[3.0]]), [3.0], [-1.0], direction="noise")
    (site,) = effect_differences(base, tuned, own_queries(1)).to_dict("records")
    assert (site["effect_base"], site["ie_base"], site["difference"]) == (-2.0, 0.5, 2.0)


def test_no_rows_give_no_sites() -> None:
    rows = random_rows(0)
    assert len(effect_differences(rows[:0], rows[:0], {})) == 0
    assert len(effect_differences(rows, rows[:0], own_queries(8))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: pd.concat([rows, rows[:1]]), "rows of the base model: a site of a pair comes twice"),
        (lambda rows: rows.assign(ld_patched=np.nan), "ld_patched of pair p0 is not finite"),
        (lambda rows: rows.assign(direction="sideways"), "direction must be one of denoise, noise"),
        (lambda rows: rows.assign(pair_id="p9"), "comes twice"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(change, message) -> None:
    rows = random_rows(0)
    with pytest.raises(InputError, match=message):
        effect_differences(change(rows), rows, own_queries(8))


def test_a_pair_without_a_query_is_refused() -> None:
    rows = random_rows(0)
    with pytest.raises(InputError, match="have no query"):
        effect_differences(rows, rows, own_queries(3))


def test_differences_of_quality_are_those_of_the_two_qualities() -> None:
    rng = np.random.default_rng(3)
    base = judged(list(rng.normal(0.2, 1, 30)), list(rng.normal(0, 1, 30)))
    tuned = judged(list(rng.normal(2, 1, 30)), list(rng.normal(-2, 1, 30)))
    query_of = {f"p{i}": f"q{i // 2}" for i in range(30)}
    found = quality_differences(base, tuned, query_of)
    qualities = [judge_quality(rows, query_of) for rows in (base, tuned)]
    for name in ("accuracy", "f1", "roc_auc", "paired_accuracy"):
        before, after = (getattr(quality, name).value for quality in qualities)
        assert found[name].value == pytest.approx(after - before)
        assert found[name].low <= found[name].value <= found[name].high
    assert found["roc_auc"].low > 0


def test_the_separation_grows_by_what_hand_arithmetic_says() -> None:
    found = quality_differences(judged([1, 2], [0, 1]), judged([4, 4], [0, -2]), own_queries(2))
    assert found["separation"].value == 4.0  # from a mean of 1 to a mean of 5


def test_models_that_judged_no_common_pair_have_no_difference() -> None:
    base = judged([1], [0])
    with pytest.raises(InputError, match="no pair was judged by both models"):
        quality_differences(base, base.assign(pair_id="p9"), {"p0": "q", "p9": "q"})
