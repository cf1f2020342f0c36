"""Does the model separate relevant from irrelevant documents at all?

Each pair gives two judgements: its clean prompt (label yes) and its corrupted prompt (label no). The model
says yes if and only if `LD > 0`. A model that judges at chance still has effects, but they say little about
relevance; this module says so in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from relscope.analysis.intervals import (
    Estimate,
    bootstrap_weights,
    check_confidence,
    interval_method,
    percentile_interval,
    queries_of,
)
from relscope.errors import InputError

_MOST_CELLS = 4_000_000
"""Cells [resample, pair] of one working array: 32 MB, of which a handful live at a time."""

_Pairs = Float64[np.ndarray, " pair"]
_Measures = Float64[np.ndarray, " measure"]
_Weights = Float64[np.ndarray, "resample pair"]


@dataclass(frozen=True)
class JudgeQuality:
    """How well the model judges, over `n` pairs of `n_queries` queries.

    Attributes:
        accuracy: share of the 2 n judgements that are right.
        f1: harmonic mean of precision and recall of the answer yes.
        roc_auc: probability that a positive document's LD exceeds a negative's, drawn from any two prompts; a tie
            counts half.
        paired_accuracy: share of pairs with LD_clean > LD_corrupted; a tie counts half.
        consistency: share of pairs with one yes and one no. In a pairwise prompt, those that prefer the same document
            in both orders.
        at_chance: True unless the interval of `roc_auc` lies above 0.5.
        sentence: the same in words.
    """

    n: int
    n_queries: int
    accuracy: Estimate
    f1: Estimate
    roc_auc: Estimate
    paired_accuracy: Estimate
    consistency: Estimate
    at_chance: bool
    sentence: str

    @property
    def too_few(self) -> bool:
        """True where the queries are too few to tell: one alone, or a few that all agree."""
        return bool(np.isnan(self.roc_auc.low)) or _undecided(self.roc_auc)

    @property
    def interval_method(self) -> str:
        """How the intervals of all but `consistency`, which is shown apart, were found."""
        return interval_method((self.accuracy, self.f1, self.roc_auc, self.paired_accuracy))

    def as_dict(self) -> dict[str, Any]:
        """All fields for JSON; NaN becomes null."""
        return {
            "n": self.n,
            "n_queries": self.n_queries,
            "accuracy": self.accuracy.as_dict(),
            "f1": self.f1.as_dict(),
            "roc_auc": self.roc_auc.as_dict(),
            "paired_accuracy": self.paired_accuracy.as_dict(),
            "consistency": self.consistency.as_dict(),
            "at_chance": self.at_chance,
            "sentence": self.sentence,
        }


def judge_quality(
    judge_rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> JudgeQuality:
    """Accuracy, F1, ROC AUC, paired accuracy and consistency, each with a percentile interval over queries.

    A measure that is the same in every resample, as where all are right, has the binomial's exact bound (for ROC AUC
    and F1, which are no shares of queries, a bound of the same kind: all n queries agree).

    Args:
        judge_rows: rows of the experiment "judge", one a pair: `pair_id`, `ld_clean`, `ld_corrupted`.
        query_of: the query of each pair (`Manifest.query_of`).

    Raises:
        InputError: there are no rows, a pair comes twice, a pair has no query, or a logit difference is not finite.
    """
    check_confidence(confidence)
    if len(judge_rows) == 0:
        raise InputError("no judged pairs: the quality of the verdicts needs at least one")
    repeated = judge_rows["pair_id"].duplicated()
    if repeated.any():
        raise InputError(f"pair {judge_rows['pair_id'][repeated].iloc[0]} is judged twice; give judge rows only")
    clean = judge_rows["ld_clean"].to_numpy(dtype=np.float64)
    corrupted = judge_rows["ld_corrupted"].to_numpy(dtype=np.float64)
    if not (np.isfinite(clean).all() and np.isfinite(corrupted).all()):
        raise InputError("judge rows hold a logit difference that is not finite")
    query_ids = queries_of(judge_rows["pair_id"], query_of)
    n_queries = len(set(query_ids))

    values = quality_measures(clean, corrupted, np.ones((1, len(clean))))[:, 0]
    low = high = np.full(len(values), np.nan)
    exact = np.zeros(len(values), dtype=bool)
    if n_queries > 1:
        weights = bootstrap_weights(query_ids, n_resamples, seed)
        low, high = percentile_interval(quality_measures(clean, corrupted, weights), confidence)
        low, high, exact = widened_where_all_agree(values, low, high, n_queries, confidence)
    accuracy, f1, roc_auc, paired, consistency = (
        Estimate(float(v), float(lo), float(hi), exact=bool(is_exact))
        for v, lo, hi, is_exact in zip(values, low, high, exact, strict=True)
    )
    at_chance = not roc_auc.low > 0.5  # NaN included: one query shows nothing
    return JudgeQuality(
        n=len(clean),
        n_queries=n_queries,
        accuracy=accuracy,
        f1=f1,
        roc_auc=roc_auc,
        paired_accuracy=paired,
        consistency=consistency,
        at_chance=at_chance,
        sentence=_sentence(roc_auc, n_queries),
    )


def widened_where_all_agree(
    values: _Measures, low: _Measures, high: _Measures, n_queries: int, confidence: float
) -> tuple[_Measures, _Measures, Bool[np.ndarray, " measure"]]:
    """Where every query agrees, resampling cannot see that the next one may not; the binomial's exact bound can.

    Of n queries none was otherwise: with a true share of such queries below b = tail ** (1 / n), that has a probability
    below the tail (Clopper and Pearson, Biometrika 26, 1934). The others may have anything between 0 and 1, so that a
    measure that is v in every resample lies between b v and 1 - b (1 - v): above b where v is 1.

    Args:
        values: measures between 0 and 1.
        low, high: their percentile intervals; those that have a width are left as they are.

    Returns:
        Lower and upper ends, and which measures have the exact bound.
    """
    bound = ((1.0 - confidence) / 2.0) ** (1.0 / n_queries)
    agree = np.array([Estimate(*ends).no_width for ends in zip(values, low, high, strict=True)], dtype=bool)
    return np.where(agree, bound * values, low), np.where(agree, 1.0 - bound * (1.0 - values), high), agree


def quality_measures(clean: _Pairs, corrupted: _Pairs, weights: _Weights) -> Float64[np.ndarray, "5 resample"]:
    """Accuracy, F1, ROC AUC, paired accuracy and consistency under each resample's weights."""
    total = weights.sum(axis=1)  # [resample]
    true_yes = weights @ (clean > 0)
    false_yes = weights @ (corrupted > 0)
    accuracy = (true_yes + total - false_yes) / (2 * total)
    # 2 TP / (2 TP + FP + FN), where TP + FN is every clean prompt: the denominator is never 0
    f1 = 2 * true_yes / (true_yes + false_yes + total)
    paired = weights @ (0.5 + 0.5 * np.sign(clean - corrupted)) / total
    consistent = weights @ ((clean > 0) != (corrupted > 0)) / total
    return np.stack([accuracy, f1, _roc_auc(clean, corrupted, weights), paired, consistent])


def _roc_auc(positive: _Pairs, negative: _Pairs, weights: _Weights) -> Float64[np.ndarray, " resample"]:
    """ROC AUC: the weighted share of (positive, negative) prompts in the right order, ties half.

    With the negatives sorted once, the weight below any score is a cumulated sum: O(n log n) once and O(n) a
    resample, where counting all pairs of prompts would be O(n²) a resample.
    """
    order = np.argsort(negative, kind="stable")
    below = np.searchsorted(negative[order], positive, side="left")
    up_to = np.searchsorted(negative[order], positive, side="right")
    areas = []
    step = max(1, _MOST_CELLS // len(positive))
    for start in range(0, len(weights), step):
        chunk = weights[start : start + step]  # [resample, pair]
        cumulated = np.zeros((len(chunk), len(negative) + 1))
        np.cumsum(chunk[:, order], axis=1, out=cumulated[:, 1:])
        in_order = (chunk * (cumulated[:, below] + cumulated[:, up_to])).sum(axis=1) / 2
        areas.append(in_order / chunk.sum(axis=1) ** 2)
    return np.concatenate(areas)


def _undecided(roc_auc: Estimate) -> bool:
    return roc_auc.value in (0.0, 1.0) and roc_auc.low <= 0.5 <= roc_auc.high


def _sentence(roc_auc: Estimate, n_queries: int) -> str:
    if np.isnan(roc_auc.low):
        return (
            f"One query is too few to tell whether the model separates relevant from irrelevant documents "
            f"(ROC AUC {roc_auc}); effects on its verdict then say little about relevance."
        )
    if roc_auc.low > 0.5:
        return f"The model separates relevant from irrelevant documents here (ROC AUC {roc_auc})."
    if _undecided(roc_auc):
        return (
            f"{n_queries} queries are too few to tell whether the model separates relevant from irrelevant documents "
            f"(ROC AUC {roc_auc}); effects on its verdict may say little about relevance."
        )
    if roc_auc.high < 0.5:
        return (
            f"The model puts irrelevant documents above relevant ones here (ROC AUC {roc_auc}); effects on "
            "its verdict then say little about relevance."
        )
    return (
        f"The model does not separate relevant from irrelevant documents here (ROC AUC {roc_auc}); effects "
        "on its verdict then say little about relevance."
    )
