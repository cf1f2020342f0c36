"""How does each computed thing of a comparison look as plain values that a template or a script can print?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from relscope.analysis import MEASURES, Estimate, MoveCorrelation
from relscope.report import views, words
from relscope.report.comparison_contents import Comparison, Moved, SameSites
from relscope.report.comparison_findings import of, p_words, site_name
from relscope.report.comparison_folder import TRANSFER_FOLDERS
from relscope.report.comparison_maps import Family
from relscope.report.findings import estimate, place
from relscope.report.maps import Quantity, Scale

PANEL_WORDS: Final = {
    "base": "base",
    "tuned": "tuned",
    "difference": "tuned − base",
    **{name: f"{donor} into {receiver}" for name, (donor, receiver) in TRANSFER_FOLDERS.items()},
}
QUANTITY_WORDS: Final[dict[str, dict[Quantity, str]]] = {
    "effects": {
        "effect": "effect on the logit difference, in logits",
        "ie": "indirect effect, a share of each model's own gap",
    },
    "transfer": {
        "effect": "effect on the separation of the two prompts, in logits",
        "ie": "share of the donor's extra separation",
    },
}
SHARE_WORDS: Final = {"effects": "IE", "transfer": "share"}
LAYER_COLOURS: Final = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c8c020")
"""Viridis, its yellow end darkened so that it is seen on white."""
MEASURE_WORDS: Final = {
    "spearman": "Spearman",
    "kendall": "Kendall τ-b",
    "pearson": "Pearson",
    "overlap_10": "Overlap at 10",
    "overlap_20": "Overlap at 20",
    "rbo": "RBO",
}
PART_WORDS: Final = {
    "q": "attention, q",
    "k": "attention, k",
    "v": "attention, v",
    "o": "attention, o (output)",
    "mlp": "MLP",
    "norm": "norms",
    "embedding": "embedding and unembedding",
    "other": "other",
}
MATTERS_WORDS: Final = {"effect_tuned": "|effect| in the tuned model", "difference": "|difference| of the effects"}


def quality_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a measure: both models' values and bars, and the difference."""
    rows = []
    for field, name, meaning, chance in views.QUALITY_WORDS:
        row: dict[str, Any] = {"name": name, "words": meaning}
        for model, quality in comparison.quality.items():
            value: Estimate = getattr(quality, field)
            row[model] = {
                "value": words.number(value.value),
                "interval": words.interval(value.low, value.high),
                "bar": views.bar(value, (0.0, 1.0), chance),
            }
        change = comparison.quality_difference[field]
        row["difference"] = _shown(change, 2)
        if change.no_width:
            row["difference"] |= {"value": f"{row['difference']['value']}{words.NO_WIDTH}", "interval": ""}
        rows.append(row)
    return rows


def family_view(family: Family, first: int, quantity: Quantity, *, table: bool) -> dict[str, Any]:
    """What the template shows of one family, at first in `quantity`; its maps are numbered from `first`."""
    columns = []
    for number, (panel, effect_map) in enumerate(family.panels.items()):
        scale = Scale(quantity, *(family.limits[panel][quantity] for _ in range(3)))
        view = views.map_view(effect_map, f"map-{first + number}", family.kind, scale, table=table)
        heading = PANEL_WORDS[panel]
        columns.append(
            {
                **view,
                "title": f"{view['title']}, {heading}",
                "heading": heading,
                "label": f"{heading[0].upper()}{heading[1:]}. {view['label']}",
                "limit": _limit_words(family.limits[panel][quantity]),
            }
        )
    return {
        "title": family.kind.title(family.name),
        "kind": family.kind.name,
        "columns": columns,
        "names": family.kind.names_width(row for panel in family.panels.values() for row in panel.rows),
    }


def plot_maps(family: Family, first: int) -> list[dict[str, Any]]:
    """What the script needs to draw the maps of a family."""
    identifiers = [f"map-{first + number}" for number in range(len(family.panels))]
    plots = []
    for identifier, (panel, effect_map) in zip(identifiers, family.panels.items(), strict=True):
        limits = family.limits[panel]
        plots.append(
            {
                **views.plot_map(effect_map, identifier, family.kind.name),
                "group": family.group,
                "panel": PANEL_WORDS[panel],
                "family": identifiers,
                "bare": identifier != identifiers[0],
                "limits": dict(limits),
                "limit_words": {quantity: f"{limit:g}" for quantity, limit in limits.items()},
            }
        )
    return plots


def change_rows(changes: pd.DataFrame, *, shares: bool) -> list[dict[str, Any]]:
    """The sites whose effect differs most as table rows; the bar shows the difference, as a share if there are any."""
    records = changes.to_dict("records")
    column = "ie_difference" if shares else "difference"
    span = _span([of(site, column) for site in records])
    decimals = words.decimals_for([float(site["effect_tuned"]) for site in records])
    share_decimals = words.decimals_for([float(site["ie_difference"]) for site in records])
    return [
        {
            "name": site_name(site),
            **{name: _shown(of(site, f"effect_{name}"), decimals) for name in ("base", "tuned")},
            "difference": _shown(of(site, "difference"), decimals),
            "share": _shown(of(site, "ie_difference"), share_decimals) if shares else None,
            "bar": views.bar(of(site, column), span, 0.0),
        }
        for site in records
    ]


def transfer_rows(strongest: pd.DataFrame, *, shares: bool) -> list[dict[str, Any]]:
    """The sites that alone carry most as table rows; the bar shows the share, or the effect where there is none."""
    records = strongest.to_dict("records")
    quantity = "ie" if shares else "effect"
    span = _span([of(site, quantity) for site in records])
    decimals = words.decimals_for([float(site["effect"]) for site in records])
    return [
        {
            "name": site_name(site),
            "effect": _shown(of(site, "effect"), decimals),
            "share": _shown(of(site, "ie"), 2) if shares else None,
            "bar": views.bar(of(site, quantity), span, 0.0),
        }
        for site in records
    ]


def similarity_rows(same: Sequence[SameSites]) -> list[dict[str, Any]]:
    """One row a set of sites, one cell a measure; a measure that does not exist there is a dash."""
    rows = []
    for one in same:
        by_measure = {s.measure: s for s in one.similarities}
        name = f"heads {place(one.name)}" if one.kind == "heads" else one.name
        cells = []
        for measure in MEASURES:
            found = by_measure[measure]
            chance = words.number(found.by_chance) if np.isfinite(found.by_chance) else ""
            cells.append(
                {
                    **_shown(found.value, 2),
                    "p": p_words(found.p_value),
                    "chance": f"chance {chance}" if chance and measure.startswith(("overlap", "rbo")) else "",
                }
            )
        noun = "head" if one.kind == "heads" else "layer × region site"
        rows.append({"name": name, "n": words.count(one.similarities[0].n_sites, noun), "cells": cells})
    return rows


def correlation_rows(correlations: Sequence[MoveCorrelation]) -> list[dict[str, Any]]:
    """One row a region: the correlation with each of the two notions of what matters."""
    by_region: dict[str, dict[str, Any]] = {}
    for one in correlations:
        row = by_region.setdefault(one.region, {"name": f"heads {place(one.region)}", "n": one.n_heads})
        row[one.matters] = {**_shown(one.correlation, 2), "p": p_words(one.p_value)}
    return list(by_region.values())


def part_rows(parts: pd.DataFrame) -> list[dict[str, str]]:
    """How far each part's weights moved."""
    rows = []
    for part in parts.to_dict("records"):
        unchanged = float(part["moved"]) == 0
        most = "" if unchanged or pd.isna(part["layer"]) else f"layer {part['layer']}: {_percent(part['layer_moved'])}"
        rows.append(
            {
                "name": PART_WORDS[part["part"]],
                "matrices": f"{part['n_matrices']:,}",
                "values": f"{part['n_values']:,}",
                "moved": "unchanged" if unchanged else _percent(part["moved"]),
                "most": most or words.MISSING,
            }
        )
    return rows


def scatters(moved: Moved, n_layers: int) -> list[dict[str, Any]]:
    """What the script needs to draw, for each region, how far each head moved against how much it matters."""
    if moved.heads is None:
        return []
    plots = []
    regions = sorted(dict.fromkeys(str(region) for region in moved.heads["region"]), key=words.region_key)
    names = [f"{name}{end}" for name in ("moved", "effect_base", "effect_tuned", "difference") for end in _ENDS]
    for number, region in enumerate(regions):
        here = moved.heads[moved.heads["region"] == region]
        plots.append(
            {
                "id": f"scatter-{number}",
                "region": region,
                "place": place(region),
                "label": _scatter_label(here, region),
                "layer": [int(layer) for layer in here["layer"]],
                "head": [int(head) for head in here["head"]],
                "n_layers": n_layers,
                "n_queries": int(here["n_queries"].max()),
                "decimals": words.decimals_for(here["effect_tuned"]),
                **{name: _plain(here[name]) for name in (*names, "moved_q", "moved_o")},
            }
        )
    return plots


_ENDS = ("", "_low", "_high")


def _scatter_label(here: pd.DataFrame, region: str) -> str:
    strongest = here.iloc[int(np.argmax(here["effect_tuned"].abs().to_numpy()))].to_dict()
    return (
        f"Scatter plot of the heads {place(region)}: how far the output moved against |effect| in the tuned model. "
        f"Largest effect: {words.head_name(int(strongest['layer']), int(strongest['head']))}, "
        f"{estimate(of(strongest, 'effect_tuned'))} logits, moved by {_percent(strongest['moved'])}."
    )


def _shown(value: Estimate, decimals: int) -> dict[str, str]:
    interval = words.interval(value.low, value.high, decimals)
    return {
        "value": words.number(value.value, decimals),
        "interval": "" if interval == words.MISSING else interval,
    }


def _span(values: Sequence[Estimate]) -> tuple[float, float]:
    """The range that holds 0 and all values with their intervals."""
    ends = [0.0] + [end for value in values for end in (value.value, value.low, value.high) if np.isfinite(end)]
    low, high = min(ends), max(ends)
    if low == high:
        return -1.0, 1.0
    edge = 0.02 * (high - low)
    return low - edge, high + edge


def _percent(share: Any) -> str:
    """`12 %`; small shares with as many decimals as show something."""
    value = 100 * float(share)
    if not np.isfinite(value):
        return words.MISSING
    return f"{words.number(value, 0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2)}\u00a0%"


def _limit_words(limit: float) -> Mapping[str, str]:
    return {"plus": f"+{limit:g}", "minus": f"{words.MINUS}{limit:g}"}


def _plain(column: pd.Series[float]) -> list[float | None]:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
