"""Do two runs find the same mechanism: other prompts, orders of the parts, data, or another model?

The strengths of the sites (or depths) that both runs have (`matching`) are compared by the measures of `similarity`:
|mean effect over pairs| of each site, in logits; all measures are blind to scale and sign. Beside each value:

- its interval: percentile bootstrap over queries. A query that both runs have is drawn as often in both, so that what
  is hard about it is in both (`joint_shares`); runs without a common query draw apart. A resampled ranking is noisier
  than the measured one, so that an interval may lie below its value.
- `chance`: the sites of one run relabelled at random, all of those compared. It answers whether the two have anything
  in common. Effects rise and fall with depth and differ between regions, and sharing that much is enough to beat it.
- `in_layers`: relabelled among the heads of the same layer and place only. It answers whether the same heads matter,
  beyond the same layers. It exists where a layer has several sites at a place.
- the ceiling: the same measure between two random halves of one run's queries, the mean over `n_splits` divisions, for
  each run. Two runs cannot be expected to agree better than one with itself. A half is noisier than the whole, so that
  the ceiling is somewhat too low; and runs share the noise of the queries that they share, so that they may exceed it.
  `ceilings_low` is what all but 2.5 % of the divisions reach: far below the ceiling, the queries are too few for it.

Cost: no forward pass; two rankings of n sites for each resample, one for each relabelling and four for each division.
Some 5 ms for each of them at n = 5,120 sites, of which Kendall's tau by sorting takes 1 ms; no measure is thinned out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from relscope.analysis.intervals import Estimate, check_confidence
from relscope.analysis.matching import Matched, RunEffects, Side, Unmatched, match_runs, without
from relscope.analysis.paired import resample_shares
from relscope.analysis.similarity import (
    LEAST_SITES,
    MEASURES,
    Chance,
    chances,
    interval_of,
    random_ties,
    relabellings,
    similarities,
)
from relscope.analysis.stability import half_shares
from relscope.errors import InputError

N_SPLITS = 200
"""Divisions of the queries behind a ceiling: a standard error of the mean of a fourteenth of their spread."""


@dataclass(frozen=True)
class MeasuredSimilarity:
    """How alike two runs are by one measure, beside what chance gives and what one run reaches with itself.

    Attributes:
        value: NaN where the measure does not exist (all effects equal, or no more sites than an overlap asks for).
        chance: all sites relabelled.
        in_layers: heads relabelled within their layer and place; None where no layer has several sites at a place.
        ceilings: of each run; NaN with fewer than two queries.
        ceilings_low: the lower percentile, at the confidence of the intervals, of the divisions behind each ceiling.
    """

    measure: str
    value: Estimate
    chance: Chance
    in_layers: Chance | None
    ceilings: tuple[float, float]
    ceilings_low: tuple[float, float]


@dataclass(frozen=True)
class MechanismSimilarity:
    """How alike two runs are in one set of sites.

    Attributes:
        matched: what was compared.
        measures: one entry for each of MEASURES.
        points: the targets (layer, head, place) with the numbers compared, `one` and `other`: by site the mean effects
            with their sign, by depth the strengths; in logits.
        n_pairs: of each run; n_queries: of each run.
        n_shared_queries: how many queries both runs rest on; these were resampled together.
    """

    matched: Matched
    measures: tuple[MeasuredSimilarity, ...]
    points: pd.DataFrame
    n_pairs: tuple[int, int]
    n_queries: tuple[int, int]
    n_shared_queries: int

    @property
    def same_queries(self) -> bool:
        """True if both runs rest on the same queries, all of them."""
        return self.n_queries == (self.n_shared_queries, self.n_shared_queries)

    @property
    def n_sites(self) -> int:
        """How many sites, or depths at places, were compared."""
        return len(self.points)

    def of(self, measure: str) -> MeasuredSimilarity:
        """The entry of one of MEASURES."""
        return next(one for one in self.measures if one.measure == measure)


def mechanism_similarity(
    one: RunEffects,
    other: RunEffects,
    *,
    n_resamples: int = 1000,
    n_splits: int = N_SPLITS,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[list[MechanismSimilarity], list[Unmatched]]:
    """Compare what two runs found, component by component: over all places that share no token, and at each place.

    Args:
        one: a run's effects.
        other: those of another run: of any model, prompt and data.
        n_resamples: of the queries, and so many relabellings of the sites.
        n_splits: random divisions of the queries, for the ceilings.

    Returns:
        What was compared, in the order of the first run's sites, and what could not be, with the reason.

    Raises:
        InputError: the runs have nothing in common that could be compared, or fewer than one resample or division.
    """
    check_confidence(confidence)
    for name, n in (("n_resamples", n_resamples), ("n_splits", n_splits)):
        if n < 1:
            raise InputError(f"{name} is {n}; give at least 1")
    matches, unmatched = match_runs(one, other)
    found = []
    for matched in matches:
        if len(matched.targets) < LEAST_SITES:
            unmatched.append(without(matched, f"fewer than {LEAST_SITES} sites have no ranking to speak of"))
        elif not matched.one.query_ids or not matched.other.query_ids:
            unmatched.append(without(matched, "no pair of one of the runs has all of these sites yet"))
        else:
            found.append(_similarity(matched, n_resamples, n_splits, seed, confidence))
    return found, unmatched


def _similarity(matched: Matched, n_resamples: int, n_splits: int, seed: int, confidence: float) -> MechanismSimilarity:
    sides = (matched.one, matched.other)
    n_queries = tuple(len(set(side.query_ids)) for side in sides)
    n_shared = len(set(sides[0].query_ids) & set(sides[1].query_ids))
    generator = np.random.default_rng(seed)
    ties = random_ties(len(matched.targets), generator)
    whole = [side.strengths(np.full((len(side.query_ids), 1), 1 / len(side.query_ids))) for side in sides]
    values = similarities(whole[0], whole[1], ties)
    resampled = None
    if min(n_queries) > 1:
        shares = joint_shares(sides[0].query_ids, sides[1].query_ids, n_resamples, seed)
        first, second = (side.strengths(drawn) for side, drawn in zip(sides, shares, strict=True))
        resampled = similarities(first, second, ties)
    anywhere = np.zeros(len(matched.targets), dtype=np.intp)
    chance = chances(whole[0], whole[1], ties, relabellings(anywhere, n_resamples, generator))
    strata, in_layers = _strata(matched.targets), None
    if strata.max() + 1 < len(strata):
        in_layers = chances(whole[0], whole[1], ties, relabellings(strata, n_resamples, generator))
    ceilings = [_ceiling(side, ties, n_splits, seed, confidence) for side in sides]
    measures = tuple(
        MeasuredSimilarity(
            measure,
            Estimate(
                float(values[measure][0]), *interval_of(None if resampled is None else resampled[measure], confidence)
            ),
            chance[measure],
            None if in_layers is None else in_layers[measure],
            (ceilings[0][measure][0], ceilings[1][measure][0]),
            (ceilings[0][measure][1], ceilings[1][measure][1]),
        )
        for measure in MEASURES
    )
    n_pairs = (len(sides[0].query_ids), len(sides[1].query_ids))
    return MechanismSimilarity(matched, measures, _points(matched), n_pairs, (n_queries[0], n_queries[1]), n_shared)


def joint_shares(
    one: tuple[str, ...], other: tuple[str, ...], n_resamples: int, seed: int
) -> tuple[Float64[np.ndarray, "pair resample"], Float64[np.ndarray, "other_pair resample"]]:
    """Weights of each run's pairs, as `resample_shares` gives them, with a common query drawn as often in both runs.

    Of n queries of the two runs together, n are drawn with replacement; each run keeps the draws of its own. So a run
    with a part of the queries draws a number of them that varies around how many it has, never none. Runs without a
    common query are drawn apart, each as many as it has.

    Args:
        one: the query of each pair of a run.
        other: the same of the other run.
    """
    shared = set(one) & set(other)
    if not shared or set(one) == set(other):
        # draws follow a query's place among all of its run, so that one seed draws the same queries in both
        return resample_shares(one, n_resamples, seed), resample_shares(
            other, n_resamples, seed if shared else seed + 1
        )
    queries = sorted({*one, *other})
    at = {query: i for i, query in enumerate(queries)}
    generator = np.random.default_rng(seed)
    counts = np.zeros((n_resamples, len(queries)))
    places = [np.array([at[query] for query in query_ids]) for query_ids in (one, other)]
    while (empty := np.any([counts[:, place].sum(axis=1) == 0 for place in places], axis=0)).any():
        drawn = generator.multinomial(len(queries), np.full(len(queries), 1 / len(queries)), size=int(empty.sum()))
        counts[empty] = drawn
    first, second = (counts[:, place].T for place in places)
    return first / first.sum(axis=0), second / second.sum(axis=0)


def _strata(targets: pd.DataFrame) -> Int[np.ndarray, " target"]:
    """The number of each target's layer and place."""
    return np.asarray(targets.groupby(["layer", "place"], sort=False).ngroup(), dtype=np.intp)


def _ceiling(
    side: Side, ties: Int[np.ndarray, "2 target"], n_splits: int, seed: int, confidence: float
) -> dict[str, tuple[float, float]]:
    """Every measure between two random halves of the queries: mean and lower percentile of the divisions, or NaN."""
    if len(set(side.query_ids)) < 2:
        return dict.fromkeys(MEASURES, (math.nan, math.nan))
    first, second = (side.strengths(shares) for shares in half_shares(side.query_ids, n_splits, seed))
    return {
        measure: (float(values.mean()), interval_of(values, confidence)[0])
        for measure, values in similarities(first, second, ties).items()
    }


def _points(matched: Matched) -> pd.DataFrame:
    """The targets with each run's number: a signed effect by site, a strength by depth."""
    return matched.targets.assign(one=_number(matched.one, matched.by), other=_number(matched.other, matched.by))


def _number(side: Side, by: str) -> Float64[np.ndarray, " target"]:
    mean = side.effects.mean(axis=1)
    numbers: np.ndarray = side.gather @ (mean if by == "site" else np.abs(mean))
    return numbers
