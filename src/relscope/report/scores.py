"""Do the heads that match query and document in what they attend to cause the verdict? Experiment 7 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import ScoreCorrelation, interaction_score_means, score_correlations
from relscope.report import plots, words
from relscope.report.findings import Finding, estimate, estimate_of, mean_of, place

HIGH = 10
"""A head is high on S, or on |effect|, if it is among so many first."""
MOST_LISTED = 10
EXTREMES = 3


@dataclass(frozen=True)
class ScorePlot:
    """S beside the effects of `z` at one region: layer, head, mean (S), effect, their intervals and `high_on_both`."""

    region: str
    direction: str
    heads: pd.DataFrame
    correlation: ScoreCorrelation | None


@dataclass(frozen=True)
class Scores:
    """The readout `interaction`: S of every head, and a plot for each region at which `z` was patched."""

    heads: pd.DataFrame
    plots: tuple[ScorePlot, ...]
    found: Finding


def read_scores(
    interaction: pd.DataFrame,
    rows: pd.DataFrame,
    effects: pd.DataFrame,
    query_of: Mapping[str, str],
    confidence: float,
) -> Scores | None:
    """Everything that the page shows of the interaction score, or None where it is not stored."""
    if not len(interaction):
        return None
    heads = interaction_score_means(interaction, query_of, confidence=confidence)
    correlations = score_correlations(interaction, rows, query_of, confidence=confidence)
    of_plot = {(c.region, c.direction): c for c in correlations}
    measured = effects[effects["experiment"] == "heads"]
    found = []
    for (region, direction), here in measured.groupby(["region", "direction"], sort=False):
        joined = heads.drop(columns="n_queries").merge(here, on=["layer", "head"])
        high = _first(joined["mean"]) & _first(joined["effect"].abs())
        joined = joined.assign(high_on_both=high)
        found.append(ScorePlot(str(region), str(direction), joined, of_plot.get((str(region), str(direction)))))
    found.sort(key=lambda plot: (plot.direction, words.region_key(plot.region)))
    return Scores(heads, tuple(found), _finding(heads, found))


def scores_view(scores: Scores) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the template shows, and the scatter plots for the script."""
    several = len({plot.direction for plot in scores.plots}) > 1
    shown, points = [], []
    for number, plot in enumerate(scores.plots):
        title = place(plot.region) + (f" ({plot.direction})" if several else "")
        label = f"Scatter of {len(plot.heads)} heads: interaction score S against the effect of z {title}."
        shown.append({"id": f"score-{number}", "place": title, "label": label, "words": correlation_words(plot)})
        points.append(_points(plot, f"score-{number}", title))
    order = np.argsort(-scores.heads["mean"].to_numpy(dtype=np.float64), kind="stable")
    top = [_row(head, scores) for head in scores.heads.iloc[order[:MOST_LISTED]].to_dict("records")]
    columns = [f"effect {shown_plot['place']}" for shown_plot in shown]
    return {"plots": shown, "top": top, "columns": columns, "found": scores.found}, points


def correlation_words(plot: ScorePlot) -> str:
    """How S and the effects go together, what the interval is over, and which heads are high on both."""
    found = plot.correlation
    if found is None or not np.isfinite(found.spearman.value):
        text = "No correlation can be given: it needs three heads that differ, on pairs that have both numbers."
    else:
        text = (
            f"Over {words.count(found.n_heads, 'head')}, S and the effect correlate with Spearman's "
            f"{estimate(found.spearman, 2)} (p {words.probability(found.p_value)}) and Pearson's r = "
            f"{estimate(found.pearson, 2)}; the intervals are over {words.count(found.n_queries, 'query', 'queries')}, "
            "not over heads."
        )
    n = len(plot.heads)
    if n <= HIGH:
        return text
    both = plot.heads[plot.heads["high_on_both"]]
    named = words.listing(_names(both)) or "none"
    by_chance = words.number(HIGH * HIGH / n, 1)
    return f"{text} Among the first {HIGH} of both: {named} (by chance {by_chance} would be)."


def _finding(heads: pd.DataFrame, found: list[ScorePlot]) -> Finding:
    best = max(heads.to_dict("records"), key=lambda head: float(head["mean"]))
    name = words.head_name(int(best["layer"]), int(best["head"]))
    score = estimate(mean_of(best), 2)
    at_query = [plot for plot in found if plot.region == "query"] or found
    text = f"S is largest in {name} ({score})."
    if at_query:
        plot = at_query[0]
        correlated = correlation_words(plot)
        text += f" Against the effect of z {place(plot.region)}: {correlated[0].lower()}{correlated[1:]}"
    return Finding(f"Interaction score: {name} matches query and document most", text)


def _names(heads: pd.DataFrame) -> list[str]:
    return [words.head_name(int(head["layer"]), int(head["head"])) for head in heads.to_dict("records")]


def _first(values: pd.Series) -> pd.Series:
    """True for the HIGH largest."""
    return values.rank(method="first", ascending=False) <= HIGH


def _points(plot: ScorePlot, identifier: str, title: str) -> dict[str, Any]:
    heads = plot.heads
    columns = {
        "x": "mean",
        "x_low": "low",
        "x_high": "high",
        "y": "effect",
        "y_low": "effect_low",
        "y_high": "effect_high",
    }
    named = named_heads(heads)
    return {
        "id": identifier,
        "x_title": "interaction score S",
        "y_title": f"effect of z {title}, logits",
        "decimals": [words.decimals_for(heads["mean"]), words.decimals_for(heads["effect"])],
        "n_queries": int(heads["n_queries"].max()),
        "names": _names(heads),
        "shown_names": [named.get(i, "") for i in range(len(heads))],
        "marked": [bool(high) for high in heads["high_on_both"]],
        **{name: plots.plain(heads[column]) for name, column in columns.items()},
    }


def named_heads(heads: pd.DataFrame) -> dict[int, str]:
    """Names, by row, that a plot shows: high on both first, then the extremes; none on top of another."""
    score, effect = (heads[name].to_numpy(dtype=np.float64) for name in ("mean", "effect"))
    both = heads["high_on_both"].to_numpy(dtype=bool)
    order = [*np.flatnonzero(both), *np.argsort(-np.abs(effect))[:EXTREMES], *np.argsort(-score)[:EXTREMES]]
    wide, high = (max(float(np.ptp(values)), 1e-12) for values in (score, effect))
    kept: list[int] = []
    for i in map(int, order):
        if all(abs(score[i] - score[k]) > 0.16 * wide or abs(effect[i] - effect[k]) > 0.09 * high for k in kept):
            kept.append(i)
    names = _names(heads)
    return {i: names[i] for i in kept}


def _row(head: Mapping[Any, Any], scores: Scores) -> dict[str, Any]:
    cells = []
    for plot in scores.plots:
        at = plot.heads[(plot.heads["layer"] == head["layer"]) & (plot.heads["head"] == head["head"])]
        decimals = words.decimals_for(plot.heads["effect"])  # of all heads, so that a column can be compared by eye
        cells.append(estimate(estimate_of(at.to_dict("records")[0], "effect"), decimals) if len(at) else words.MISSING)
    score = estimate(mean_of(head), 2)
    return {"name": words.head_name(int(head["layer"]), int(head["head"])), "score": score, "cells": cells}
