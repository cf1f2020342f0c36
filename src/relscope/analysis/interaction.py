"""Do the heads that match query and document in what they attend to also cause the verdict?

    S = mean over queries of (s(q, d_positive) - s(q, d_negative))        the attention interaction score

against each head's effect, over heads: Spearman's and Pearson's correlation, both signed. The intervals resample
queries, the same ones for S and for the effects: would other queries say the same of these heads? They say nothing of
other heads. `p_value` is the share of random relabellings of the heads with an |r| at least as large.

Source of S: experiment 7 of Liu, Mao and Wen 2025 (arXiv 2504.07898). Cost: no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64

from relscope.analysis.intervals import Estimate, check_confidence, percentile_interval, queries_of
from relscope.analysis.paired import resample_shares
from relscope.analysis.readouts import readout_means
from relscope.analysis.similarity import LEAST_SITES, pearson, spearman
from relscope.analysis.site_changes import site_changes

_HEAD: Final = ["layer", "head"]
_OfHeadPair = Float64[np.ndarray, "head pair"]


@dataclass(frozen=True)
class ScoreCorrelation:
    """How S and the effects of heads at one region go together; NaN where one of them is the same for all heads."""

    region: str
    direction: str
    spearman: Estimate
    pearson: Estimate
    p_value: float  # of Spearman's
    n_heads: int
    n_pairs: int
    n_queries: int


def interaction_score_means(
    interaction: pd.DataFrame, query_of: Mapping[str, str], *, n_resamples: int = 1000, confidence: float = 0.95
) -> pd.DataFrame:
    """S of every head: a query's pairs are averaged first, then the queries.

    Args:
        interaction: the readout INTERACTION.

    Returns:
        One row a head: layer, head, n_queries, `mean` (S), `low` and `high`.

    Raises:
        InputError: as `readout_means`.
    """
    of_query = interaction.assign(value=_difference(interaction), pair_id=queries_of(interaction["pair_id"], query_of))
    averaged = of_query.groupby([*_HEAD, "pair_id"], sort=False)["value"].mean().reset_index()
    itself = {query: query for query in averaged["pair_id"]}
    means = readout_means(averaged, _HEAD, itself, n_resamples=n_resamples, confidence=confidence)
    return means.drop(columns="n_pairs")


def score_correlations(
    interaction: pd.DataFrame,
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[ScoreCorrelation]:
    """S against the effect of `z`, at each region and direction of the experiment `heads`.

    Args:
        interaction: the readout INTERACTION.
        rows: rows as `Run.rows()` gives them.
        query_of: the query of each pair (`Manifest.query_of`).

    Returns:
        Over the pairs that have all heads in both; both are means over these pairs. None for a region with fewer than
        LEAST_SITES heads or no such pair.

    Raises:
        InputError: as `site_effects`.
    """
    check_confidence(confidence)
    changes = site_changes(rows[rows["experiment"] == "heads"], query_of)
    pair_ids = np.unique(rows.loc[rows["experiment"] == "heads", "pair_id"].astype(str).to_numpy(dtype=object))
    scores = interaction.assign(value=_difference(interaction)).pivot(index=_HEAD, columns="pair_id", values="value")
    found = []
    for (region, direction), sites in changes.sites.groupby(["region", "direction"], sort=False):
        heads = pd.MultiIndex.from_frame(sites[_HEAD].astype(np.int64))
        of_pairs = scores.reindex(index=heads, columns=pair_ids).to_numpy(dtype=np.float64)
        effect = changes.patched[sites.index.to_numpy()]
        both = ~(np.isnan(of_pairs) | np.isnan(effect)).any(axis=0)
        query_ids = tuple(query for query, kept in zip(changes.query_ids, both, strict=True) if kept)
        if len(sites) < LEAST_SITES or not query_ids:
            continue
        measured = (of_pairs[:, both], effect[:, both])
        of_ranks, of_values, p_value = _correlations(measured, query_ids, (n_resamples, seed, confidence))
        n_queries = len(set(query_ids))
        sizes = (len(sites), len(query_ids), n_queries)
        found.append(ScoreCorrelation(str(region), str(direction), of_ranks, of_values, p_value, *sizes))
    return found


def _difference(interaction: pd.DataFrame) -> pd.Series:
    positive, negative = (interaction[name].astype(np.float64) for name in ("positive", "negative"))
    return positive - negative


def _correlations(
    measured: tuple[_OfHeadPair, _OfHeadPair], query_ids: tuple[str, ...], resampling: tuple[int, int, float]
) -> tuple[Estimate, Estimate, float]:
    """Spearman's, Pearson's and the p of Spearman's."""
    n_resamples, seed, confidence = resampling
    means = [values.mean(axis=1)[None] for values in measured]
    estimates = []
    for measure in (spearman, pearson):
        low = high = float("nan")
        if len(set(query_ids)) > 1:
            shares = resample_shares(query_ids, n_resamples, seed)
            resampled = measure(*(np.ascontiguousarray((values @ shares).T) for values in measured))
            if np.isfinite(resampled).all():
                low, high = (float(end) for end in percentile_interval(resampled, confidence))
        estimates.append(Estimate(float(measure(*means)[0]), low, high))
    generator = np.random.default_rng(seed)
    relabelled = np.stack([generator.permutation(means[1][0]) for _ in range(n_resamples)])
    by_chance = np.abs(spearman(np.repeat(means[0], n_resamples, axis=0), relabelled))
    value = estimates[0].value
    # one more on both sides: the measured labelling is one of those that chance could have given
    hits = int((by_chance >= abs(value) - 1e-12).sum())
    p_value = (1 + hits) / (1 + n_resamples) if np.isfinite(value) else float("nan")
    return estimates[0], estimates[1], p_value
