"""Which matrix does each heat map show, and on which colour scale?

A map has layers as columns, so that depth always runs from left to right; its rows are regions (information
flow) or heads (their outputs, or their attention edges). A site that was not measured is NaN and is drawn as a
gap, never as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from relscope.report import words

FLOW_COMPONENTS = ("attn_out", "mlp_out", "resid_post")
MODULES = ("attn_out", "mlp_out")
CELL_COLUMNS = (
    "effect",
    "effect_low",
    "effect_high",
    "ie",
    "ie_low",
    "ie_high",
    "p_effect",
    "p_effect_low",
    "p_effect_high",
    "q_value",
    "n_pairs",
    "n_queries",
)
# ColorBrewer's RdBu without its darkest step at either end: there red and blue are both nearly black, and a
# red-blind reader could not tell a large positive effect from a large negative one.
COLOURS = (
    "#2166ac",
    "#4393c3",
    "#92c5de",
    "#d1e5f0",
    "#f7f7f7",
    "#fddbc7",
    "#f4a582",
    "#d6604d",
    "#b2182b",
)

Quantity = Literal["ie", "effect"]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EffectMap:
    """One heat map. `cells[column]` is a matrix [row, layer]; NaN where the site was not measured."""

    name: str  # the component of a flow map, the region of a head map, component and edge of an edge map
    direction: str
    rows: tuple[str, ...]  # regions, or head numbers as text
    layers: tuple[int, ...]
    cells: Mapping[str, Matrix]

    def values(self, quantity: Quantity) -> Matrix:
        """The matrix [row, layer] that the colours show."""
        return self.cells[quantity]


@dataclass(frozen=True)
class HeadList:
    """The strongest heads of one map (a region, or an edge), as rows of the site effects."""

    name: str
    direction: str
    heads: pd.DataFrame


@dataclass(frozen=True)
class Scale:
    """What the colours mean: the quantity, and the value at the end of the scale, symmetric around 0."""

    quantity: Quantity
    flow: float  # largest absolute value over all components
    modules: float  # the same over attn_out and mlp_out alone, which resid_post exceeds by far
    heads: float

    @property
    def zoom_helps(self) -> bool:
        """True if the modules would use less than four fifths of the flow maps' colours."""
        return self.modules < 0.8 * self.flow


def flow_maps(effects: pd.DataFrame, columns: Sequence[str] = CELL_COLUMNS) -> list[EffectMap]:
    """One map for each direction and component of the experiment `flow`: regions x layers, with these columns."""
    flow = effects[effects["experiment"] == "flow"]
    maps = []
    for direction in _names(flow["direction"]):
        here = flow[flow["direction"] == direction]
        regions = sorted(_names(here["region"]), key=words.region_key)
        layers = _layers(here)
        for component in sorted(_names(here["component"]), key=_component_key):
            sites = here[here["component"] == component]
            row_of = {region: i for i, region in enumerate(regions)}
            index = np.array([row_of[str(region)] for region in sites["region"]], dtype=np.intp)
            cells = _matrices(sites, index, (len(regions), layers), columns)
            maps.append(EffectMap(component, direction, tuple(regions), layers, cells))
    return maps


def head_maps(effects: pd.DataFrame, columns: Sequence[str] = CELL_COLUMNS) -> list[EffectMap]:
    """One map for each direction and region of the experiment `heads`: heads x layers, with these columns."""
    return of_heads(effects[effects["experiment"] == "heads"], "region", columns)


def of_heads(heads: pd.DataFrame, name: str, columns: Sequence[str]) -> list[EffectMap]:
    """One map for each direction and each value of the column `name`, in the order of regions: heads x layers."""
    maps = []
    for direction in _names(heads["direction"]):
        here = heads[heads["direction"] == direction]
        layers = _layers(here)
        n_heads = int(here["head"].max()) + 1
        for value in sorted(_names(here[name]), key=words.region_key):
            sites = here[here[name] == value]
            index = np.array([int(head) for head in sites["head"]], dtype=np.intp)
            cells = _matrices(sites, index, (n_heads, layers), columns)
            maps.append(EffectMap(value, direction, tuple(str(h) for h in range(n_heads)), layers, cells))
    return maps


def edge_maps(effects: pd.DataFrame, columns: Sequence[str] = CELL_COLUMNS) -> list[EffectMap]:
    """One map for each direction, component and edge of the experiment `edges`: heads x layers, with these columns."""
    edges = effects[effects["experiment"] == "edges"]
    return sorted(of_heads(edges.assign(edge=edge_names(edges)), "edge", columns), key=_edge_order)


def edge_key(component: str, dest: str, src: str) -> tuple[Any, ...]:
    """Sorts edges by component (scores, from which the pattern is made, first), destination and source."""
    return words.component_key(component), words.region_key(dest), words.region_key(src)


def edge_names(edges: pd.DataFrame) -> pd.Series[str]:
    """`scores query<-document`, the name of the map that holds each row."""
    return edges["component"].astype(str) + " " + edges["dest"].astype(str) + "<-" + edges["src"].astype(str)


def shared_scale(flow: Sequence[EffectMap], heads: Sequence[EffectMap], quantity: Quantity) -> Scale:
    """The ends of the colour scales; an experiment without any effect gets 1, so that its maps are white."""
    modules = [m for m in flow if m.name in MODULES]
    return Scale(
        quantity,
        flow=limit_of(m.values(quantity) for m in flow),
        modules=limit_of(m.values(quantity) for m in modules or flow),
        heads=limit_of(m.values(quantity) for m in heads),
    )


def limit_of(matrices: Iterable[Matrix]) -> float:
    """The end of a symmetric colour scale that holds every value: two significant digits; 1 where all are 0."""
    largest = 0.0
    for matrix in matrices:
        finite = matrix[np.isfinite(matrix)]
        if finite.size:
            largest = max(largest, float(np.abs(finite).max()))
    if largest == 0:
        return 1.0
    # Rounded up to two significant digits: the ends of the scale are printed, and no value lies beyond them.
    unit = 10.0 ** (math.floor(math.log10(largest)) - 1)
    return math.ceil(largest / unit - 1e-9) * unit


def _names(column: pd.Series[str]) -> list[str]:
    return sorted(str(name) for name in column.dropna().unique())


def _layers(sites: pd.DataFrame) -> tuple[int, ...]:
    return tuple(range(int(sites["layer"].max()) + 1)) if len(sites) else ()


def _component_key(component: str) -> tuple[int, str]:
    known = component in FLOW_COMPONENTS
    return (FLOW_COMPONENTS.index(component) if known else len(FLOW_COMPONENTS), component)


def _edge_order(effect_map: EffectMap) -> tuple[Any, ...]:
    component, _, edge = effect_map.name.partition(" ")
    dest, _, src = edge.partition("<-")
    return effect_map.direction, *edge_key(component, dest, src)


def _matrices(
    sites: pd.DataFrame,
    rows: npt.NDArray[np.intp],
    shape: tuple[int, tuple[int, ...]],
    names: Sequence[str],
) -> dict[str, Matrix]:
    n_rows, layers = shape
    columns = sites["layer"].to_numpy(dtype=np.intp)
    cells = {}
    for name in names:
        matrix = np.full((n_rows, len(layers)), np.nan)
        matrix[rows, columns] = sites[name].to_numpy(dtype=np.float64, na_value=np.nan)
        cells[name] = matrix
    return cells
