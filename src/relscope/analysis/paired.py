"""Which numbers of two models may be compared? Those of the same site on the same pair, measured in both.

What one model has and the other lacks (a run that is still growing, a pair that one of them filtered) is left out of
both sides, so that every difference is one between models and never one between pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from relscope.analysis.intervals import bootstrap_weights, queries_of
from relscope.errors import InputError
from relscope.results import DIRECTIONS, NO_EFFECTS, SITE_COLUMNS

OfSitePair = Float64[np.ndarray, "site pair"]
_VALUES = ["ld_clean", "ld_corrupted", "ld_patched"]


@dataclass(frozen=True)
class PairedSites:
    """Changes in LD of the same sites on the same pairs in two models, in logits; NaN where one of them has none.

    Attributes:
        sites: SITE_COLUMNS, one row a site, in the order of first appearance in the base model's rows.
        query_ids: the query of each pair.
        pair_ids: the pairs, sorted.
        effect_base: LD_patched - LD_start of the base model; `effect_tuned` of the tuned one.
        gap_base: LD_end - LD_start of the base model; `gap_tuned` of the tuned one.
    """

    sites: pd.DataFrame
    pair_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    effect_base: OfSitePair
    effect_tuned: OfSitePair
    gap_base: OfSitePair
    gap_tuned: OfSitePair

    def complete(self) -> PairedSites:
        """The same with only those pairs on which every site was measured in both models."""
        return self._of_pairs(~np.isnan(self.effect_base).any(axis=0))

    def of_pairs(self, pair_ids: set[str]) -> PairedSites:
        """The same with only those of its pairs that are among `pair_ids`."""
        return self._of_pairs(np.array([pair in pair_ids for pair in self.pair_ids], dtype=bool))

    def _of_pairs(self, kept: Bool[np.ndarray, " pair"]) -> PairedSites:
        return PairedSites(
            self.sites,
            tuple(pair for pair, keep in zip(self.pair_ids, kept, strict=True) if keep),
            tuple(query for query, keep in zip(self.query_ids, kept, strict=True) if keep),
            *(m[:, kept] for m in (self.effect_base, self.effect_tuned, self.gap_base, self.gap_tuned)),
        )


def paired_sites(rows_base: pd.DataFrame, rows_tuned: pd.DataFrame, query_of: Mapping[str, str]) -> PairedSites:
    """Match the patched rows of two runs, site by site and pair by pair.

    Args:
        rows_base: rows as `Run.rows()` gives them; those of `NO_EFFECTS` ("judge", ...) are passed over.
        rows_tuned: the same of the tuned model.
        query_of: the query of each pair (`Manifest.query_of`).

    Raises:
        InputError: a row comes twice in one of the runs, holds a value that is not finite or an unknown direction, or
            its pair has no query.
    """
    frames = [rows[~rows["experiment"].isin(NO_EFFECTS)] for rows in (rows_base, rows_tuned)]
    columns = [*SITE_COLUMNS, "pair_id", *_VALUES]
    keys = [name for name in columns if name not in (*_VALUES, "layer", "head")]
    # as objects: categories differ between the runs
    both = pd.concat([frame[columns].astype(dict.fromkeys(keys, object)) for frame in frames], ignore_index=True)
    of_base = np.arange(len(both)) < len(frames[0])
    _check(both, of_base)
    if len(both) == 0:
        nothing = np.zeros((0, 0))
        return PairedSites(both[list(SITE_COLUMNS)], (), (), nothing, nothing, nothing, nothing)
    groups = both.groupby(list(SITE_COLUMNS), dropna=False, sort=False)
    site = np.asarray(groups.ngroup(), dtype=np.intp)
    pair_ids, pair = np.unique(both["pair_id"].astype(str).to_numpy(dtype=object), return_inverse=True)
    first_row = np.unique(site, return_index=True)[1]
    shape = (len(first_row), len(pair_ids))
    matrices = [_matrices(both, site, pair, chosen, shape) for chosen in (of_base, ~of_base)]
    missing = np.isnan(matrices[0][0]) | np.isnan(matrices[1][0])
    for matrix in (matrix for of_model in matrices for matrix in of_model):
        matrix[missing] = np.nan
    has_pairs, has_sites = ~missing.all(axis=1), ~missing.all(axis=0)
    kept = pair_ids[has_sites]
    cells = np.ix_(has_pairs, has_sites)
    return PairedSites(
        site_table(both.iloc[first_row[has_pairs]]),
        tuple(str(pair_id) for pair_id in kept),
        tuple(queries_of(pd.Series(kept, dtype=object), query_of)),
        matrices[0][0][cells],
        matrices[1][0][cells],
        matrices[0][1][cells],
        matrices[1][1][cells],
    )


def same_pairs(
    values: OfSitePair, most_sites: int
) -> Iterator[tuple[Int[np.ndarray, " chosen"], Bool[np.ndarray, " pair"]]]:
    """(sites, pairs): groups of at most `most_sites` sites that were all measured on exactly the same pairs."""
    patterns, pattern_of = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    for number, pairs in enumerate(patterns):
        sites = np.flatnonzero(pattern_of.reshape(-1) == number)
        for start in range(0, len(sites), most_sites):
            yield sites[start : start + most_sites], pairs


@lru_cache(maxsize=4)  # chunks of sites ask for the same ones one after the other
def resample_shares(query_ids: tuple[str, ...], n_resamples: int, seed: int) -> Float64[np.ndarray, "pair resample"]:
    """Weights that sum to 1 over pairs in each resample of the queries: a product with them is a resampled mean."""
    weights = bootstrap_weights(query_ids, n_resamples, seed)
    shares = np.ascontiguousarray((weights / weights.sum(axis=1, keepdims=True)).T)
    shares.flags.writeable = False  # callers share it
    return shares


def site_table(first_rows: pd.DataFrame) -> pd.DataFrame:
    """The site columns of one row a site: text as str or None, layer and head as Int16."""
    sites = first_rows[list(SITE_COLUMNS)].reset_index(drop=True)
    for name in SITE_COLUMNS:
        if name in ("layer", "head"):
            sites[name] = sites[name].astype("Int16")
        else:
            texts = sites[name].astype(object)
            sites[name] = texts.where(texts.notna(), None)
    return sites


def _check(both: pd.DataFrame, of_base: Bool[np.ndarray, " row"]) -> None:
    finite = np.isfinite(both[_VALUES].to_numpy(dtype=np.float64))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(f"rows: {_VALUES[column]} of pair {both['pair_id'].iloc[row]} is not finite")
    if not both["direction"].isin(list(DIRECTIONS)).all():
        raise InputError(f"rows: direction must be one of {', '.join(DIRECTIONS)} in every patched row")
    for name, chosen in (("base", of_base), ("tuned", ~of_base)):
        if both.loc[chosen, [*SITE_COLUMNS, "pair_id"]].duplicated().any():
            raise InputError(f"rows of the {name} model: a site of a pair comes twice; give the rows of one run")


def _matrices(
    both: pd.DataFrame,
    site: Int[np.ndarray, " row"],
    pair: Int[np.ndarray, " row"],
    chosen: Bool[np.ndarray, " row"],
    shape: tuple[int, int],
) -> tuple[OfSitePair, OfSitePair]:
    """Effect and gap of one model's rows, [site, pair]."""
    clean, corrupted, patched = (both[name].to_numpy(dtype=np.float64)[chosen] for name in _VALUES)
    denoise = (both["direction"] == "denoise").to_numpy(dtype=bool)[chosen]
    start, end = np.where(denoise, corrupted, clean), np.where(denoise, clean, corrupted)
    effect, gap = np.full(shape, np.nan), np.full(shape, np.nan)
    effect[site[chosen], pair[chosen]] = patched - start
    gap[site[chosen], pair[chosen]] = end - start
    return effect, gap
