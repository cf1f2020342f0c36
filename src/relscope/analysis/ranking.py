"""How good is a ranking, and is it better than another one by more than chance?

Measures are those of ir-measures, by their names there (`nDCG@10`, `RR@10`, `AP`, `P(rel=2)@5`, ...), of each judged
query; a judged query without a ranking has the value 0, as trec_eval counts it. A system's value is the mean over
queries. Systems are compared with a baseline query by query:

- difference: its mean over queries, with a percentile interval over the same resampled queries
- paired t-test: t = mean / (s / sqrt(n)) of the n differences, two-sided (Student, The probable error of a mean, 1908)
- sign-flip test: `relscope.analysis.significance`; exact for up to 14 queries

Both p-values of one comparison are corrected over all systems and measures that are compared with it (Holm, A simple
sequentially rejective multiple test procedure, 1979). With p_(1) <= ... <= p_(m):

    p_holm of the i-th smallest = min(1, max over j <= i of (m - j + 1) p_(j))

Among the comparisons with p_holm <= 0.05, the probability of a single false one is at most 0.05, whatever depends on
what.

Cost: no forward pass.
"""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import stats

from relscope.analysis.intervals import Estimate, bootstrap_weights, percentile_interval
from relscope.analysis.significance import N_FLIPS, sign_flip_p_values
from relscope.errors import InputError

_PValues = Float64[np.ndarray, " comparison"]


@dataclass(frozen=True)
class RankingComparison:
    """One system beside the baseline, by one measure.

    Attributes:
        system: which ranking.
        baseline: which ranking it is compared with.
        measure: as ir-measures names it.
        n_queries: judged queries that both are measured on.
        value: mean of the system.
        baseline_value: mean of the baseline.
        difference: mean of value - baseline_value.
        p_t, p_flip: of the paired t-test and of the sign-flip test; NaN with one query, p_t also where all queries
            differ by the same.
        p_t_holm, p_flip_holm: the same, corrected over all comparisons made together.
    """

    system: str
    baseline: str
    measure: str
    n_queries: int
    value: Estimate
    baseline_value: Estimate
    difference: Estimate
    p_t: float
    p_flip: float
    p_t_holm: float
    p_flip_holm: float

    def as_dict(self) -> dict[str, Any]:
        """All fields for JSON; NaN becomes null."""
        names = ("p_t", "p_flip", "p_t_holm", "p_flip_holm")
        return {
            "system": self.system, "baseline": self.baseline, "measure": self.measure, "n_queries": self.n_queries,
            "value": self.value.as_dict(), "baseline_value": self.baseline_value.as_dict(),
            "difference": self.difference.as_dict(),
            **{name: None if np.isnan(p := getattr(self, name)) else float(p) for name in names},
        }  # fmt: skip


def check_measures(measures: Sequence[str]) -> None:
    """Refuse, before anything is ranked, what ir-measures cannot read or compute.

    Raises:
        InputError: names the measure.
    """
    # 1 and 2, because some of ir-measures' programs take numbers only
    ranking_values({"probe": {"1": ["1"], "2": ["1"]}}, {"1": {"1": 1, "2": 0}, "2": {"1": 0}}, measures)


def ranking_values(
    rankings: Mapping[str, Mapping[str, Sequence[str]]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str],
) -> pd.DataFrame:
    """The measures of every judged query of each system, a row each.

    Args:
        rankings: system to query id to document ids, best first.
        qrels: query id to document id to grade, of the queries that count.
        measures: names as ir-measures reads them.

    Returns:
        Columns system, query_id, measure (in ir-measures' own spelling) and value.

    Raises:
        InputError: a measure that ir-measures does not know or cannot compute, or no judged query.
    """
    if not qrels:
        raise InputError("no query is judged: a measure needs at least one")
    judged = {query_id: dict(grades) for query_id, grades in qrels.items()}
    rows: list[tuple[str, str, str, float]] = []
    for text in measures:
        measure = _parsed(text)
        for system, ranking in rankings.items():
            # Places as values, which float32 keeps apart: ir-measures sorts by value, and equal ones by id.
            run = {q: {doc_id: float(-i) for i, doc_id in enumerate(ranking.get(q, ()))} for q in judged}
            values = _values(text, measure, judged, {q: docs for q, docs in run.items() if docs})
            rows += [(system, query_id, str(measure), values[query_id]) for query_id in judged]
    frame = pd.DataFrame(rows, columns=["system", "query_id", "measure", "value"])
    if frame.duplicated(["system", "query_id", "measure"]).any():
        raise InputError(f"measures: one is named twice in {', '.join(measures)}")
    return frame


def compare_rankings(
    values: pd.DataFrame,
    baseline: str,
    *,
    n_resamples: int = 2000,
    n_flips: int = N_FLIPS,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[RankingComparison]:
    """Every other system beside the baseline, by every measure, with intervals and tests over queries.

    Args:
        values: a table of `ranking_values`.
        baseline: one of its systems.

    Raises:
        InputError: there is no such system, there is no other one, or one is not measured on all queries.
    """
    systems, measures = list(values["system"].unique()), list(values["measure"].unique())
    if baseline not in systems or len(systems) < 2:
        raise InputError(f"baseline: {baseline!r} and another system are needed, and there are {', '.join(systems)}")
    of = values.pivot(index=["measure", "system"], columns="query_id", values="value")
    if of.isna().any(axis=None):
        raise InputError("values: not every system is measured on the same queries by the same measures")
    query_ids = [str(query_id) for query_id in of.columns]
    chosen = [(system, measure) for measure in measures for system in systems if system != baseline]
    ours = np.stack([of.loc[(measure, system)].to_numpy(dtype=np.float64) for system, measure in chosen])
    theirs = np.stack([of.loc[(measure, baseline)].to_numpy(dtype=np.float64) for _, measure in chosen])
    p_t, p_flip = _paired_t(ours - theirs), sign_flip_p_values(ours - theirs, query_ids, n_flips, seed)
    p_t_holm, p_flip_holm = holm(p_t), holm(p_flip)
    weights = bootstrap_weights(query_ids, n_resamples, seed) / len(query_ids) if len(query_ids) > 1 else None

    def estimate(of_queries: Float64[np.ndarray, " query"]) -> Estimate:
        low, high = (np.nan, np.nan) if weights is None else percentile_interval(weights @ of_queries, confidence)
        return Estimate(float(of_queries.mean()), float(low), float(high))

    return [
        RankingComparison(
            system=system,
            baseline=baseline,
            measure=measure,
            n_queries=len(query_ids),
            value=estimate(ours[i]),
            baseline_value=estimate(theirs[i]),
            difference=estimate(ours[i] - theirs[i]),
            p_t=float(p_t[i]),
            p_flip=float(p_flip[i]),
            p_t_holm=float(p_t_holm[i]),
            p_flip_holm=float(p_flip_holm[i]),
        )
        for i, (system, measure) in enumerate(chosen)
    ]


def holm(p_values: _PValues) -> _PValues:
    """Holm's corrected p-values; those that are NaN do not count and stay NaN."""
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return corrected


def _paired_t(differences: Float64[np.ndarray, "comparison query"]) -> _PValues:
    """Two-sided p of each comparison's mean difference; 1 where nothing differs.

    NaN with one query, and where all queries differ by the same: without a spread t has no value, and tells nothing.
    """
    if differences.shape[1] < 2:
        return np.full(len(differences), np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # differences without any spread
        p_values = stats.ttest_1samp(differences, 0.0, axis=1).pvalue
    largest = np.abs(differences).max(axis=1)
    p_values = np.where(differences.std(axis=1) <= 1e-12 * largest, np.nan, p_values)  # no more than rounding
    return np.where(largest == 0, 1.0, p_values)


def _parsed(text: str) -> Any:
    import ir_measures

    try:
        return ir_measures.parse_measure(text)
    except (NameError, ValueError) as error:
        reason = f" ({error})" if isinstance(error, NameError) else ""  # else its text is about the parser
        raise InputError(
            f"measures: {text!r} is none that ir-measures reads{reason}; write for example nDCG@10, AP or AP(rel=2)@100"
        ) from error


def _values(
    text: str, measure: Any, qrels: Mapping[str, dict[str, int]], run: Mapping[str, dict[str, float]]
) -> dict[str, float]:
    import ir_measures

    values = dict.fromkeys(qrels, 0.0)
    if not run:
        return values
    try:
        for metric in ir_measures.iter_calc([measure], qrels, run):
            values[metric.query_id] = float(metric.value)
    except (ValueError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"measures: ir-measures cannot compute {text!r} here ({reason})") from error
    return values
