"""How does each computed thing of a comparison of runs look as plain values that a template or a script can print?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from relscope.analysis import MEASURES, MeasuredSimilarity, MechanismSimilarity
from relscope.report import views, words
from relscope.report.comparison_findings import p_words
from relscope.report.comparison_maps import Family
from relscope.report.comparison_views import MEASURE_WORDS
from relscope.report.maps import Quantity, Scale
from relscope.report.similarity_contents import Mechanisms, PairOfRuns
from relscope.report.similarity_findings import scatter_words, set_name

MOST_POINTS: Final = 1500
"""Points of one scatter plot: more are slow to draw. The strongest of either run are kept."""
_NAMED: Final = 5
_APART: Final = (0.26, 0.08)
"""Shares of the plot's width and height by one of which names must be apart: a name is wider than high."""
_PER_LINE: Final = 3
_SAME_IN_ROW: Final = ("run_one", "run_other", "experiment", "direction", "measured_in", "reason")
_ORDER: Final = ("rbo", *(measure for measure in MEASURES if measure != "rbo"))
"""The paper's measure first."""


def family_view(family: Family, mechanisms: Mechanisms, first: int, *, table: bool) -> dict[str, Any]:
    """What the template shows of one family: its maps in lines of two or three, numbered from `first`."""
    quantity = mechanisms.quantity
    columns = []
    for number, (letter, effect_map) in enumerate(family.panels.items()):
        limit = family.limits[letter][quantity]
        view = views.map_view(
            effect_map, f"map-{first + number}", family.kind, Scale(quantity, limit, limit, limit), table=table
        )
        heading = mechanisms.named(letter)
        columns.append(
            {
                **view,
                "title": f"{view['title']}, {heading}",
                "heading": heading,
                "label": f"{heading}. {view['label']}",
                "limit": {"plus": f"+{limit:g}", "minus": f"{words.MINUS}{limit:g}"},
            }
        )
    lines = _lines(columns)
    return {
        "title": family.kind.title(family.name),
        "direction": family.direction,
        "columns": columns,
        "lines": lines,
        "per_line": len(lines[0]),
        "names": family.kind.names_width(row for panel in family.panels.values() for row in panel.rows),
        "found": _strongest(family, mechanisms),
    }


def plot_maps(family: Family, mechanisms: Mechanisms, first: int) -> list[dict[str, Any]]:
    """What the script needs to draw the maps of a family; those of one shape show each other's values."""
    panels = list(family.panels.items())
    identifiers = [f"map-{first + number}" for number in range(len(panels))]
    per_line = len(_lines(panels)[0])
    plots = []
    for number, (letter, effect_map) in enumerate(panels):
        limits = family.limits[letter]
        same = [i for i, (_, other) in zip(identifiers, panels, strict=True) if other.layers == effect_map.layers]
        plots.append(
            {
                **views.plot_map(effect_map, identifiers[number], family.kind.name),
                "group": "runs",
                "panel": letter,
                "family": same,
                "bare": number % per_line != 0,
                "limits": dict(limits),
                "limit_words": {quantity: f"{limit:g}" for quantity, limit in limits.items()},
            }
        )
    return plots


def site_scatter(pair: PairOfRuns, found: MechanismSimilarity, identifier: str) -> dict[str, Any]:
    """What template and script need to draw one run's sites against another's."""
    points = found.points.assign(size=_sizes(found.points))
    shown = points.sort_values("size", ascending=False, kind="stable").head(MOST_POINTS).reset_index(drop=True)
    by_depth = found.matched.by == "depth"
    names = [_point_name(point, by_depth=by_depth) for point in shown.to_dict("records")]
    cut = f" The {MOST_POINTS:,} strongest of {len(points):,} are drawn." if len(points) > MOST_POINTS else ""
    quantity = "summed |effect|" if by_depth else "effect"
    return {
        "id": identifier,
        "title": f"{pair.one.letter} and {pair.other.letter}: {set_name(found)}",
        "label": f"Scatter plot of the {set_name(found)}, {pair.one.name} against {pair.other.name}.",
        "found": scatter_words(found, (pair.one.letter, pair.other.letter)) + cut,
        "x": [float(f"{value:.6g}") for value in shown["one"]],
        "y": [float(f"{value:.6g}") for value in shown["other"]],
        "x_title": f"{quantity} in {pair.one.letter}, logits",
        "y_title": f"{quantity} in {pair.other.letter}, logits",
        "letters": [pair.one.letter, pair.other.letter],
        "names": names,
        "shown_names": _shown_names(shown, names),
        "layer": [int(layer) for layer in shown["layer"]],
        "n_layers": int(found.points["layer"].max()) + 1,
        "decimals": words.decimals_for([*shown["one"], *shown["other"]]),
    }


def similarity_rows(pair: PairOfRuns) -> list[dict[str, Any]]:
    """One row a set of sites, one cell a measure; a measure that does not exist there is a dash."""
    rows = []
    for found in pair.found:
        noun = "depth" if found.matched.by == "depth" else "site"
        pairs = _both(found.n_pairs, "pair")
        queries = _both(found.n_queries, "query", "queries")
        if found.n_shared_queries and not found.same_queries:
            queries += f", {found.n_shared_queries:,} in both"
        rows.append(
            {
                "name": set_name(found),
                "together": found.matched.together,
                "n": f"{words.count(found.n_sites, noun)}; {pairs} of {queries}",
                "incomplete": _incomplete(pair, found),
                "cells": [_cell(found.of(measure)) for measure in _ORDER],
            }
        )
    return rows


def left_rows(left: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was not compared: one row for all sets of an experiment that one reason holds for."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in left:
        groups[tuple(entry[name] for name in _SAME_IN_ROW)].append(entry)
    rows = []
    for key, entries in groups.items():
        places: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            # of some experiments the only component has their name
            component = "" if entry["component"] == entry["experiment"] else entry["component"]
            places[component].append(entry["place"])
        rows.append(
            {
                **dict(zip(_SAME_IN_ROW, key, strict=True)),
                "sets": [{"component": component, "places": words.listing(of)} for component, of in places.items()],
                "n_sets": len(entries),
                "n_sites": f"{sum(entry['n_sites'] for entry in entries):,}",
            }
        )
    return rows


def measure_names() -> list[str]:
    """The measures, as they stand above the table."""
    return [MEASURE_WORDS[measure] for measure in _ORDER]


def _cell(one: MeasuredSimilarity) -> dict[str, Any]:
    interval = words.interval(one.value.low, one.value.high)
    lines = []
    if np.isfinite(one.value.value):
        lines.append(f"chance {words.number(one.chance.mean)}, {p_words(one.chance.p_value)}")
        if one.in_layers is not None:
            lines.append(f"in layers {words.number(one.in_layers.mean)}, {p_words(one.in_layers.p_value)}")
        if np.isfinite(one.ceilings).any():
            first, second = (words.number(ceiling) for ceiling in one.ceilings)
            lines.append(f"ceiling {first}, {second}")
    return {
        "value": words.number(one.value.value),
        "interval": "" if interval == words.MISSING else interval,
        "lines": lines,
    }


def _incomplete(pair: PairOfRuns, found: MechanismSimilarity) -> str:
    sides = ((pair.one, found.matched.one), (pair.other, found.matched.other))
    lacking = [f"{words.count(side.n_incomplete, 'pair')} of {run.letter}" for run, side in sides if side.n_incomplete]
    return f"{words.listing(lacking)} left out: not all sites are measured" if lacking else ""


def _both(numbers: tuple[int, int], noun: str, plural: str | None = None) -> str:
    one, other = numbers
    return words.count(one, noun, plural) if one == other else f"{one:,} and {words.count(other, noun, plural)}"


def _lines(columns: Sequence[Any]) -> list[list[Any]]:
    """Two or four in lines of two, others in lines of three."""
    per_line = 2 if len(columns) in (1, 2, 4) else _PER_LINE
    return [list(columns[start : start + per_line]) for start in range(0, len(columns), per_line)]


def _strongest(family: Family, mechanisms: Mechanisms) -> str:
    """Where each run's effect is largest, in one sentence."""
    parts = []
    for letter, effect_map in family.panels.items():
        matrix = np.abs(effect_map.values(mechanisms.quantity))
        if not np.isfinite(matrix).any():
            continue
        row, column = np.unravel_index(int(np.nanargmax(matrix)), matrix.shape)
        where = family.kind.site(effect_map.rows[row], effect_map.layers[column])
        value = float(effect_map.values(mechanisms.quantity)[row, column])
        unit = "IE" if mechanisms.quantity == "ie" else "effect in logits"
        parts.append(f"in {letter} {where} ({unit} {words.number(value)})")
    return f"Largest {words.listing(parts)}." if parts else ""


def _sizes(points: pd.DataFrame) -> np.ndarray:
    """How far out each point lies in the plot: the larger of its shares of either run's largest."""
    shares = [points[column].abs() / (points[column].abs().max() or 1.0) for column in ("one", "other")]
    largest: np.ndarray = np.maximum(*(share.to_numpy(dtype=np.float64) for share in shares))
    return largest


def _shown_names(shown: pd.DataFrame, names: list[str]) -> list[str]:
    """Names of the few points farthest out, none on top of another; the others are nameless until pointed at."""
    spans = [float(shown[column].max() - shown[column].min()) or 1.0 for column in ("one", "other")]
    at = np.column_stack([shown["one"] / spans[0], shown["other"] / spans[1]])
    kept: list[int] = []
    for i in range(min(len(shown), 4 * _NAMED)):
        apart = all((np.abs(at[i] - at[k]) > _APART).any() for k in kept)
        if apart and len(kept) < _NAMED:
            kept.append(i)
    return [name if i in kept else "" for i, name in enumerate(names)]


def _point_name(point: Mapping[Any, Any], *, by_depth: bool) -> str:
    layer = int(point["layer"])
    if by_depth:
        return f"depth {layer}, {point['place']}"
    if pd.notna(point["head"]):
        return f"{words.head_name(layer, int(point['head']))}, {point['place']}"
    return f"L{layer}, {point['place']}"


def quantity_words(quantity: Quantity) -> str:
    """What the maps' colours show."""
    return "indirect effect, a share of each run's own gap" if quantity == "ie" else views.QUANTITY_WORDS["effect"]
