"""How much of the judge is left when only a circuit is kept, and when it is knocked out?

A metric m of the verdicts (difference of LD between relevant and other documents, accuracy, F1, ROC AUC, nDCG@10):

    f(C)  = (m(C) - m(empty)) / (m(full) - m(empty))        0 as with every site ablated, 1 as the full model
    CPR   = integral of f(C_x) over the share x of sites in the circuit
    CMD   = integral of |1 - f(C_x)| over x

CPR (circuit performance ratio) and CMD (circuit-model distance) are those of Mueller et al., "MIB", arXiv 2504.13151
(2025): trapezoids over a linear x, from the smallest circuit that was measured to the full one; the share is the number
of sites that was kept over all sites. So CPR is at best 1 - x_min where f nowhere exceeds 1, and CMD at best 0.

    minimality      f(C) - f(C without v), for each member v                           large where v is needed
    incompleteness  |m(C without K) - m(M without K)| / (m(full) - m(empty))           0 for a complete circuit

of random parts K of the circuit, M being the whole model (Wang et al., arXiv 2211.00593, 2022, whose scores are not
normalised). Intervals are percentile bootstraps over queries: one resample draws the same queries for every set, so
that numerator and denominator go together. Where the full model's metric does not differ from the empty one's, f has no
interval.

Cost: no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64

from relscope.analysis.intervals import Estimate, bootstrap_weights, percentile_interval, queries_of
from relscope.analysis.quality import quality_measures, widened_where_all_agree
from relscope.errors import InputError

METRICS: Final = ("ld_gap", "f1", "accuracy", "roc_auc")
"""Of verdicts on pairs; a reranking adds its measure."""
CURVE_COLUMNS: Final = (
    "mode", "metric", "n_sites", "share", "value", "value_low", "value_high", "faithfulness", "faithfulness_low",
    "faithfulness_high",
)  # fmt: skip

_ONE_LD: Final = 1e-6
"""LDs no further apart are one: what batches of other shapes leave of float32."""
_Values = Float64[np.ndarray, " resample"]


@dataclass(frozen=True)
class Areas:
    """The areas of one metric's curve, and the share that it begins at."""

    metric: str
    cpr: Estimate
    cmd: Estimate
    from_share: float


class SetMetrics:
    """Metrics of every measured set under the same resamples of queries; the first column is of the queries themselves.

    Args:
        pair_rows: set, pair_id, ld_clean, ld_corrupted; every set of the same pairs.
        query_of: the query of each pair.
        ranking_rows: set, measure, query_id, value of rerankings, or None.

    Raises:
        InputError: there are no rows, or sets were measured on different pairs.
    """

    def __init__(
        self,
        pair_rows: pd.DataFrame,
        query_of: Mapping[str, str],
        ranking_rows: pd.DataFrame | None = None,
        *,
        n_resamples: int = 2000,
        seed: int = 0,
        confidence: float = 0.95,
    ) -> None:
        self.confidence = confidence
        self._values: dict[tuple[str, str], _Values] = {}
        self._one_answer: set[str] = set()
        of = {side: _wide(pair_rows, "pair_id", side) for side in ("ld_clean", "ld_corrupted")}
        pair_ids = of["ld_clean"].columns.to_series()
        query_ids = queries_of(pair_ids, query_of)
        self.n_pairs, self.n_queries = len(pair_ids), len(set(query_ids))
        weights = _weights(query_ids, n_resamples, seed)
        for name in of["ld_clean"].index:
            clean, corrupted = (of[side].loc[name].to_numpy(np.float64) for side in ("ld_clean", "ld_corrupted"))
            accuracy, f1, roc_auc, *_ = quality_measures(clean, corrupted, weights)
            gap = weights @ (clean - corrupted) / weights.sum(axis=1)
            named = {"ld_gap": gap, "f1": f1, "accuracy": accuracy, "roc_auc": roc_auc}
            self._values |= {(str(name), metric): values for metric, values in named.items()}
            if np.ptp([clean, corrupted]) <= _ONE_LD:
                self._one_answer.add(str(name))
        self.metrics: tuple[str, ...] = METRICS
        self._n_queries = dict.fromkeys(METRICS, self.n_queries)
        if ranking_rows is not None and len(ranking_rows):
            for measure, rows in ranking_rows.groupby("measure", sort=False):
                wide = _wide(rows, "query_id", "value")
                of_queries = _weights([str(q) for q in wide.columns], n_resamples, seed)
                means = wide.to_numpy(np.float64) @ (of_queries / of_queries.sum(axis=1, keepdims=True)).T
                self._values |= {(str(name), str(measure)): row for name, row in zip(wide.index, means, strict=True)}
                self.metrics += (str(measure),)
                self._n_queries[str(measure)] = len(wide.columns)

    def has(self, name: str, metric: str) -> bool:
        """Whether a set was measured by a metric."""
        return (name, metric) in self._values

    def value(self, name: str, metric: str) -> Estimate:
        """A set's metric; where every query agrees on one between 0 and 1, with the binomial's exact bound.

        A set that gives every prompt the same LD has its metrics by construction, on any queries: without a width.
        """
        found = self._estimate(self._values[name, metric])
        if metric == "ld_gap" or np.isnan(found.low) or (metric in METRICS and name in self._one_answer):
            return found
        value, low, high = (np.array([end]) for end in (found.value, found.low, found.high))
        low, high, exact = widened_where_all_agree(value, low, high, self._n_queries[metric], self.confidence)
        return Estimate(found.value, float(low[0]), float(high[0]), exact=bool(exact[0]))

    def faithfulness(self, name: str, metric: str) -> Estimate:
        """f of a set, which is called so by the sites that are not ablated."""
        return self._ratio(self._values[name, metric] - self._values["empty", metric], metric)

    def loss(self, whole: str, less: str, metric: str) -> Estimate:
        """f of a set less that of another."""
        return self._ratio(self._values[whole, metric] - self._values[less, metric], metric)

    def incompleteness(self, circuit: str, model: str, metric: str) -> Estimate:
        """|m of the circuit without K - m of the model without K|, as a share of full less empty."""
        return self._ratio(self._values[circuit, metric] - self._values[model, metric], metric, absolute=True)

    def areas(self, names: Sequence[str], shares: Sequence[float], metric: str) -> Areas:
        """CPR and CMD over sets in the order of their shares."""
        empty, gap, stable = self._gap(metric)
        f = (np.stack([self._values[name, metric] for name in names]) - empty) / gap
        cpr, cmd = areas_under(f, shares)
        return Areas(metric, self._estimate(cpr, stable), self._estimate(cmd, stable), shares[0])

    def _gap(self, metric: str) -> tuple[_Values, _Values, bool]:
        empty = self._values["empty", metric]
        gap = self._values["full", metric] - empty
        stable = len(gap) > 1
        if stable:
            low, high = percentile_interval(gap[1:], self.confidence)
            stable = bool((low > 0 or high < 0) and (gap != 0).all())
        return empty, np.where(gap == 0, np.nan, gap), stable

    def _ratio(self, difference: _Values, metric: str, *, absolute: bool = False) -> Estimate:
        _, gap, stable = self._gap(metric)
        share = difference / gap
        return self._estimate(np.abs(share) if absolute else share, stable)

    def _estimate(self, values: _Values, stable: bool = True) -> Estimate:
        if not stable or len(values) < 2:
            return Estimate(float(values[0]), np.nan, np.nan)
        low, high = percentile_interval(values[1:], self.confidence)
        return Estimate(float(values[0]), float(low), float(high))


def areas_under(faithfulness: Float64[np.ndarray, "size resample"], shares: Sequence[float]) -> tuple[_Values, _Values]:
    """CPR and CMD: the trapezoids of f and of |1 - f| over a linear share of sites.

    Raises:
        InputError: the shares do not rise.
    """
    x = np.asarray(shares, dtype=np.float64)
    if len(x) != len(faithfulness) or (np.diff(x) <= 0).any():
        raise InputError("shares: must rise, one for each size")
    return np.trapezoid(faithfulness, x, axis=0), np.trapezoid(np.abs(1.0 - faithfulness), x, axis=0)


def curve_table(metrics: SetMetrics, sizes: Sequence[int], n_sites: int) -> pd.DataFrame:
    """Faithfulness over size, kept alone (`keep`) and knocked out (`knock_out`): a row each, with CURVE_COLUMNS.

    Sets are called `keep N` and `knock_out N`. All sites kept, and none knocked out, are both the full model.
    """
    rows = []
    for mode in ("keep", "knock_out"):
        for metric in metrics.metrics:
            for size in (0, *sizes):
                name = set_name(mode, size, n_sites)
                if not metrics.has(name, metric):
                    continue
                value, f = metrics.value(name, metric), metrics.faithfulness(name, metric)
                rows.append((mode, metric, size, size / n_sites, value.value, value.low, value.high, f.value, f.low,
                             f.high))  # fmt: skip
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def set_name(mode: str, size: int, n_sites: int) -> str:
    """What a set of a curve is called: by what is not ablated, so that both ends of both modes are the same two."""
    if size in (0, n_sites):
        return "empty" if (mode == "keep") == (size == 0) else "full"
    return f"{mode} {size}"


def _wide(rows: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    if not len(rows):
        raise InputError("rows of the circuit: there are none yet")
    wide = rows.pivot(index="set", columns=column, values=value)
    if wide.isna().any(axis=None):
        raise InputError("rows of the circuit: not every set was measured on the same pairs or queries")
    return wide


def _weights(query_ids: Sequence[str], n_resamples: int, seed: int) -> Float64[np.ndarray, "resample pair"]:
    """The queries themselves, then resamples of them; the queries alone where there is one."""
    once = np.ones((1, len(query_ids)))
    if len(set(query_ids)) < 2:
        return once
    return np.concatenate([once, bootstrap_weights(query_ids, n_resamples, seed)])
