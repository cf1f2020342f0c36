"""Would other queries have given the same effects?

Split-half stability of an experiment: the queries are divided at random into two halves, each site's mean effect is
computed in both, and the two lists are correlated over all sites of the experiment; so again for many random divisions.
All pairs of a query fall into the same half. Effects keep their sign.

Half of the queries give noisier effects than all of them. For the Pearson correlation r of two halves, the
Spearman-Brown formula (Spearman, and Brown, British Journal of Psychology 3, 1910) gives what two whole runs of as many
queries would reach:

    r_whole = 2 r / (1 + r)

The interval is that of the divisions: how much the answer depends on which queries fall together. All divisions
share the same queries, so that it is no confidence interval for other queries. Read the correlation beside the maps:
a few very large effects, or many sites that no patch can change, make it high.

Cost: no forward pass; O(n log n) a division for n sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64

from relscope.analysis.intervals import Estimate, check_confidence, percentile_interval
from relscope.analysis.similarity import LEAST_SITES, pearson, spearman
from relscope.analysis.site_changes import site_changes
from relscope.errors import InputError

N_SPLITS: Final = 1000
_MOST_CELLS = 4_000_000
"""Float64 effects of one chunk of divisions, of which some eight copies are needed to rank them: 256 MB."""
_NONE = Estimate(math.nan, math.nan, math.nan)

_OfSplit = Float64[np.ndarray, " split"]


@dataclass(frozen=True)
class Stability:
    """How well two halves of the queries agree on the effects of one experiment and direction.

    Attributes:
        spearman: mean over the divisions, with the interval that holds `confidence` of them; NaN where there are
            fewer than two queries or LEAST_SITES sites, or where in some half no site differs from another.
        pearson: the same.
        n_pairs: those on which every site of the experiment was measured; only these are used.
    """

    experiment: str
    direction: str
    spearman: Estimate
    pearson: Estimate
    n_sites: int
    n_pairs: int
    n_queries: int

    @property
    def n_divisions(self) -> int:
        """In how many ways the queries can be divided at all: 1 with two, 10 with six, 126 with nine."""
        first = self.n_queries // 2
        ways = math.comb(self.n_queries, first)
        return ways // 2 if self.n_queries == 2 * first else ways

    @property
    def pearson_of_whole(self) -> float:
        """What two whole runs would reach (Spearman-Brown); NaN where the halves do not agree at all (r < 0)."""
        r = self.pearson.value
        return 2 * r / (1 + r) if r >= 0 else math.nan


def split_half_stability(
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Stability]:
    """The split-half stability of each experiment and direction, in the order of first appearance.

    Args:
        rows: rows as `Run.rows()` gives them; those of `NO_EFFECTS` ("judge", ...) are passed over.
        query_of: the query of each pair (`Manifest.query_of`).
        n_splits: random divisions; with an odd number of queries the second half has one more.

    Raises:
        InputError: as `site_effects`; or fewer than one division.
    """
    check_confidence(confidence)
    if n_splits < 1:
        raise InputError(f"n_splits is {n_splits}; give at least 1")
    changes = site_changes(rows, query_of)
    found = []
    for (experiment, direction), sites in changes.sites.groupby(["experiment", "direction"], sort=False):
        effects = changes.patched[sites.index.to_numpy()]
        complete = ~np.isnan(effects).any(axis=0)
        query_ids = [query for query, kept in zip(changes.query_ids, complete, strict=True) if kept]
        n_queries = len(set(query_ids))
        of_ranks, of_values = _NONE, _NONE
        if n_queries >= 2 and len(sites) >= LEAST_SITES:
            halves = half_shares(query_ids, n_splits, seed)
            of_ranks, of_values = (_summary(r, confidence) for r in _correlations(effects[:, complete], *halves))
        found.append(
            Stability(str(experiment), str(direction), of_ranks, of_values, len(sites), int(complete.sum()), n_queries)
        )
    return found


def half_shares(
    query_ids: Sequence[str], n_splits: int, seed: int
) -> tuple[Float64[np.ndarray, "pair split"], Float64[np.ndarray, "pair split"]]:
    """Weights whose product with pairs is the mean of the first half of the queries, and that of the second half."""
    queries, query = np.unique(np.asarray(query_ids, dtype=str), return_inverse=True)
    n_queries = len(queries)
    places = np.tile(np.arange(n_queries), (n_splits, 1))
    first = (np.random.default_rng(seed).permuted(places, axis=1) < n_queries // 2)[:, query].T  # [pair, split]
    return first / first.sum(axis=0), ~first / (~first).sum(axis=0)


def _correlations(
    effects: Float64[np.ndarray, "site pair"],
    first: Float64[np.ndarray, "pair split"],
    second: Float64[np.ndarray, "pair split"],
) -> tuple[_OfSplit, _OfSplit]:
    """Spearman's and Pearson's correlation of the two halves' effects in each division."""
    n_splits = first.shape[1]
    of_ranks, of_values = np.empty(n_splits), np.empty(n_splits)
    step = max(1, _MOST_CELLS // len(effects))
    for start in range(0, n_splits, step):
        chunk = slice(start, start + step)
        one, other = (np.ascontiguousarray((effects @ shares[:, chunk]).T) for shares in (first, second))
        of_ranks[chunk], of_values[chunk] = spearman(one, other), pearson(one, other)
    return of_ranks, of_values


def _summary(correlations: _OfSplit, confidence: float) -> Estimate:
    if np.isnan(correlations).any():
        return _NONE
    low, high = (float(end) for end in percentile_interval(correlations, confidence))
    return Estimate(float(correlations.mean()), low, high)
