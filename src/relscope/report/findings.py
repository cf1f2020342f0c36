"""What are the few things to take away? Sentences computed from the effects, never canned.

A finding names the strongest sites and gives their interval. It compares regions that do not overlap (`all`
holds every other region, so it would always win), and it says how many intervals exclude 0 beside how many
would by chance on so few queries, because the strongest of many sites looks stronger than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import Estimate, JudgeQuality, excluded_by_chance
from relscope.report import words
from relscope.report.maps import EffectMap, Quantity

HALF = 0.5
STRONGEST = 10
PLACES = {
    "query": "at the query",
    "document": "at the document",
    "document_a": "at document A",
    "document_b": "at document B",
    "instruction": "at the instruction",
    "last": "at the last token",
    "all": "at all tokens",
    "other": "at the other tokens",
}


@dataclass(frozen=True)
class Finding:
    """One thing to take away: a short title and one or two sentences."""

    title: str
    text: str


@dataclass(frozen=True)
class Cell:
    """One site of a map with its numbers."""

    row: str
    layer: int
    effect: Estimate
    ie: Estimate
    n_pairs: int
    n_queries: int

    def value(self, quantity: Quantity) -> Estimate:
        """The estimate that the colours show."""
        return self.ie if quantity == "ie" else self.effect

    def shown(self, quantity: Quantity) -> str:
        """`IE 0.31 [0.25, 0.37]`, or the effect where the gap allows no IE."""
        return ("IE " if quantity == "ie" else "effect ") + estimate(self.value(quantity))


def estimate(value: Estimate, decimals: int | None = None) -> str:
    """`0.31 [0.25, 0.37]`; the value alone where one query allows no interval."""
    places = words.decimals_for([value.value]) if decimals is None else decimals
    text = words.number(value.value, places)
    if np.isnan(value.low):
        return text
    return f"{text} {words.interval(value.low, value.high, places)}"


def difference(value: Estimate, decimals: int | None = None, *, footnote: bool = False) -> str:
    """As `estimate`, but an interval without width is told as such, in words or by a mark for the footnote."""
    if not value.no_width:
        return estimate(value, decimals)
    alone = estimate(Estimate(value.value, np.nan, np.nan), decimals)
    return f"{alone}{words.NO_WIDTH}" if footnote else f"{alone} (no width: all resamples equal)"


def estimate_of(row: Mapping[Any, Any], name: str) -> Estimate:
    """A column of a row, with its interval from `NAME_low` to `NAME_high`."""
    return Estimate(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def mean_of(row: Mapping[Any, Any]) -> Estimate:
    """The columns `mean`, `low` and `high` of a row."""
    return Estimate(float(row["mean"]), float(row["low"]), float(row["high"]))


def strongest(frame: pd.DataFrame, column: str, k: int | None = None) -> pd.DataFrame:
    """The `k` rows (all, if None) of largest |value| in a column, the largest first, equal ones in their order."""
    size = frame[column].abs().to_numpy(dtype=np.float64)
    return frame.iloc[np.argsort(-size, kind="stable")[:k]]


def excludes_zero(value: Estimate) -> bool:
    """True if the interval lies on one side of 0; a missing interval does not."""
    return value.low > 0 or value.high < 0


def by_chance(n_intervals: int, n_queries: int, confidence: float) -> str:
    """How many of these intervals would exclude 0 if there were nothing to find: `about 3`, or `fewer than 1`."""
    expected = n_intervals * excluded_by_chance(n_queries, confidence)
    return "fewer than 1" if expected < 0.5 else f"about {expected:,.0f}"


def excluding_zero(n: int, of: str) -> str:
    """`no interval of 40 heads excludes 0`, `1 interval ...`, `3 intervals of 40 heads exclude 0`."""
    counted = words.count(n, "interval") if n else "no interval"
    return f"{counted} of {of} {'exclude' if n > 1 else 'excludes'} 0"


def ranked_cells(effect_map: EffectMap, quantity: Quantity, rows: Sequence[str] | None = None) -> list[Cell]:
    """The measured cells of `rows` (default: all), largest absolute value first, ties by row, then layer."""
    cells = []
    for i, row in enumerate(effect_map.rows):
        if rows is not None and row not in rows:
            continue
        for j, layer in enumerate(effect_map.layers):
            at = {name: float(matrix[i, j]) for name, matrix in effect_map.cells.items()}
            if np.isfinite(at[quantity]):
                cells.append(
                    Cell(
                        row,
                        layer,
                        Estimate(at["effect"], at["effect_low"], at["effect_high"]),
                        Estimate(at["ie"], at["ie_low"], at["ie_high"]),
                        int(at["n_pairs"]),
                        int(at["n_queries"]),
                    )
                )
    return sorted(cells, key=lambda cell: -abs(cell.value(quantity).value))


def place(region: str) -> str:
    """`at the instruction`, `at query.first`."""
    return PLACES.get(region, f"at {region}")


def verdict_finding(quality: JudgeQuality, gap: Estimate | None) -> Finding:
    """How well the model judges, and how far apart its verdicts are."""
    title = f"Verdicts: accuracy {estimate(quality.accuracy, 2)}, ROC AUC {estimate(quality.roc_auc, 2)}"
    text = (
        f"The relevant document gets the higher logit difference in "
        f"{words.percent(quality.paired_accuracy.value)} of {words.count(quality.n, 'pair')} "
        f"({words.count(quality.n_queries, 'query', 'queries')})."
    )
    if gap is not None:
        text += (
            f" Over the patched pairs the gap between the clean and the corrupted run is {estimate(gap)} logits "
            "on average; an indirect effect (IE) is a share of this gap."
        )
    return Finding(title, text)


def flow_findings(maps: Sequence[EffectMap], quantity: Quantity) -> list[Finding]:
    """For each component of one direction: where it carries most; for the residual stream, where half is."""
    findings = []
    for effect_map in maps:
        if effect_map.name == "resid_post" and quantity == "ie":
            findings.append(_handover(effect_map))
            continue
        cells = ranked_cells(effect_map, quantity, words.disjoint(effect_map.rows))
        if cells:
            findings.append(_strongest_places(effect_map, cells, quantity))
    return findings


def flow_words(maps: Sequence[EffectMap], quantity: Quantity) -> str:
    """Of one direction what is not nearly true by construction: modules beyond layer 0, and the stream's handover.

    What layer 0 makes is little more than the words, and the residual stream ends at the whole gap at the last token;
    neither says what the model does. Empty where nothing else was measured.
    """
    found, handover = [], []
    for effect_map in maps:
        if effect_map.name == "resid_post":
            handover += [_handover(effect_map).text] if quantity == "ie" else []
            continue
        cells = [c for c in ranked_cells(effect_map, quantity, words.disjoint(effect_map.rows)) if c.layer > 0]
        if cells:
            best = cells[0]
            found.append(
                f"{effect_map.name} is largest at layer {best.layer}, {place(best.row)} ({best.shown(quantity)})"
            )
    modules = [f"Beyond layer 0 {words.listing(found)}."] if found else []
    streams = [f"The residual stream after the layer: {text[0].lower()}{text[1:]}" for text in handover]
    return " ".join([*modules, *streams])


def head_findings(maps: Sequence[EffectMap], quantity: Quantity, confidence: float) -> list[Finding]:
    """Over the regions of one direction: the strongest head of each, and how concentrated the effects are."""
    by_region = {effect_map.name: ranked_cells(effect_map, quantity) for effect_map in maps}
    ranked = [(region, by_region[region]) for region in words.disjoint(by_region) if by_region[region]]
    if not ranked:
        return []
    ranked.sort(key=lambda r: -abs(r[1][0].value(quantity).value))
    region, cells = ranked[0]
    best = cells[0]
    name = words.head_name(best.layer, int(best.row))
    title = f"Heads: the largest effect is {name}'s, {place(region)}"
    text = _amount(best, quantity)
    if len(cells) > 1:
        text += f"; next there {words.listing(_head_and_value(cell, quantity) for cell in cells[1:3])}"
    text += "."
    if len(ranked) > 1:
        others = words.listing(f"{_head_and_value(of[0], quantity)} {place(other)}" for other, of in ranked[1:])
        text += f" Elsewhere the largest are {others}."
    return [Finding(title, text + _spread(region, cells, quantity, confidence))]


def _strongest_places(effect_map: EffectMap, cells: list[Cell], quantity: Quantity) -> Finding:
    best, others = cells[0], cells[1:3]
    name = words.COMPONENTS.get(effect_map.name, effect_map.name)
    title = f"{name}: largest at layer {best.layer}, {place(best.row)}"
    text = f"{_amount(best, quantity)}, the largest of {words.count(len(cells), 'layer × region site')}"
    if not excludes_zero(best.value(quantity)) and np.isfinite(best.value(quantity).low):
        text += "; its interval includes 0, so even this one may be noise"
    text += "."
    if others:
        rest = words.listing(
            f"layer {cell.layer} {place(cell.row)} ({estimate(cell.value(quantity))})" for cell in others
        )
        text += f" Next: {rest}."
    return Finding(title, text)


def _handover(effect_map: EffectMap) -> Finding:
    """Up to which layer the document carries half of the gap, and from which layer the last token does."""
    name = words.COMPONENTS[effect_map.name]
    sentences = []
    until = layer_where_half(effect_map, "document", from_end=False)
    since = layer_where_half(effect_map, "last", from_end=True)
    if until is not None:
        sentences.append(
            f"Patching it {place('document')} alone gives at least half of the gap at every layer up to "
            f"{until.layer} ({until.shown('ie')})."
        )
    if since is not None:
        sentences.append(
            f"Patching it {place('last')} alone does so at every layer from {since.layer} on ({since.shown('ie')})."
        )
    if until is not None and since is not None and since.layer > until.layer:
        title = f"{name}: from the document to the last token between layers {until.layer} and {since.layer}"
    elif since is not None:
        title = f"{name}: half of the gap is at the last token from layer {since.layer} on"
    elif until is not None:
        title = f"{name}: half of the gap is at the document up to layer {until.layer}"
    else:
        title = f"{name}: no single region holds half of the gap"
        cells = ranked_cells(effect_map, "ie", words.disjoint(effect_map.rows))
        if cells:
            best = cells[0]
            sentences.append(f"The largest is layer {best.layer} {place(best.row)} ({best.shown('ie')}).")
        else:
            sentences.append("Only overlapping regions were measured.")
    return Finding(title, " ".join(sentences))


def layer_where_half(effect_map: EffectMap, region: str, *, from_end: bool) -> Cell | None:
    """The last layer of the unbroken stretch, from one end of the depth, in which IE is at least one half."""
    if region not in effect_map.rows:
        return None
    cells = sorted(ranked_cells(effect_map, "ie", (region,)), key=lambda c: c.layer, reverse=from_end)
    held = None
    for cell in cells:
        if cell.ie.value < HALF:
            break
        held = cell
    return held


def _amount(cell: Cell, quantity: Quantity) -> str:
    effect = f"n effect of {estimate(cell.effect)} logits"
    return f"{cell.shown('ie')}, a{effect}" if quantity == "ie" else f"A{effect}"


def _head_and_value(cell: Cell, quantity: Quantity) -> str:
    return f"{words.head_name(cell.layer, int(cell.row))} ({estimate(cell.value(quantity))})"


def _spread(region: str, cells: list[Cell], quantity: Quantity, confidence: float) -> str:
    """How many heads have an effect at all, and how much of the effects the strongest hold."""
    text = ""
    with_interval = [cell for cell in cells if np.isfinite(cell.value(quantity).low)]
    if with_interval:
        n = sum(excludes_zero(cell.value(quantity)) for cell in with_interval)
        expected = by_chance(len(with_interval), max(cell.n_queries for cell in with_interval), confidence)
        excluding = excluding_zero(n, words.count(len(with_interval), "head"))
        text += f" {place(region).capitalize()} {excluding} ({expected} would if no head had an effect)"
    total = sum(abs(cell.value(quantity).value) for cell in cells)
    if len(cells) > 2 * STRONGEST and total > 0:
        share = sum(abs(cell.value(quantity).value) for cell in cells[:STRONGEST]) / total
        start = ", and the" if text else " The"
        text += f"{start} ten strongest heads hold {words.percent(share)} of the summed absolute effects"
    return f"{text}." if text else ""
