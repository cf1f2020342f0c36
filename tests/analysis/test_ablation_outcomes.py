"""What ablations do to judging and reranking: arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import Outcome, Resampling, bootstrap_weights, judging_outcomes, ranking_outcomes
from relscope.errors import InputError
from relscope.results import ConditionRecord

FULL = ConditionRecord(name="Full model", kind="full")
SET = ConditionRecord(name="Last-2", kind="set")
MATCHED = tuple(ConditionRecord(name="Matched-2", kind="matched", draw=n, of="Last-2") for n in (1, 2))
CONDITIONS = (FULL, *MATCHED, SET)
CORRUPTED = [-2.0, -1.0, 1.0, -1.0]
FEW = Resampling(n_resamples=200)


def step(name: str, draw: int, clean: list[float], corrupted: list[float], prompt: str = "p") -> pd.DataFrame:
    n = len(clean)
    return pd.DataFrame({"condition": name, "draw": draw, "prompt": prompt, "pair_id": [f"q{i}:0" for i in range(n)],
                         "ld_clean": clean, "ld_corrupted": corrupted})  # fmt: skip


def queries(n: int = 4) -> dict[str, str]:
    return {f"q{i}:0": f"q{i}" for i in range(n)}


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], Outcome]:
    rows = pd.concat(
        [
            step("Full model", 0, [2.0, 1.0, 1.0, -1.0], CORRUPTED),
            step("Matched-2", 1, [2.0, 1.0, 1.0, -1.0], CORRUPTED),
            step("Matched-2", 2, [2.0, 1.0, -1.0, -1.0], CORRUPTED),
            step("Last-2", 0, [1.0, -1.0, -1.0, -1.0], CORRUPTED).iloc[::-1],  # the order of rows does not matter
        ]
    )
    return {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(), CONDITIONS, FEW)}


def test_measures_of_each_condition_are_those_counted_by_hand(outcomes: dict[tuple[str, str], Outcome]) -> None:
    # yes to 3 of 4 positives and to 1 of 4 negatives; of 16 pairs of prompts 13 in order, ties half
    expected = {"f1": 0.75, "accuracy": 0.75, "roc_auc": 13 / 16, "paired_accuracy": 0.75}
    assert {name: outcomes["Full model", name].value.value for name in expected} == pytest.approx(expected)
    assert outcomes["Last-2", "f1"].value.value == pytest.approx(1 / 3)
    assert outcomes["Last-2", "accuracy"].value.value == pytest.approx(0.5)


def test_a_difference_is_one_from_the_full_model_and_its_share(outcomes: dict[tuple[str, str], Outcome]) -> None:
    changed = outcomes["Last-2", "f1"]
    assert changed.difference.value == pytest.approx(1 / 3 - 3 / 4)
    assert changed.relative.value == pytest.approx(-5 / 9)
    assert changed.difference.low <= changed.difference.value <= changed.difference.high


def test_the_interval_of_a_relative_change_is_that_of_the_ratio_of_both_in_each_resample() -> None:
    n, generator = 12, np.random.default_rng(3)
    full, less = ((generator.normal(1, 1, n), generator.normal(-1, 1, n)) for _ in range(2))
    rows = pd.concat([step("Full model", 0, *map(list, full)), step("Last-2", 0, *map(list, less))])
    of = {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(n), CONDITIONS, FEW)}
    changes = []
    for counts in bootstrap_weights(list(queries(n).values()), FEW.n_resamples, FEW.seed).astype(int):
        f1 = []
        for clean, corrupted in (full, less):
            yes = np.repeat(clean > 0, counts).sum()
            wrong = np.repeat(corrupted > 0, counts).sum()
            precision, recall = yes / (yes + wrong), yes / n
            f1.append(2 * precision * recall / (precision + recall))
        changes.append(f1[1] / f1[0] - 1)
    changed = of["Last-2", "f1"].relative
    assert (changed.low, changed.high) == pytest.approx(tuple(np.quantile(changes, [0.025, 0.975])))
    assert changed.low < changed.value < changed.high
    row = of["Last-2", "f1"].as_row()
    assert (row["relative"], row["relative_low"], row["relative_high"]) == (changed.value, changed.low, changed.high)


def test_a_relative_change_has_no_interval_where_the_full_model_has_0_in_a_resample() -> None:
    # one query of three says yes rightly, and is missing in some resamples
    rows = pd.concat([step("Full model", 0, [1.0, -1.0, -1.0], [-1.0] * 3), step("Last-2", 0, [-1.0] * 3, [-1.0] * 3)])
    of = {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(3), CONDITIONS, FEW)}
    assert of["Last-2", "f1"].relative.value == -1.0
    assert math.isnan(of["Last-2", "f1"].relative.low)
    assert math.isfinite(of["Last-2", "f1"].difference.low)


def test_nothing_is_a_share_of_0() -> None:
    rows = pd.concat([step("Full model", 0, [-1.0] * 3, [-1.0] * 3), step("Last-2", 0, [1.0] * 3, [-1.0] * 3)])
    of = {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(3), CONDITIONS, FEW)}
    assert math.isnan(of["Last-2", "f1"].relative.value)
    assert of["Last-2", "f1"].difference.value == 1.0


def test_a_random_condition_has_the_mean_of_its_draws_with_their_spread(
    outcomes: dict[tuple[str, str], Outcome],
) -> None:
    matched = outcomes["Matched-2", "f1"]
    assert matched.draws == pytest.approx((0.75, 4 / 7))
    assert matched.value.value == pytest.approx((0.75 + 4 / 7) / 2)
    row = matched.as_row()
    assert row["sd_of_draws"] == pytest.approx((0.75 - 4 / 7) / math.sqrt(2))
    assert (row["least_draw"], row["most_draw"]) == pytest.approx((4 / 7, 0.75))
    assert math.isnan(outcomes["Last-2", "f1"].as_row()["sd_of_draws"])


def test_the_ratio_is_to_the_mean_decrease_of_matched_draws(outcomes: dict[tuple[str, str], Outcome]) -> None:
    chosen = outcomes["Last-2", "f1"]
    assert chosen.ratio is not None
    assert chosen.ratio.value == pytest.approx((5 / 12) / (5 / 56))
    assert math.isnan(chosen.ratio.low)  # one of two draws lowers nothing, and is drawn twice in some resamples
    assert chosen.n_as_large == 0
    assert chosen.p_draws == pytest.approx(1 / 3)
    assert outcomes["Matched-2", "f1"].ratio is None
    assert math.isnan(outcomes["Matched-2", "f1"].p_draws)


def test_of_sets_kept_alone_the_draws_that_keep_as_much_are_counted() -> None:
    right, wrong = [1.0] * 4, [-1.0] * 4
    draws = (right, [1.0, 1.0, -1.0, -1.0])  # accuracy 1 and 0.75
    steps = [step("Full model", 0, right, wrong), step("Last-2", 0, [1.0, 1.0, 1.0, -1.0], wrong)]
    steps += [step("Matched-2", n, clean, wrong) for n, clean in enumerate(draws, start=1)]
    both = [
        {
            (o.condition, o.measure): o
            for o in judging_outcomes(pd.concat(steps), queries(), CONDITIONS, FEW, keep_only=keep_only)
        }["Last-2", "accuracy"]
        for keep_only in (False, True)
    ]
    assert both[0].value.value == both[1].value.value == pytest.approx(7 / 8)
    # 0.75 lowers it as much and 1 does not; 1 keeps as much and 0.75 does not
    assert [one.n_as_large for one in both] == [1, 1]
    assert [one.p_draws for one in both] == pytest.approx([2 / 3, 2 / 3])
    assert both[0].ratio is not None
    assert both[1].ratio is None
    steps[1] = step("Last-2", 0, right, wrong)  # it keeps everything, and lowers nothing
    counted = [
        next(
            o.n_as_large
            for o in judging_outcomes(pd.concat(steps), queries(), CONDITIONS, FEW, keep_only=keep_only)
            if (o.condition, o.measure) == ("Last-2", "accuracy")
        )
        for keep_only in (False, True)
    ]
    assert counted == [2, 1]


def test_a_ratio_has_an_interval_where_matched_sets_surely_lower_the_measure() -> None:
    right, wrong = [1.0] * 16, [-1.0] * 16
    half, most = [1.0, -1.0] * 8, [1.0, 1.0, 1.0, -1.0] * 4
    steps = [step("Full model", 0, right, wrong), step("Last-2", 0, half, wrong)]
    steps += [step("Matched-2", draw, clean, wrong) for draw, clean in ((1, most), (2, half))]
    of = {(o.condition, o.measure): o for o in judging_outcomes(pd.concat(steps), queries(16), CONDITIONS, FEW)}
    chosen = of["Last-2", "accuracy"]
    # 8 of 32 judgements against the mean of 4 and 8
    assert chosen.ratio is not None
    assert chosen.ratio.value == pytest.approx(4 / 3)
    assert chosen.ratio.low <= 4 / 3 <= chosen.ratio.high
    assert chosen.n_as_large == 1


def test_matched_sets_that_lower_nothing_leave_no_ratio() -> None:
    rows = pd.concat([step("Full model", 0, [1.0, -1.0], [-1.0, -1.0]), step("Last-2", 0, [-1.0, -1.0], [-1.0, -1.0])]
                     + [step("Matched-2", n, [1.0, 1.0], [-1.0, -1.0]) for n in (1, 2)])  # fmt: skip
    of = {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(2), CONDITIONS, FEW)}
    ratio = of["Last-2", "accuracy"].ratio
    assert ratio is not None
    assert math.isnan(ratio.value)


def test_intervals_of_random_conditions_are_over_draws_too() -> None:
    right, wrong = [1.0] * 4, [-1.0] * 4
    draws = [step("Matched-2", 1, right, wrong), step("Matched-2", 2, wrong, right)]
    rows = pd.concat([step("Full model", 0, right, wrong), *draws])
    of = {(o.condition, o.measure): o for o in judging_outcomes(rows, queries(), CONDITIONS, FEW)}
    matched = of["Matched-2", "accuracy"]
    # every resample of the queries has accuracy 1 in one draw and 0 in the other
    assert (matched.value.low, matched.value.value, matched.value.high) == (0.0, 0.5, 1.0)
    assert (matched.difference.low, matched.difference.high) == (-1.0, 0.0)


def test_what_changes_nothing_has_a_difference_of_exactly_0(outcomes: dict[tuple[str, str], Outcome]) -> None:
    full = outcomes["Full model", "f1"].difference
    assert (full.low, full.value, full.high) == (0.0, 0.0, 0.0)


def test_where_every_query_agrees_the_interval_is_the_binomials() -> None:
    rows = step("Full model", 0, [1.0] * 5, [-1.0] * 5)
    (accuracy,) = [o for o in judging_outcomes(rows, queries(5), CONDITIONS, FEW) if o.measure == "accuracy"]
    assert accuracy.value.low == pytest.approx(0.025 ** (1 / 5))


def test_one_query_has_no_interval() -> None:
    rows = pd.concat([step("Full model", 0, [1.0], [-1.0]), step("Last-2", 0, [-1.0], [-1.0])])
    for outcome in judging_outcomes(rows, queries(1), CONDITIONS, FEW):
        assert math.isnan(outcome.value.low)
        assert math.isnan(outcome.difference.high)


def test_a_prompt_without_the_full_model_is_left_out() -> None:
    rows = pd.concat([step("Last-2", 0, [1.0], [-1.0], "b"), step("Full model", 0, [1.0], [-1.0], "a")])
    assert {o.prompt for o in judging_outcomes(rows, queries(1), CONDITIONS, FEW)} == {"a"}


def test_other_pairs_than_the_full_models_are_refused() -> None:
    rows = pd.concat([step("Full model", 0, [1.0, 1.0], [0.0, 0.0]), step("Last-2", 0, [1.0], [0.0])])
    with pytest.raises(InputError, match="Last-2, draw 0: its pairs are not those of the full model"):
        judging_outcomes(rows, queries(2), CONDITIONS, FEW)


def ranking(name: str, draw: int, orders: dict[str, str], prompt: str = "p") -> pd.DataFrame:
    rows = [(name, draw, prompt, q, d, n) for q, docs in orders.items() for n, d in enumerate(docs, start=1)]
    return pd.DataFrame(rows, columns=["condition", "draw", "prompt", "query_id", "doc_id", "place"])


QRELS = {f"q{n}": {"a": 1} for n in range(6)}
BEST, WORST = dict.fromkeys(QRELS, "ax"), dict.fromkeys(QRELS, "xa")
SECOND = 1 / math.log2(3)
"""nDCG of one relevant document in the second place."""


def test_ndcg_of_conditions_draws_and_first_stage_is_that_by_hand() -> None:
    rows = pd.concat([ranking("Full model", 0, BEST), ranking("Matched-2", 1, BEST), ranking("Matched-2", 2, WORST),
                      ranking("Last-2", 0, WORST).iloc[::-1]])  # fmt: skip
    found = ranking_outcomes(rows, {q: tuple(docs) for q, docs in WORST.items()}, QRELS, CONDITIONS, FEW)
    of = {o.condition: o for o in found}
    assert list(of) == ["First stage", "Full model", "Matched-2", "Last-2"]
    values = {name: o.value.value for name, o in of.items()}
    assert values == pytest.approx(
        {"First stage": SECOND, "Full model": 1.0, "Matched-2": (1 + SECOND) / 2, "Last-2": SECOND}
    )
    assert of["Last-2"].ratio is not None
    assert of["Last-2"].ratio.value == pytest.approx(2.0)
    assert of["Last-2"].n_as_large == 1
    # two of the 64 sign patterns of six equal differences are as extreme; Holm over two conditions
    assert of["Last-2"].p_flip == pytest.approx(2 * 2 / 64)
    assert math.isnan(of["Full model"].p_flip)
    assert math.isnan(of["First stage"].p_flip)


def test_p_values_are_corrected_over_all_prompts() -> None:
    rows = pd.concat([ranking(name, 0, orders, prompt) for prompt in ("one", "two")
                      for name, orders in (("Full model", BEST), ("Last-2", WORST))])  # fmt: skip
    found = ranking_outcomes(rows, dict.fromkeys(QRELS, ("a",)), QRELS, CONDITIONS, FEW)
    assert [o.p_flip for o in found if o.condition == "Last-2"] == pytest.approx([2 * 2 / 64] * 2)


def test_an_empty_ranking_counts_0() -> None:
    rows = pd.concat([ranking("Full model", 0, BEST), ranking("Last-2", 0, {"q0": "ax"})])
    found = ranking_outcomes(rows, dict.fromkeys(QRELS, ("a",)), QRELS, CONDITIONS, FEW)
    assert [o.value.value for o in found if o.condition == "Last-2"] == pytest.approx([1 / 6])
    assert np.isfinite([o.value.low for o in found]).all()
