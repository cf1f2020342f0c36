"""The verdict quality, against counting prompt by prompt."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import JudgeQuality, bootstrap_weights, judge_quality
from relscope.analysis.quality import quality_measures
from relscope.errors import InputError

NAMES = ("accuracy", "f1", "roc_auc", "paired_accuracy", "consistency")


def judged(clean: list[float], corrupted: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"pair_id": [f"p{i}" for i in range(len(clean))], "ld_clean": clean, "ld_corrupted": corrupted})


def own_queries(rows: pd.DataFrame) -> dict[str, str]:
    return {pair_id: f"q-{pair_id}" for pair_id in rows["pair_id"]}


def counted(clean: list[float], corrupted: list[float]) -> tuple[float, float, float, float, float]:
    """The five measures by counting, in plain Python."""
    right = sum(ld > 0 for ld in clean) + sum(not ld > 0 for ld in corrupted)
    true_yes = sum(ld > 0 for ld in clean)
    said_yes = true_yes + sum(ld > 0 for ld in corrupted)
    precision = true_yes / said_yes if said_yes else 0.0
    recall = true_yes / len(clean)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    in_order = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in product(clean, corrupted))
    paired = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in zip(clean, corrupted, strict=True))
    differ = sum((p > 0) != (n > 0) for p, n in zip(clean, corrupted, strict=True))
    n = len(clean)
    return right / (2 * n), f1, in_order / n**2, paired / n, differ / n


def values(quality: JudgeQuality) -> tuple[float, ...]:
    return tuple(getattr(quality, name).value for name in NAMES)


def test_four_pairs_by_hand() -> None:
    # yes to three of four positives and to one of four negatives: 6 of 8 right, precision 3/4, recall 3/4.
    # Against the negatives -2, -1, 0, 3 the positives 4, 2, 1, -1 win 4, 3, 3, 1 and a tie: 11.5 of 16.
    # Pairs: 4 > -2, 2 > -1, 1 < 3, -1 < 0: 2 of 4. Yes and no: the first two; yes twice, no twice.
    rows = judged([4.0, 2.0, 1.0, -1.0], [-2.0, -1.0, 3.0, 0.0])
    quality = judge_quality(rows, own_queries(rows))
    assert values(quality) == (6 / 8, 0.75, 11.5 / 16, 0.5, 0.5)
    assert (quality.n, quality.n_queries) == (4, 4)


def test_a_logit_difference_of_zero_is_a_no_and_a_tie_counts_half() -> None:
    rows = judged([0.0, 0.0], [0.0, 0.0])
    assert values(judge_quality(rows, own_queries(rows))) == (0.5, 0.0, 0.5, 0.5, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_values_agree_with_counting_with_and_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, corrupted = rng.normal(0.4, 1.0, 37), rng.normal(-0.2, 1.0, 37)
    if seed % 2:
        clean, corrupted = np.round(clean), np.round(corrupted)
    rows = judged(clean.tolist(), corrupted.tolist())
    # Sums of some dozens of shares in another order.
    np.testing.assert_allclose(
        values(judge_quality(rows, own_queries(rows))), counted(clean.tolist(), corrupted.tolist()), rtol=1e-12
    )


def test_each_resample_agrees_with_counting_the_drawn_prompts() -> None:
    rng = np.random.default_rng(8)
    clean, corrupted = np.round(rng.normal(0.4, 1.5, 12)), np.round(rng.normal(-0.2, 1.5, 12))
    weights = bootstrap_weights([f"q{i // 3}" for i in range(12)], 60, seed=1)
    fast = quality_measures(clean, corrupted, weights)
    for resample, drawn in enumerate(weights.astype(int)):
        slow = counted(np.repeat(clean, drawn).tolist(), np.repeat(corrupted, drawn).tolist())
        np.testing.assert_allclose(fast[:, resample], slow, rtol=1e-12)


def test_the_interval_is_the_percentile_of_counted_resamples_of_queries() -> None:
    rng = np.random.default_rng(9)
    clean, corrupted = rng.normal(0.5, 1.0, 15), rng.normal(-0.5, 1.0, 15)
    rows = judged(clean.tolist(), corrupted.tolist())
    query_of = {f"p{i}": f"q{i % 5}" for i in range(15)}
    quality = judge_quality(rows, query_of, n_resamples=200, seed=4, confidence=0.8)
    weights = bootstrap_weights([query_of[pair] for pair in rows["pair_id"]], 200, seed=4).astype(int)
    slow = [counted(np.repeat(clean, w).tolist(), np.repeat(corrupted, w).tolist()) for w in weights]
    for name, resampled in zip(NAMES, zip(*slow, strict=True), strict=True):
        estimate = getattr(quality, name)
        np.testing.assert_allclose(
            (estimate.low, estimate.high), np.percentile(resampled, [10, 90]), rtol=1e-12, err_msg=name
        )
    assert quality.n_queries == 5


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    rows = judged(rng.normal(0.5, 1.0, 30).tolist(), rng.normal(-0.5, 1.0, 30).tolist())
    whole = judge_quality(rows, own_queries(rows), n_resamples=100)
    monkeypatch.setattr("relscope.analysis.quality._MOST_CELLS", 90)
    assert judge_quality(rows, own_queries(rows), n_resamples=100) == whole


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(12)
    rows = judged(rng.normal(0.5, 1.0, 30).tolist(), rng.normal(-0.5, 1.0, 30).tolist())
    one = judge_quality(rows, own_queries(rows), n_resamples=100)
    other = judge_quality(rows.sample(frac=1, random_state=0), own_queries(rows), n_resamples=100)
    for name in NAMES:
        # The same sums in another order.
        np.testing.assert_allclose(
            list(getattr(other, name).as_dict().values()), list(getattr(one, name).as_dict().values()), rtol=1e-12
        )


def test_a_model_that_guesses_is_said_to_be_at_chance() -> None:
    rng = np.random.default_rng(0)
    rows = judged(rng.normal(size=100).tolist(), rng.normal(size=100).tolist())
    quality = judge_quality(rows, own_queries(rows))
    assert quality.roc_auc.low < 0.5 < quality.roc_auc.high
    assert quality.at_chance
    assert quality.sentence == (
        f"The model does not separate relevant from irrelevant documents here (ROC AUC {quality.roc_auc}); "
        "effects on its verdict then say little about relevance."
    )


def test_a_model_that_judges_well_is_not_at_chance_even_if_it_always_says_yes() -> None:
    # Accuracy 0.5, yet it separates: the verdict's threshold is off, not its order.
    rows = judged([3.0, 4.0, 5.0, 6.0] * 5, [1.0, 0.5, 2.0, 1.5] * 5)
    quality = judge_quality(rows, own_queries(rows))
    assert values(quality) == (0.5, 2 / 3, 1.0, 1.0, 0.0)
    assert not quality.at_chance
    assert quality.sentence.startswith("The model separates relevant from irrelevant documents here (ROC AUC 1.00 [")


def test_where_all_queries_agree_the_interval_has_the_exact_bound_of_the_binomial() -> None:
    rows = judged([3.0, 4.0, 5.0, 6.0], [-1.0, -0.5, -2.0, -1.5])
    quality = judge_quality(rows, own_queries(rows))
    bound = 0.025**0.25
    # scipy.stats.binomtest(4, 4).proportion_ci(method="exact") gives the same
    assert (quality.accuracy.low, quality.accuracy.high) == (pytest.approx(bound), 1.0)
    assert quality.roc_auc.low == pytest.approx(bound)
    assert quality.at_chance
    assert quality.sentence.startswith("4 queries are too few to tell whether the model separates")
    wrong = judge_quality(judged([-1.0] * 4, [1.0] * 4), own_queries(rows))
    assert (wrong.paired_accuracy.low, wrong.paired_accuracy.high) == (0.0, pytest.approx(1 - bound))


def test_a_measure_that_every_query_shares_has_a_bound_on_both_sides() -> None:
    rows = judged([3.0, 4.0, 5.0, 6.0] * 3, [1.0, 0.5, 2.0, 1.5] * 3)
    quality = judge_quality(rows, own_queries(rows))
    # yes to everything; with a share b of such queries the others have between 0 and 1
    bound = 0.025 ** (1 / 12)
    for measure, value in ((quality.accuracy, 1 / 2), (quality.f1, 2 / 3)):
        assert (measure.low, measure.high) == pytest.approx((bound * value, bound * value + 1 - bound))


def test_a_model_that_is_always_wrong_counts_as_at_chance_with_words_of_its_own() -> None:
    rows = judged([-3.0, -4.0, -5.0] * 5, [1.0, 0.5, 2.0] * 5)
    quality = judge_quality(rows, own_queries(rows))
    assert quality.at_chance
    assert "puts irrelevant documents above relevant ones" in quality.sentence


def test_one_query_gives_values_without_an_interval_and_proves_nothing() -> None:
    rows = judged([3.0, 4.0], [-1.0, -2.0])
    quality = judge_quality(rows, {"p0": "q", "p1": "q"})
    assert values(quality) == (1.0, 1.0, 1.0, 1.0, 1.0)
    assert np.isnan([quality.roc_auc.low, quality.roc_auc.high, quality.f1.low]).all()
    assert quality.at_chance
    assert "One query is too few" in quality.sentence
    text = json.dumps(quality.as_dict(), allow_nan=False)
    assert json.loads(text)["roc_auc"] == {"value": 1.0, "low": None, "high": None}
    assert json.loads(text)["n"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (judged([], []), "no judged pairs"),
        (judged([1.0, float("nan")], [0.0, 0.0]), "not finite"),
        (judged([1.0, 2.0], [0.0, float("inf")]), "not finite"),
        (judged([1.0], [0.0]).loc[[0, 0]], "pair p0 is judged twice"),
        (judged([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), "have no query, such as 'p2'"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge_quality(rows, {"p0": "a", "p1": "b"})


def test_only_a_measure_on_which_all_queries_agree_has_the_exact_bound() -> None:
    rows = judged([3.0, 4.0, 5.0, 6.0], [-1.0, 0.5, -2.0, -1.5])
    quality = judge_quality(rows, own_queries(rows))
    assert (quality.accuracy.exact, quality.paired_accuracy.exact) == (False, True)
    assert quality.paired_accuracy.low == pytest.approx(0.025 ** (1 / 4))
    assert quality.interval_method == "bootstrap; where all queries agree, the exact bound"
    mixed = judged([3.0, -4.0, 5.0, 6.0], [-1.0, 0.5, -2.0, 7.0])
    assert judge_quality(mixed, own_queries(mixed)).interval_method == "bootstrap"
