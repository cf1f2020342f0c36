"""What do ablations of head sets do to judging and reranking, beside random sets of the same size?

Of each condition (a head set that is ablated) and measure (F1, ..., nDCG@10), on the same queries as the full model:

    difference = value - value of the full model           the decrease is its negative
    relative   = difference / value of the full model      the ratio of the two values, less 1, in each resample
    ratio      = decrease of a set / mean decrease of the random sets matched to it
    p_draws    = (1 + n_as_large) / (1 + n)                n draws matched to it, of which n_as_large do as much

A set that is kept alone is to keep much, not to lower much: n_as_large then counts the draws that keep at least as much
of the measure, and there is no ratio. p_draws is that of the set as one more draw (Phipson and Smyth, Permutation
p-values should never be zero, 2010), so that it is 0.05 or less from LEAST_DRAWS draws on.

A condition of random draws has the mean over its draws, with their standard deviation, least and most. Intervals are
percentile bootstraps: the same resampled queries for every condition (so that what is hard about a query cancels in
differences and ratios), and for random conditions resampled draws too, so that the interval is one over draws and
queries (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A ratio whose denominator's
interval includes 0 has no bounded interval; it is left out, as is the value where matched sets lower nothing, and
the interval of a relative change where the full model's measure is 0 in a resample.

Rankings are also tested against the full model's query by query (`relscope.analysis.ranking`), corrected by Holm's
method over all conditions and prompts; of random conditions the mean over draws is tested.

Cost: no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from relscope.analysis.intervals import Estimate, bootstrap_weights, check_confidence, percentile_interval, queries_of
from relscope.analysis.quality import quality_measures, widened_where_all_agree
from relscope.analysis.ranking import compare_rankings, holm, ranking_values
from relscope.errors import InputError
from relscope.results import FULL_MODEL, ConditionRecord

JUDGING_MEASURES: Final = ("accuracy", "f1", "roc_auc", "paired_accuracy")
RANKING_MEASURE: Final = "nDCG@10"
FIRST_STAGE: Final = "First stage"
"""What reranking begins with; no condition of the model."""
MOST_P: Final = 0.05
"""Largest p that is called significant: of draws, and of rankings after Holm's correction."""
LEAST_DRAWS: Final = 19
"""The fewest among which one more random set would be first by chance in one of twenty cases: 1 / (19 + 1)."""

_Points = Float64[np.ndarray, "draw measure"]
_Resampled = Float64[np.ndarray, "draw measure resample"]
_Resamples = Float64[np.ndarray, " resample"]
_Weights = Float64[np.ndarray, "resample pair"]


@dataclass(frozen=True)
class Outcome:
    """One measure of one condition with one prompt.

    Attributes:
        task: judging or ranking.
        n_draws: random sets that the value is the mean of; 1 where nothing was drawn.
        difference: value - that of the full model.
        relative: difference as a share of the full model's value; NaN where that is 0.
        draws: the value of each draw.
        ratio: decrease over the mean decrease of the sets matched to it; None where none were drawn or for them, and
            where sets are kept alone.
        n_as_large: of the matched draws, how many lower the measure at least as much (where sets are kept alone: keep
            at least as much of it); None where there are none.
        p_draws: (1 + n_as_large) / (1 + matched draws); NaN where there are none.
        p_t, p_flip: of paired tests of rankings against the full model's, corrected by Holm's method; NaN otherwise.
    """

    task: str
    prompt: str
    measure: str
    condition: str
    kind: str
    n_draws: int
    n_queries: int
    value: Estimate
    full: float
    difference: Estimate
    relative: Estimate
    draws: tuple[float, ...]
    ratio: Estimate | None = None
    n_as_large: int | None = None
    p_draws: float = float("nan")
    p_t: float = float("nan")
    p_flip: float = float("nan")

    def as_row(self) -> dict[str, Any]:
        """All fields, flat, as a table's row."""
        drawn = self.n_draws > 1
        ratio = self.ratio or Estimate(np.nan, np.nan, np.nan)
        return {
            "task": self.task, "prompt": self.prompt, "measure": self.measure, "condition": self.condition,
            "kind": self.kind, "n_draws": self.n_draws, "n_queries": self.n_queries,
            **_flat("value", self.value), **_flat("difference", self.difference), **_flat("relative", self.relative),
            "sd_of_draws": float(np.std(self.draws, ddof=1)) if drawn else np.nan,
            "least_draw": min(self.draws) if drawn else np.nan, "most_draw": max(self.draws) if drawn else np.nan,
            **_flat("ratio", ratio), "n_as_large": self.n_as_large, "p_draws": self.p_draws,
            "p_t_holm": self.p_t, "p_flip_holm": self.p_flip,
        }  # fmt: skip


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn: resamples of the queries (and of draws), their seed, and the intervals' confidence."""

    n_resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95


@dataclass(frozen=True)
class _Sample:
    """Measures of each draw of a condition, of all queries and of each resample of them."""

    points: _Points
    resampled: _Resampled


@dataclass(frozen=True)
class _Measured:
    """Some measures of every condition with one prompt; `keep_only`: of sets that are kept alone."""

    task: str
    prompt: str
    measures: tuple[str, ...]
    n_queries: int
    samples: Mapping[str, _Sample]
    keep_only: bool


def judging_outcomes(
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    conditions: Sequence[ConditionRecord],
    resampling: Resampling | None = None,
    *,
    keep_only: bool = False,
) -> list[Outcome]:
    """JUDGING_MEASURES of every condition that is stored, prompt by prompt; none of a prompt without the full model.

    Args:
        rows: condition, draw, prompt, pair_id, ld_clean, ld_corrupted.
        query_of: the query of each pair.
        conditions: what each condition is.
        resampling: None: the defaults.
        keep_only: the sets were kept alone, all other heads ablated.

    Returns:
        In the order of prompts, conditions and measures.

    Raises:
        InputError: a draw has other pairs than the full model, or a pair has no query.
    """
    resampling = _checked(resampling)
    outcomes: list[Outcome] = []
    for prompt, of_prompt in rows.groupby("prompt", sort=False):
        full = of_prompt[of_prompt["condition"] == FULL_MODEL]
        if not len(full):
            continue
        query_ids = queries_of(full["pair_id"], query_of)
        weights = _weights(query_ids, resampling)
        samples = {
            name: _judged(of_prompt[of_prompt["condition"] == name], full["pair_id"].tolist(), weights)
            for name in _stored(conditions, of_prompt)
        }
        measured = _Measured("judging", str(prompt), JUDGING_MEASURES, len(set(query_ids)), samples, keep_only)
        outcomes += _outcomes(measured, conditions, resampling)
    return outcomes


def ranking_outcomes(
    rows: pd.DataFrame,
    first_stage: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    conditions: Sequence[ConditionRecord],
    resampling: Resampling | None = None,
    *,
    keep_only: bool = False,
) -> list[Outcome]:
    """nDCG@10 of every condition that is stored, prompt by prompt, and of the first stage; tested query by query.

    Args:
        rows: condition, draw, prompt, query_id, doc_id, place.
        first_stage: query id to document ids, best first.
        qrels: of the judged queries among them.
        conditions: what each condition is.
        resampling: None: the defaults.
        keep_only: the sets were kept alone, all other heads ablated.

    Returns:
        In the order of prompts and conditions, the first stage before them.

    Raises:
        InputError: no query is judged.
    """
    resampling = _checked(resampling)
    conditions = [ConditionRecord(name=FIRST_STAGE, kind="first"), *conditions]
    outcomes: list[Outcome] = []
    p_values: dict[tuple[str, str], tuple[float, float]] = {}
    for prompt, of_prompt in rows.groupby("prompt", sort=False):
        names = _stored(conditions, of_prompt)
        if FULL_MODEL not in names:
            continue
        values = _values(of_prompt, first_stage, qrels)
        query_ids = [str(query_id) for query_id in values.columns]
        shares = _weights(query_ids, resampling) / len(query_ids)
        samples = {}
        for name in (FIRST_STAGE, *names):
            of_draws = values.loc[[name]].to_numpy(dtype=np.float64)  # [draw, query]
            samples[name] = _Sample(of_draws.mean(axis=1)[:, None], (of_draws @ shares.T)[:, None])
        measured = _Measured("ranking", str(prompt), (RANKING_MEASURE,), len(query_ids), samples, keep_only)
        outcomes += _outcomes(measured, conditions, resampling)
        for name, tested in _tests(values, names, resampling.seed).items():
            p_values[str(prompt), name] = tested
    corrected = [holm(np.array([p[i] for p in p_values.values()], dtype=np.float64)) for i in (0, 1)]
    p_of = {key: (float(corrected[0][n]), float(corrected[1][n])) for n, key in enumerate(p_values)}
    return [
        replace(one, p_t=p[0], p_flip=p[1]) if (p := p_of.get((one.prompt, one.condition))) else one for one in outcomes
    ]


def _outcomes(measured: _Measured, conditions: Sequence[ConditionRecord], resampling: Resampling) -> list[Outcome]:
    """Each measure of each condition beside the full model, and beside the draws matched to it."""
    full, samples = measured.samples[FULL_MODEL], measured.samples
    full_means = full.points.mean(axis=0)
    kinds = {condition.name: condition for condition in conditions}
    matched_to = {c.of: c.name for c in conditions if c.of is not None and c.name in samples}
    outcomes = []
    for name in (name for name in kinds if name in samples):
        sample = samples[name]
        means, pooled = sample.points.mean(axis=0), _pooled(sample, resampling.seed)
        low, high = percentile_interval(pooled, resampling.confidence)
        exact = np.zeros(len(means), dtype=bool)
        if measured.n_queries > 1:
            low, high, exact = widened_where_all_agree(means, low, high, measured.n_queries, resampling.confidence)
        theirs, changes = full.resampled[0], pooled - full.resampled[0]
        beside = samples.get(matched_to.get(name, ""))
        for i, measure in enumerate(measured.measures):
            outcome = Outcome(
                task=measured.task,
                prompt=measured.prompt,
                measure=measure,
                condition=name,
                kind=kinds[name].kind,
                n_draws=len(sample.points),
                n_queries=measured.n_queries,
                value=Estimate(float(means[i]), float(low[i]), float(high[i]), exact=bool(exact[i])),
                full=float(full_means[i]),
                difference=_estimate(float(means[i] - full_means[i]), changes[i], resampling),
                relative=_relative((float(means[i]), float(full_means[i])), (pooled[i], theirs[i]), resampling),
                draws=tuple(float(value) for value in sample.points[:, i]),
            )
            if beside is not None and measured.keep_only:
                outcome = _counted(outcome, beside.points[:, i] >= means[i])
            elif beside is not None:
                by_draw = full_means[i] - beside.points[:, i]
                fallen = theirs[i] - _pooled(beside, resampling.seed)[i]
                ratio = _ratio(-outcome.difference.value, float(by_draw.mean()), (-changes[i], fallen), resampling)
                outcome = _counted(replace(outcome, ratio=ratio), by_draw >= -outcome.difference.value)
            outcomes.append(outcome)
    return outcomes


def _counted(outcome: Outcome, as_large: Bool[np.ndarray, " draw"]) -> Outcome:
    """With the matched draws that do at least as much."""
    n = int(as_large.sum())
    return replace(outcome, n_as_large=n, p_draws=(1 + n) / (1 + len(as_large)))


def _relative(
    values: tuple[float, float], resampled: tuple[_Resamples, _Resamples], resampling: Resampling
) -> Estimate:
    """Change as a share of the full model's value, which is the second; no interval where that is 0 in a resample."""
    (ours, full), (ours_resampled, full_resampled) = values, resampled
    if full == 0:
        return Estimate(np.nan, np.nan, np.nan)
    if (full_resampled == 0).any():
        return Estimate((ours - full) / full, np.nan, np.nan)
    return _estimate((ours - full) / full, ours_resampled / full_resampled - 1.0, resampling)


def _estimate(value: float, resampled: _Resamples, resampling: Resampling) -> Estimate:
    low, high = percentile_interval(resampled, resampling.confidence)
    return Estimate(value, float(low), float(high))


def _ratio(
    decrease: float, theirs: float, resampled: tuple[_Resamples, _Resamples], resampling: Resampling
) -> Estimate:
    """Decrease over mean decrease of matched sets; without an interval where the latter's includes 0."""
    if theirs <= 0:
        return Estimate(np.nan, np.nan, np.nan)
    ours, matched = resampled
    low, _ = percentile_interval(matched, resampling.confidence)
    if not low > 0:
        return Estimate(decrease / theirs, np.nan, np.nan)
    # The few resamples in which matched sets lower nothing stand beyond the upper end.
    ratios = np.divide(ours, matched, out=np.full(len(ours), np.inf), where=matched > 0)
    low, high = percentile_interval(ratios, resampling.confidence)
    return Estimate(decrease / theirs, float(low), float(high))


def _judged(rows: pd.DataFrame, pair_ids: list[str], weights: _Weights) -> _Sample:
    """The measures of each draw of one condition, under each resample's weights."""
    points, resampled = [], []
    for draw, of_draw in rows.groupby("draw"):
        by_pair = of_draw.set_index("pair_id")
        if by_pair.index.has_duplicates or set(by_pair.index) != set(pair_ids):
            name = of_draw["condition"].iloc[0]
            raise InputError(f"{name}, draw {draw}: its pairs are not those of the full model; were parts copied here?")
        clean, corrupted = (
            by_pair.loc[pair_ids, column].to_numpy(dtype=np.float64) for column in ("ld_clean", "ld_corrupted")
        )
        n = len(JUDGING_MEASURES)
        points.append(quality_measures(clean, corrupted, np.ones((1, len(clean))))[:n, 0])
        if np.isnan(weights).any():
            resampled.append(np.full((n, len(weights)), np.nan))
        else:
            resampled.append(quality_measures(clean, corrupted, weights)[:n])
    return _Sample(np.stack(points), np.stack(resampled))


def _values(
    rows: pd.DataFrame, first_stage: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]
) -> pd.DataFrame:
    """RANKING_MEASURE: a row a condition and draw (index: the condition), a column a query."""
    systems: dict[str, Mapping[str, Sequence[str]]] = {f"0 {FIRST_STAGE}": first_stage}
    for (name, draw), of_step in rows.groupby(["condition", "draw"], sort=False):
        ranked = of_step.sort_values("place").groupby("query_id", sort=False)["doc_id"]
        systems[f"{draw} {name}"] = {str(query_id): of.tolist() for query_id, of in ranked}
    frame = ranking_values(systems, qrels, [RANKING_MEASURE])
    values = frame.pivot(index="system", columns="query_id", values="value").loc[list(systems)]
    values.index = pd.Index([str(system).partition(" ")[2] for system in values.index])
    return values


def _tests(values: pd.DataFrame, names: Sequence[str], seed: int) -> dict[str, tuple[float, float]]:
    """p of both paired tests of each condition against the full model, not corrected yet; draws are averaged."""
    means = values.groupby(level=0, sort=False).mean().loc[list(names)]
    if len(means) < 2:
        return {}
    tidy = means.rename_axis("system").reset_index().melt("system", var_name="query_id", value_name="value")
    compared = compare_rankings(tidy.assign(measure=RANKING_MEASURE), FULL_MODEL, n_resamples=1, seed=seed)
    return {test.system: (test.p_t, test.p_flip) for test in compared}


def _pooled(sample: _Sample, seed: int) -> Float64[np.ndarray, "measure resample"]:
    """Means over draws, themselves resampled where there are several."""
    n_draws, _, n_resamples = sample.resampled.shape
    if n_draws == 1:
        return np.asarray(sample.resampled[0])
    generator = np.random.default_rng((seed, n_draws))
    counts = generator.multinomial(n_draws, np.full(n_draws, 1.0 / n_draws), size=n_resamples) / n_draws
    return np.asarray(np.einsum("rd,dmr->mr", counts, sample.resampled))


def _weights(query_ids: Sequence[str], resampling: Resampling) -> _Weights:
    """Weights of the pairs in each resample; NaN where one query allows none."""
    if len(set(query_ids)) < 2:
        return np.full((1, len(query_ids)), np.nan)
    return bootstrap_weights(query_ids, resampling.n_resamples, resampling.seed)


def _stored(conditions: Sequence[ConditionRecord], rows: pd.DataFrame) -> list[str]:
    """The conditions that have rows, each once, in their order."""
    there = set(rows["condition"])
    return [name for name in dict.fromkeys(condition.name for condition in conditions) if name in there]


def _checked(resampling: Resampling | None) -> Resampling:
    resampling = Resampling() if resampling is None else resampling
    check_confidence(resampling.confidence)
    return resampling


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
