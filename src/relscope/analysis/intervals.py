"""How sure is a number that was computed from these queries? Bootstrap intervals over queries.

Pairs of one query share it and are not independent, so whole queries are resampled, with replacement
(a cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A
resample is kept as weights: how often each pair was drawn. A mean under all resamples is then one matrix
product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import stats

from relscope.errors import InputError

_ROUNDING: Final = 1e-12
"""Ends that lie closer are one number: float64 sums of the same few values in another order."""


@dataclass(frozen=True)
class Estimate:
    """A value with its percentile interval.

    `low` and `high` are NaN where no interval can be given, as from one query alone. `exact` is True where they are the
    binomial's exact bound instead, because every resample gave the same number.
    """

    value: float
    low: float
    high: float
    exact: bool = field(default=False, kw_only=True)

    @property
    def no_width(self) -> bool:
        """True where every resample gave the same number, so that the interval's ends are one."""
        return bool(self.high - self.low < _ROUNDING)

    def as_dict(self) -> dict[str, float | None]:
        """`value`, `low` and `high` for JSON, where NaN becomes null."""
        return {
            name: None if np.isnan(number) else float(number)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval_method(estimates: Iterable[Estimate]) -> str:
    """How the intervals of a table were found, for the brackets behind "intervals over queries"."""
    exact = any(estimate.exact for estimate in estimates)
    return "bootstrap; where all queries agree, the exact bound" if exact else "bootstrap"


def bootstrap_weights(query_ids: Sequence[str], n_resamples: int, seed: int) -> Float64[np.ndarray, "resample pair"]:
    """How often each pair is drawn when queries are resampled with replacement.

    Args:
        query_ids: the query of each pair, in the order of the pairs.

    Returns:
        [resample, pair] float64 counts. All pairs of one query have the same count, and over queries the counts of one
        resample sum to the number of queries. A query's draws depend on its place among the sorted query ids only,
        neither on the order of the pairs nor on how many pairs a query has.

    Raises:
        InputError: no pairs, or fewer than one resample.
    """
    if len(query_ids) == 0:
        raise InputError("no pairs to resample: an interval needs at least one")
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}; give at least 1")
    queries, cluster = np.unique(np.asarray(query_ids, dtype=str), return_inverse=True)
    n_queries = len(queries)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n_queries, np.full(n_queries, 1.0 / n_queries), size=n_resamples)
    return counts.astype(np.float64)[:, cluster]


def percentile_interval(
    resampled: Float64[np.ndarray, "*site resample"], confidence: float
) -> tuple[Float64[np.ndarray, "*site"], Float64[np.ndarray, "*site"]]:
    """Lower and upper percentile of `resampled` over its last axis.

    Raises:
        InputError: `confidence` is not between 0 and 1.
    """
    check_confidence(confidence)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=-1)
    return np.asarray(low), np.asarray(high)


def excluded_by_chance(n_queries: int, confidence: float) -> float:
    """Share of percentile intervals over queries that exclude 0 where there is no effect; NaN with one query.

    1 - confidence, were the queries many. A resample of n queries spreads by sqrt((n - 1) / n) of their standard error,
    and that is known from n - 1 degrees of freedom only, so that for normal changes the share is near

        P(|t of n - 1 degrees| > z sqrt((n - 1) / n))            0.25, 0.13, 0.10, 0.06 for n = 3, 6, 10, 50

    (Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015), and never below
    2^(1 - n), the share of sites on which all queries agree in sign.
    """
    check_confidence(confidence)
    if n_queries < 2:
        return math.nan
    z = stats.norm.ppf((1.0 + confidence) / 2.0)
    beyond = 2.0 * stats.t.sf(z * math.sqrt((n_queries - 1) / n_queries), n_queries - 1)
    return max(float(beyond), 2.0 ** (1 - n_queries))


def check_confidence(confidence: float) -> None:
    """Refuse a confidence level outside the open interval (0, 1), which often is a percentage by mistake."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; give a number between 0 and 1, such as 0.95")


def queries_of(pair_ids: pd.Series, query_of: Mapping[str, str]) -> list[str]:
    """The query of each pair.

    Raises:
        InputError: a pair is not in `query_of`, as when rows and manifest are of different runs.
    """
    unknown = sorted({str(pair_id) for pair_id in pair_ids.unique()} - query_of.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} pairs of the rows have no query, such as {unknown[0]!r}; "
            "are rows and manifest of the same run?"
        )
    return [query_of[str(pair_id)] for pair_id in pair_ids]
