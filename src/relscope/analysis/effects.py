"""How much of the verdict does each site cause?

With `start` the run that is patched into and `end` the run that the patch comes from (denoise: corrupted and
clean; noise: clean and corrupted), over the pairs of a site:

    effect      = mean(LD_patched - LD_start)                                    in logits
    IE          = mean(LD_patched - LD_start) / mean(LD_end - LD_start)          0 none, 1 all
    IE per pair = mean((LD_patched - LD_start) / (LD_end - LD_start))            over pairs with a gap

IE is a ratio of means: in the mean of ratios, a pair that the model barely separates would dominate through
its near-zero denominator. Both normalisations are in use (Liu, Mao and Wen, arXiv 2504.07898). Intervals are
percentile bootstraps over queries, in which numerator and denominator are resampled together. `significance` says
what p and q are.

Cost: no forward pass; one matrix product [site, pair] @ [pair, resample] for each quantity, and one for p.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from relscope.analysis.intervals import check_confidence, percentile_interval
from relscope.analysis.paired import resample_shares, same_pairs
from relscope.analysis.significance import N_FLIPS, check_flips, q_values, sign_flip_p_values
from relscope.analysis.site_changes import SiteChanges, site_changes
from relscope.results import SITE_COLUMNS

EFFECT_COLUMNS: Final = (
    *SITE_COLUMNS,
    "n_pairs",
    "n_queries",
    "effect",
    "effect_low",
    "effect_high",
    "p_value",
    "q_value",
    "ie",
    "ie_low",
    "ie_high",
    "unstable_ie",
    "p_effect",
    "p_effect_low",
    "p_effect_high",
    "gap",
    "gap_low",
    "gap_high",
    "ie_per_pair",
    "n_tiny_gap",
)
TINY_GAP: Final = 0.1
"""A pair whose |LD_end - LD_start| is below this many logits is left out of `ie_per_pair`, and counted."""

_MOST_CELLS = 16_000_000
"""Float64 cells of the working arrays of one chunk of sites: 128 MB."""
_RESAMPLED_ARRAYS = 5  # effect, gap, ratio, margin, and the copy that the percentile sorts

_OfSite = Float64[np.ndarray, " site"]
_Columns = dict[str, np.ndarray]  # each [site]


@dataclass(frozen=True)
class _Resampling:
    n_resamples: int
    n_flips: int
    seed: int
    confidence: float


def site_effects(
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    n_flips: int = N_FLIPS,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The effect of each site, with intervals over queries and the chance that it is none.

    Args:
        rows: rows as `Run.rows()` gives them; those of `NO_EFFECTS` ("judge", ...) are passed over.
        query_of: the query of each pair (`Manifest.query_of`).
        n_resamples: of the queries, for the intervals.
        n_flips: random sign patterns of the queries, for `p_value`; all of them where they are no more than this.

    Returns:
        One row a site, in the order of first appearance, with EFFECT_COLUMNS:

        - the site: experiment, component, layer, head, region, dest, src, direction;
        - `n_pairs`, `n_queries`: the pairs that have the site (they differ between sites while a run grows);
        - `effect`: mean change in LD, in logits; `p_effect`: mean change of the probability margin;
        - `p_value`: how likely chance alone gives so large an |effect| (sign flips of whole queries, two-sided);
          `q_value`: the same, corrected for all sites of the experiment and direction (Benjamini-Hochberg); both are
          NaN where the pairs are of one query alone (`significance` has the details);
        - `gap`: mean of LD_end - LD_start, in logits; `ie` = effect / gap;
        - `*_low`, `*_high`: percentile interval; NaN where the pairs are of one query alone;
        - `unstable_ie`: the interval of `gap` includes 0 (or there is none), so that the ratio has no bounded interval:
          `ie_low` and `ie_high` are NaN; `ie` itself is NaN only where `gap` is exactly 0;
        - `ie_per_pair`: mean of the pairs' own ratios, over pairs whose |gap| >= TINY_GAP; NaN if no pair is left;
          `n_tiny_gap`: how many pairs were left out of it.

    Raises:
        InputError: a row comes twice, holds a value that is not finite or an unknown direction, or its pair has no
            query.
    """
    check_confidence(confidence)
    check_flips(n_flips)
    changes = site_changes(rows, query_of)
    n_sites = len(changes.sites)
    if n_sites == 0:
        return _no_effects()
    resampling = _Resampling(n_resamples, n_flips, seed, confidence)
    columns: _Columns = {}
    n_cells = 3 * changes.patched.shape[1] + _RESAMPLED_ARRAYS * n_resamples
    for sites, pairs in same_pairs(changes.patched, max(1, _MOST_CELLS // n_cells)):
        for name, values in _group_effects(changes.select(sites, pairs), resampling).items():
            columns.setdefault(name, np.zeros(n_sites, dtype=values.dtype))[sites] = values
    effects = changes.sites.assign(**columns)
    tested_together = effects.groupby(["experiment", "direction"], sort=False)["p_value"]
    effects["q_value"] = tested_together.transform(lambda p_values: q_values(p_values.to_numpy(dtype=np.float64)))
    return effects[list(EFFECT_COLUMNS)]


def _group_effects(changes: SiteChanges, resampling: _Resampling) -> _Columns:
    """The numbers of sites that were all measured on the same pairs."""
    n_sites, n_pairs = changes.patched.shape
    n_queries = len(set(changes.query_ids))
    effect, gap, margin = (values.mean(axis=1) for values in (changes.patched, changes.gap, changes.margin))
    no_interval = (np.full(n_sites, np.nan), np.full(n_sites, np.nan))
    of_effect = of_gap = of_margin = of_ie = no_interval
    unstable = np.ones(n_sites, dtype=bool)
    if n_queries > 1:
        weights = resample_shares(changes.query_ids, resampling.n_resamples, resampling.seed)
        effects, gaps = changes.patched @ weights, changes.gap @ weights  # [site, resample]
        of_effect = percentile_interval(effects, resampling.confidence)
        of_gap = percentile_interval(gaps, resampling.confidence)
        of_margin = percentile_interval(changes.margin @ weights, resampling.confidence)
        # A gap of exactly 0 in any resample leaves a ratio undefined, whatever the percentiles are.
        unstable = ((of_gap[0] <= 0) & (of_gap[1] >= 0)) | (gaps == 0).any(axis=1)
        of_ie = (np.full(n_sites, np.nan), np.full(n_sites, np.nan))
        stable = ~unstable
        if stable.any():
            interval = percentile_interval(effects[stable] / gaps[stable], resampling.confidence)
            of_ie[0][stable], of_ie[1][stable] = interval
    per_pair, n_tiny = _ie_per_pair(changes)
    return {
        "n_pairs": np.full(n_sites, n_pairs, dtype=np.int64),
        "n_queries": np.full(n_sites, n_queries, dtype=np.int64),
        "effect": effect,
        "effect_low": of_effect[0],
        "effect_high": of_effect[1],
        "p_value": sign_flip_p_values(changes.patched, changes.query_ids, resampling.n_flips, resampling.seed),
        "ie": np.divide(effect, gap, out=np.full(n_sites, np.nan), where=gap != 0),
        "ie_low": of_ie[0],
        "ie_high": of_ie[1],
        "unstable_ie": unstable,
        "p_effect": margin,
        "p_effect_low": of_margin[0],
        "p_effect_high": of_margin[1],
        "gap": gap,
        "gap_low": of_gap[0],
        "gap_high": of_gap[1],
        "ie_per_pair": per_pair,
        "n_tiny_gap": n_tiny,
    }


def _ie_per_pair(changes: SiteChanges) -> tuple[_OfSite, Int[np.ndarray, " site"]]:
    """Mean of the pairs' own ratios, and how many pairs were left out of it for their tiny gap."""
    tiny = np.abs(changes.gap) < TINY_GAP
    ratios = np.divide(changes.patched, changes.gap, out=np.zeros_like(changes.gap), where=~tiny)
    n_kept = (~tiny).sum(axis=1)
    mean = np.divide(ratios.sum(axis=1), n_kept, out=np.full(len(n_kept), np.nan), where=n_kept > 0)
    return mean, tiny.sum(axis=1).astype(np.int64)


def _no_effects() -> pd.DataFrame:
    kinds = {"layer": "Int16", "head": "Int16", "unstable_ie": "bool"}
    kinds |= dict.fromkeys(("n_pairs", "n_queries", "n_tiny_gap"), "int64")
    kinds |= {name: "object" for name in SITE_COLUMNS if name not in kinds}
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "float64")) for name in EFFECT_COLUMNS})
