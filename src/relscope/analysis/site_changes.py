"""Which change belongs to which site and pair? Patched rows as matrices [site, pair].

With `start` the run that is patched into and `end` the run that the patch comes from (denoise: corrupted and
clean; noise: clean and corrupted), each row gives

    patched = LD_patched - LD_start        gap = LD_end - LD_start        margin = p_patched - p_start

Cost: no forward pass; the rows are gone through once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from relscope.analysis.intervals import queries_of
from relscope.analysis.paired import site_table
from relscope.errors import InputError
from relscope.results import DIRECTIONS, NO_EFFECTS, SITE_COLUMNS

_VALUES = ["ld_clean", "ld_corrupted", "ld_patched", "p_clean", "p_corrupted", "p_patched"]

_Index = Int[np.ndarray, " row"]
_OfSitePair = Float64[np.ndarray, "site pair"]


@dataclass(frozen=True)
class SiteChanges:
    """Changes in LD, in logits, and in the probability margin; NaN where a pair lacks the site.

    Attributes:
        sites: SITE_COLUMNS, one row a site, in the order of first appearance.
        query_ids: the query of each pair.
        patched: LD_patched - LD_start.
        gap: LD_end - LD_start.
        margin: p_patched - p_start.
    """

    sites: pd.DataFrame
    query_ids: tuple[str, ...]
    patched: _OfSitePair
    gap: _OfSitePair
    margin: _OfSitePair

    def select(self, sites: Int[np.ndarray, " chosen"], pairs: Bool[np.ndarray, " pair"]) -> SiteChanges:
        """The same of these sites and pairs alone."""
        cells = np.ix_(sites, np.flatnonzero(pairs))
        queries = tuple(query for query, kept in zip(self.query_ids, pairs, strict=True) if kept)
        return SiteChanges(self.sites.iloc[sites], queries, self.patched[cells], self.gap[cells], self.margin[cells])


def site_changes(rows: pd.DataFrame, query_of: Mapping[str, str]) -> SiteChanges:
    """The changes that the patched rows of one run hold, site by site and pair by pair (sorted by their ids).

    Args:
        rows: rows as `Run.rows()` gives them; those of `NO_EFFECTS` ("judge", ...) are passed over.
        query_of: the query of each pair (`Manifest.query_of`).

    Raises:
        InputError: a row comes twice, holds a value that is not finite or an unknown direction, or its pair has no
            query.
    """
    of_effects = rows[~rows["experiment"].isin(NO_EFFECTS)].reset_index(drop=True)
    groups = of_effects.groupby(list(SITE_COLUMNS), dropna=False, observed=True, sort=False)
    site = np.asarray(groups.ngroup(), dtype=np.intp)
    pair_ids, pair = np.unique(of_effects["pair_id"].astype(str).to_numpy(dtype=object), return_inverse=True)
    query_ids = tuple(queries_of(pd.Series(pair_ids, dtype=object), query_of))
    _check(of_effects, site, pair, len(pair_ids))
    first_row = np.unique(site, return_index=True)[1]
    of_row = {name: of_effects[name].to_numpy(dtype=np.float64) for name in _VALUES}
    denoise = (of_effects["direction"] == "denoise").to_numpy(dtype=bool)
    start = np.where(denoise, of_row["ld_corrupted"], of_row["ld_clean"])
    end = np.where(denoise, of_row["ld_clean"], of_row["ld_corrupted"])
    p_start = np.where(denoise, of_row["p_corrupted"], of_row["p_clean"])
    matrices = []
    for values in (of_row["ld_patched"] - start, end - start, of_row["p_patched"] - p_start):
        matrix = np.full((len(first_row), len(pair_ids)), np.nan)
        matrix[site, pair] = values
        matrices.append(matrix)
    return SiteChanges(site_table(of_effects.iloc[first_row]), query_ids, *matrices)


def _check(of_effects: pd.DataFrame, site: _Index, pair: _Index, n_pairs: int) -> None:
    finite = np.isfinite(of_effects[_VALUES].to_numpy(dtype=np.float64))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(f"rows: {_VALUES[column]} of pair {of_effects['pair_id'].iloc[row]} is not finite")
    directions = set(of_effects["direction"].dropna().unique()) if of_effects["direction"].notna().all() else {None}
    if not directions <= set(DIRECTIONS):
        raise InputError(f"rows: direction must be one of {', '.join(DIRECTIONS)} in every patched row")
    if len(np.unique(site.astype(np.int64) * n_pairs + pair)) != len(site):
        raise InputError("rows: a site of a pair comes twice; give the rows of one run")
