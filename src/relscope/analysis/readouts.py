"""What do readouts say on average, and how sure is that?

    mean        over pairs, for each item (a part of LD, a layer at a region, ...)
    remainder   largest |LD - sum of its parts| over all runs: 0 but for rounding, or the parts are not all there

Intervals are percentile bootstraps over queries. A readout intervenes nowhere: its mean is no effect.

Cost: no forward pass; one matrix product [item, pair] @ [pair, resample].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from relscope.analysis.intervals import check_confidence, percentile_interval, queries_of
from relscope.analysis.paired import resample_shares
from relscope.errors import InputError


@dataclass(frozen=True)
class Remainder:
    """What the parts of LD leave over, in logits; NaN and 0 runs where nothing was read."""

    largest: float
    n_runs: int


def readout_means(
    table: pd.DataFrame,
    by: Sequence[str],
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The mean of `value` over pairs for each combination of the columns `by`, with an interval over queries.

    Args:
        table: has the columns `by`, `pair_id` and `value`; each combination on every pair once.
        by: what makes an item, such as part, layer and head; nulls are values like any other.
        query_of: the query of each pair (`Manifest.query_of`).

    Returns:
        One row an item, in the order of first appearance: `by`, `n_pairs`, `n_queries`, `mean`, `low` and `high` (NaN
        where the pairs are of one query alone).

    Raises:
        InputError: an item comes twice on a pair or lacks one, a pair has no query, or fewer than one resample.
    """
    check_confidence(confidence)
    names = list(by)
    table = table.reset_index(drop=True)
    item = table.groupby(names, dropna=False, observed=True, sort=False).ngroup().to_numpy(dtype=np.intp)
    pair_ids, pair = np.unique(table["pair_id"].astype(str).to_numpy(dtype=object), return_inverse=True)
    first = np.unique(item, return_index=True)[1]
    if len(table) != len(first) * len(pair_ids) or table.duplicated([*names, "pair_id"]).any():
        raise InputError(
            f"readout: each {', '.join(names)} is needed once on every pair; some come twice or not at all"
        )
    values = np.zeros((len(first), len(pair_ids)))
    values[item, pair] = table["value"].to_numpy(dtype=np.float64)
    query_ids = tuple(queries_of(pd.Series(pair_ids, dtype=object), query_of))
    low = high = np.full(len(first), np.nan)
    if len(set(query_ids)) > 1:
        low, high = percentile_interval(values @ resample_shares(query_ids, n_resamples, seed), confidence)
    of_item = table.iloc[first][names].reset_index(drop=True)
    mean = values.mean(axis=1) if len(pair_ids) else np.zeros(0)
    return of_item.assign(
        n_pairs=len(pair_ids), n_queries=len(set(query_ids)), mean=mean, low=np.asarray(low), high=np.asarray(high)
    )


def clean_minus_corrupted(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """`column` of the clean run less that of the corrupted run, on each pair: `by`, `pair_id` and `value`.

    Args:
        table: a readout of both runs, with a column `run`.

    Raises:
        InputError: an item of one run is not in the other.
    """
    keys = [*by, "pair_id"]
    clean, corrupted = (table.loc[table["run"] == run, [*keys, column]] for run in ("clean", "corrupted"))
    both = clean.merge(corrupted, on=keys, suffixes=("_clean", "_corrupted"), validate="one_to_one")
    if not len(both) == len(clean) == len(corrupted):
        raise InputError(
            f"readout: {len(clean)} values of clean runs, {len(corrupted)} of corrupted, {len(both)} of both"
        )
    of_clean, of_corrupted = (both[f"{column}_{run}"].astype(np.float64) for run in ("clean", "corrupted"))
    return both[keys].assign(value=of_clean - of_corrupted)


def remainder(contributions: pd.DataFrame) -> Remainder:
    """How far the parts are from summing to LD, in the worst of all runs.

    Args:
        contributions: the readout CONTRIBUTIONS.
    """
    if not len(contributions):
        return Remainder(math.nan, 0)
    whole = contributions["part"] == "logit_diff"
    runs = [contributions["pair_id"], contributions["run"]]
    values = contributions["value"].astype(np.float64)
    left = values.where(whole, -values).groupby([of.astype(str) for of in runs]).sum()
    return Remainder(float(left.abs().max()), len(left))
