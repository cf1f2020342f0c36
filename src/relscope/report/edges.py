"""Which heads carry the verdict from where to where? Effects of single attention edges (experiment 6 of the paper).

Beside each map of an edge stands the question whether these are the heads whose output matters at the edge's
destination: the same ranking measures as between two models, here between |effect of the edge| and |effect of z|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import Similarity, important_sites, rank_similarity
from relscope.report import views, words
from relscope.report.findings import Finding, estimate, estimate_of, place, strongest
from relscope.report.map_kinds import EDGES
from relscope.report.maps import EffectMap, HeadList, Quantity, edge_key, edge_maps, edge_names, limit_of
from relscope.report.support import site_name

TOP_EDGES = 10
MEASURES_SHOWN = ("pearson", "spearman", "overlap_10")


@dataclass(frozen=True)
class EdgeSimilarity:
    """How alike the effects of one edge and those of `z` at its destination are, over heads."""

    name: str
    region: str
    direction: str
    measures: Mapping[str, Similarity]


@dataclass(frozen=True)
class Edges:
    """The experiment `edges`: a map and a list for each component, edge and direction."""

    maps: tuple[EffectMap, ...]
    lists: tuple[HeadList, ...]
    limit: float
    similarities: tuple[EdgeSimilarity, ...]
    found: Finding


def read_edges(
    rows: pd.DataFrame, effects: pd.DataFrame, query_of: Mapping[str, str], quantity: Quantity, confidence: float
) -> Edges | None:
    """Everything that the page shows of the edges, or None where no row of them is stored."""
    here = effects[effects["experiment"] == "edges"]
    if not len(here):
        return None
    maps = edge_maps(here)
    similar = _similarities(rows, query_of, confidence)
    return Edges(
        maps=tuple(maps),
        lists=tuple(_strongest(here, m) for m in maps),
        limit=limit_of(m.values(quantity) for m in maps),
        similarities=tuple(similar),
        found=_finding(here, similar, quantity),
    )


def edges_view(edges: Edges, quantity: Quantity, *, table: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the template shows (if `table`, with the maps' values in tables), and the maps for the script."""
    span = views.bar_span(edges.lists)
    shown, plots = [], []
    for number, (effect_map, top) in enumerate(zip(edges.maps, edges.lists, strict=True)):
        identifier = f"edge-{number}"
        plot = views.plot_map(effect_map, identifier, EDGES.name)
        plots.append({**plot, "limits": {quantity: edges.limit}})
        rows = views.top_head_rows(top, span)
        label = f"Heat map, head by layer, of {effect_map.name}; {views.QUANTITY_WORDS[quantity]}. "
        label += f"Largest: {rows[0]['name']}, effect {rows[0]['effect']} {rows[0]['interval']}."
        title = {"id": identifier, "name": effect_map.name, "direction": effect_map.direction, "label": label}
        values = views.value_table(effect_map, EDGES, quantity) if table else {"table_rows": []}
        shown.append({**title, **values, "top": rows})
    several = len({m.direction for m in edges.maps}) > 1
    similar = [_similarity_row(one, several=several) for one in edges.similarities]
    view = {"maps": shown, "many_directions": several, "similar": similar, "found": edges.found}
    view["limit_words"] = f"{edges.limit:g}"
    return view, plots


def _strongest(here: pd.DataFrame, effect_map: EffectMap) -> HeadList:
    of_map = here[(edge_names(here) == effect_map.name) & (here["direction"] == effect_map.direction)]
    return HeadList(
        effect_map.name, effect_map.direction, strongest(of_map, "effect", TOP_EDGES).reset_index(drop=True)
    )


def _similarities(rows: pd.DataFrame, query_of: Mapping[str, str], confidence: float) -> list[EdgeSimilarity]:
    """Each edge against `z` at its destination, where the experiment `heads` measured that."""
    texts = dict.fromkeys(("experiment", "component", "region", "dest", "src", "direction"), object)
    of_edges = rows[rows["experiment"] == "edges"].astype(texts)
    all_heads = rows[rows["experiment"] == "heads"].astype(texts)
    found = []
    edge = ["component", "dest", "src"]
    names = of_edges[["direction", *edge]].drop_duplicates().astype(str).itertuples(index=False, name=None)
    for direction, component, dest, src in sorted(names, key=lambda of: (of[0], *edge_key(*of[1:]))):
        here = of_edges[(of_edges[edge] == [component, dest, src]).all(axis=1) & (of_edges["direction"] == direction)]
        heads = all_heads[(all_heads["region"] == dest) & (all_heads["direction"] == direction)]
        # one name for both, so that a head is the same site in either ranking
        as_heads = here.assign(experiment="heads", component="z", region=str(dest), dest=None, src=None)
        measured = rank_similarity(heads, as_heads, query_of, measures=MEASURES_SHOWN, confidence=confidence)
        if measured:
            name = f"{component} {dest}<-{src}"
            found.append(EdgeSimilarity(name, str(dest), str(direction), {m.measure: m for m in measured}))
    return found


def _similarity_row(similarity: EdgeSimilarity, *, several: bool) -> dict[str, Any]:
    first = similarity.measures["pearson"]
    cells = []
    for name in MEASURES_SHOWN:
        one = similarity.measures[name]
        cells.append(
            {
                "value": words.number(one.value.value),
                "interval": words.interval(one.value.low, one.value.high).replace(words.MISSING, ""),
                "p": f"p {words.probability(one.p_value)}" if np.isfinite(one.p_value) else "",
            }
        )
    return {
        "name": similarity.name + (f" ({similarity.direction})" if several else ""),
        "place": place(similarity.region),
        "n": f"{words.count(first.n_sites, 'head')}, {words.count(first.n_queries, 'query', 'queries')}",
        "cells": cells,
    }


def _finding(here: pd.DataFrame, similar: list[EdgeSimilarity], quantity: Quantity) -> Finding:
    largest = strongest(here, quantity, 3).to_dict("records")
    unit = "IE" if quantity == "ie" else "effect"
    named = [f"{site_name(site)} with {unit} {estimate(estimate_of(site, quantity))}" for site in largest]
    n_important = int(important_sites(here).sum())
    text = (
        f"Of {words.count(len(here), 'edge')} the largest are {words.listing(named)}; "
        f"{f'{n_important:,}' if n_important else 'none'} {'are' if n_important > 1 else 'is'} important."
    )
    known = [s for s in similar if np.isfinite(s.measures["pearson"].value.value)]
    into_query = [s for s in known if s.region == "query"] or known
    if into_query:
        closest = max(into_query, key=lambda s: s.measures["pearson"].value.value)
        text += (
            f" Over heads, the |effects| of {closest.name} and of z {place(closest.region)} correlate with Pearson's "
            f"r = {estimate(closest.measures['pearson'].value, 2)} and Spearman's "
            f"{estimate(closest.measures['spearman'].value, 2)}."
        )
    best = largest[0]
    name = words.head_name(int(best["layer"]), int(best["head"]))
    return Finding(f"Edges: the largest effect is {name}'s, {best['dest']}<-{best['src']}", text)
