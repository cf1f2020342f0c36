"""How does each computed thing look as plain values that a template or a script can print?

Everything here is text, numbers, lists and dicts; escaping is the template's business, and nothing is marked
as safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from relscope.analysis import Estimate, JudgeQuality
from relscope.report import words
from relscope.report.findings import place, ranked_cells
from relscope.report.map_kinds import MapKind
from relscope.report.maps import EffectMap, HeadList, Matrix, Quantity, Scale
from relscope.results import Segment

MOST_TABLE_CELLS = 20_000  # of all tables together; a browser is slow to lay out more, and the CSV has them all
QUANTITY_WORDS = {
    "ie": "indirect effect, a share of the gap",
    "effect": "effect on the logit difference, in logits",
}
QUALITY_WORDS = (
    ("accuracy", "Accuracy", "share of the verdicts that are right", 0.5),
    ("f1", "F1", "of the verdict yes; always saying yes gives 0.67", 2 / 3),
    ("roc_auc", "ROC AUC", "a clean prompt's LD above any corrupted one's", 0.5),
    ("paired_accuracy", "Paired accuracy", "pairs whose clean prompt has the higher LD", 0.5),
)


def quality_tiles(quality: JudgeQuality) -> list[dict[str, Any]]:
    """One tile for each measure: value, interval and their places on a bar from 0 to 1."""
    tiles = []
    for field, name, meaning, chance in QUALITY_WORDS:
        estimate: Estimate = getattr(quality, field)
        tiles.append(
            {
                "name": name,
                "value": words.number(estimate.value),
                "interval": interval_words(estimate.low, estimate.high, 2),
                "words": meaning,
                "bar": bar(estimate, (0.0, 1.0), chance),
            }
        )
    return tiles


def interval_words(low: float, high: float, decimals: int) -> str:
    """The interval, or why there is none."""
    text = words.interval(low, high, decimals)
    return "one query: no interval" if text == words.MISSING else text


def bar(estimate: Estimate, span: tuple[float, float], mark: float) -> dict[str, float | None]:
    """Places of value, interval ends and mark on a bar of `span`, in per cent of its length."""

    def percent(value: float) -> float | None:
        if not np.isfinite(value):
            return None
        return round(100 * (value - span[0]) / (span[1] - span[0]), 2)

    return {
        "value": percent(estimate.value),
        "low": percent(estimate.low),
        "high": percent(estimate.high),
        "mark": percent(mark),
    }


def histogram_rows(histogram: dict[str, Any]) -> list[dict[str, str]]:
    """The bins that hold a verdict, as table rows."""
    edges = histogram["edges"]
    decimals = max(len(f"{edge:g}".partition(".")[2]) for edge in edges)
    counts = zip(edges[:-1], edges[1:], histogram["clean"], histogram["corrupted"], strict=True)
    return [
        {
            "low": words.number(low, decimals),
            "high": words.number(high, decimals),
            "clean": f"{clean:,}",
            "corrupted": f"{corrupted:,}",
        }
        for low, high, clean, corrupted in counts
        if clean or corrupted
    ]


def histogram_label(judged: pd.DataFrame, runs: Mapping[str, str]) -> str:
    """What the histogram shows, for a reader who does not see it; `runs` names clean and corrupted."""
    parts = []
    for run, name in runs.items():
        values = judged[f"ld_{run}"].to_numpy(dtype=np.float64)
        parts.append(
            f"{name}: mean {words.number(values.mean())}, from {words.number(values.min())} "
            f"to {words.number(values.max())}"
        )
    return "Histogram of logit differences; " + "; ".join(parts) + "."


def map_view(effect_map: EffectMap, identifier: str, kind: MapKind, scale: Scale, *, table: bool) -> dict[str, Any]:
    """What the template shows of one map: title, spoken label and, if `table`, its values in a table."""
    title = kind.title(effect_map.name).spoken
    view: dict[str, Any] = {
        "id": identifier,
        "name": effect_map.name,
        "title": title,
        "place": place(effect_map.name),
        "label": _label(effect_map, kind, title, scale),
        "table_rows": [],
    }
    return view | (value_table(effect_map, kind, scale.quantity) if table else {})


def value_table(effect_map: EffectMap, kind: MapKind, quantity: Quantity) -> dict[str, Any]:
    """A map's values as a table of layers by rows of the map; with intervals where there is room for them."""
    return {
        "title": kind.title(effect_map.name).spoken,
        "corner": "layer",
        "dense": kind.of_heads,
        "missing_words": "A dash was not measured." if _has_gaps(effect_map) else "",
        "table_columns": [kind.row_title(row) for row in effect_map.rows],
        "table_rows": table_rows(effect_map, quantity, with_intervals=not kind.of_heads),
    }


def plot_map(effect_map: EffectMap, identifier: str, kind: str) -> dict[str, Any]:
    """What the script needs to draw one map; matrices are [row, layer], null where nothing was measured."""
    return {
        "id": identifier,
        "kind": kind,
        "name": effect_map.name,
        "rows": list(effect_map.rows),
        "layers": list(effect_map.layers),
        "missing": _has_gaps(effect_map),
        **{
            decimals: words.decimals_for(effect_map.cells[column].ravel())
            for decimals, column in (("decimals", "effect"), ("ie_decimals", "ie"), ("p_decimals", "p_effect"))
            if column in effect_map.cells
        },
        "cells": {name: _plain(matrix) for name, matrix in effect_map.cells.items()},
    }


def top_head_rows(head_list: HeadList, span: tuple[float, float]) -> list[dict[str, Any]]:
    """The listed heads as table rows; `span` is the common range of all lists' bars, in logits."""
    decimals = words.decimals_for(head_list.heads["effect"])
    ie_decimals = words.decimals_for(head_list.heads["ie"])
    rows = []
    for site in head_list.heads.to_dict("records"):
        estimate = Estimate(site["effect"], site["effect_low"], site["effect_high"])
        rows.append(
            {
                "layer": int(site["layer"]),
                "head": int(site["head"]),
                "name": words.head_name(int(site["layer"]), int(site["head"])),
                "effect": words.number(estimate.value, decimals),
                "interval": words.interval(estimate.low, estimate.high, decimals),
                "ie": words.number(site["ie"], ie_decimals),
                "q": words.probability(site["q_value"]),
                "bar": bar(estimate, span, 0.0),
            }
        )
    return rows


def bar_span(head_lists: Sequence[HeadList]) -> tuple[float, float]:
    """The range that holds 0 and every listed effect with its interval."""
    columns = ["effect", "effect_low", "effect_high"]
    return padded(np.concatenate([[], *(h.heads[columns].to_numpy(dtype=np.float64).ravel() for h in head_lists)]))


def padded(values: Float64[np.ndarray, " value"]) -> tuple[float, float]:
    """The range that holds 0 and all `values`, and a little more."""
    low, high = float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=0.0))
    if low == high:
        return -1.0, 1.0
    edge = 0.02 * (high - low)
    return low - edge, high + edge


def segment_view(segment: Segment) -> dict[str, str]:
    """A stretch of a prompt: leading white space, then its text; white space alone becomes visible signs."""
    text = segment.text.lstrip()
    lead = segment.text[: len(segment.text) - len(text)]
    if not text and segment.region != "other":
        text, lead = "".join("↵" if sign in "\r\n" else "␣" for sign in lead), ""
    return {"region": segment.region, "lead": lead, "text": text}


def n_table_cells(maps: Sequence[EffectMap]) -> int:
    """How many cells the tables of all these maps have."""
    return sum(len(m.rows) * len(m.layers) for m in maps)


def _label(effect_map: EffectMap, kind: MapKind, title: str, scale: Scale) -> str:
    cells = ranked_cells(effect_map, scale.quantity)
    label = f"Heat map, {kind.axes}, of {title}; {QUANTITY_WORDS[scale.quantity]}."
    if not cells:
        return label + " Nothing was measured."
    best = cells[0]
    return f"{label} Largest: {kind.site(best.row, best.layer)}, {best.shown(scale.quantity)}."


def table_rows(effect_map: EffectMap, quantity: Quantity, *, with_intervals: bool) -> list[dict[str, Any]]:
    """A table row for each layer, with a cell for each row of the map."""
    value, low, high = (effect_map.cells[f"{quantity}{end}"] for end in ("", "_low", "_high"))
    decimals = words.decimals_for(value.ravel())

    def cell(i: int, j: int) -> dict[str, str]:
        text = words.interval(low[i, j], high[i, j], decimals) if with_intervals else ""
        return {
            "value": words.number(value[i, j], decimals),
            "interval": "" if text == words.MISSING else text,
        }

    return [
        {"name": layer, "cells": [cell(i, j) for i in range(len(effect_map.rows))]}
        for j, layer in enumerate(effect_map.layers)
    ]


def _has_gaps(effect_map: EffectMap) -> bool:
    return bool(np.isnan(effect_map.cells["effect"]).any())


def _plain(matrix: Matrix) -> list[list[float | int | None]]:
    """Six significant digits: more than any screen shows, and half the bytes."""

    def plain(value: float) -> float | int | None:
        if not np.isfinite(value):
            return None
        rounded = float(f"{value:.6g}")
        return int(rounded) if rounded.is_integer() else rounded

    return [[plain(value) for value in row] for row in matrix.tolist()]
