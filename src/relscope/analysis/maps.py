"""Where are the effects: which layers and regions, which heads?

Site effects arranged for looking at: a grid of layers by regions or by heads, and the list of strongest
heads. A site that was not measured is NaN, which is not the same as an effect of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from relscope.errors import InputError

Measure = Literal["effect", "ie", "p_effect"]
_Grid = Float64[np.ndarray, "layer column"]


@dataclass(frozen=True)
class SiteMap:
    """Effects on a grid, NaN where nothing was measured.

    `columns` names the second axis: regions (str) or heads (int, zero-based).
    """

    effect: _Grid
    low: _Grid
    high: _Grid
    columns: tuple[str, ...] | tuple[int, ...]


def layer_region_map(
    effects: pd.DataFrame,
    component: str,
    *,
    regions: Sequence[str] | None = None,
    n_layers: int | None = None,
    measure: Measure = "effect",
) -> SiteMap:
    """Effects [layer, region] of a component without heads.

    Args:
        effects: of `site_effects`, of one direction.
        regions: the columns, in this order; by default those that were measured, as they first appear.
        n_layers: how many rows; by default up to the last measured layer.

    Raises:
        InputError: two sites fall into one cell (two directions or experiments), or a layer is not below `n_layers`.
    """
    sites = effects[(effects["component"] == component) & effects["head"].isna() & effects["region"].notna()]
    names = tuple(str(name) for name in (sites["region"].unique() if regions is None else regions))
    number = {name: i for i, name in enumerate(names)}
    sites = sites[sites["region"].isin(names)]
    columns = np.array([number[str(name)] for name in sites["region"]], dtype=np.intp)
    effect, low, high = _grids(sites, columns, (n_layers, len(names)), measure)
    return SiteMap(effect, low, high, names)


def layer_head_map(
    effects: pd.DataFrame,
    region: str,
    *,
    component: str = "z",
    n_layers: int | None = None,
    n_heads: int | None = None,
    measure: Measure = "effect",
) -> SiteMap:
    """Effects [layer, head] of one component at one region.

    Args:
        effects: of `site_effects`, of one direction.
        n_layers: how many rows; by default up to the last measured layer.
        n_heads: how many columns; by default up to the last measured head.

    Raises:
        InputError: two sites fall into one cell (two directions or experiments), or a layer or head is outside the
            grid.
    """
    sites = _heads(effects, region, component)
    columns = sites["head"].to_numpy(dtype=np.intp)
    if n_heads is None:
        n_heads = int(columns.max()) + 1 if len(columns) else 0
    effect, low, high = _grids(sites, columns, (n_layers, n_heads), measure)
    return SiteMap(effect, low, high, tuple(range(n_heads)))


def top_heads(effects: pd.DataFrame, region: str, k: int = 10, component: str = "z") -> pd.DataFrame:
    """The `k` heads of largest |effect| at `region`, largest first; ties by layer, then head.

    Returns:
        Rows of `effects` (all its columns), at most `k`, numbered from 0.

    Raises:
        InputError: a head comes twice (two directions or experiments): choose one first. Or `k` is below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; give at least 1")
    heads = _heads(effects, region, component)
    _refuse_repeated(heads, ["layer", "head"])
    order = np.lexsort(
        (
            heads["head"].to_numpy(dtype=np.intp),
            heads["layer"].to_numpy(dtype=np.intp),
            -heads["effect"].abs().to_numpy(dtype=np.float64),
        )
    )
    return heads.iloc[order[:k]].reset_index(drop=True)


def _heads(effects: pd.DataFrame, region: str, component: str) -> pd.DataFrame:
    here = (effects["component"] == component) & (effects["region"] == region) & effects["head"].notna()
    return effects[here]


def _refuse_repeated(sites: pd.DataFrame, cell: list[str]) -> None:
    repeated = sites.duplicated(subset=cell)
    if repeated.any():
        row = sites[repeated].iloc[0]
        name = ", ".join(f"{column} {row[column]}" for column in cell)
        raise InputError(f"effects: {name} comes more than once; choose one direction and experiment first")


def _grids(
    sites: pd.DataFrame,
    columns: Int[np.ndarray, " site"],
    shape: tuple[int | None, int],
    measure: Measure,
) -> list[_Grid]:
    """Value, low and high [layer, column] of `measure`."""
    _refuse_repeated(sites, ["layer", "head", "region"])
    layers = sites["layer"].to_numpy(dtype=np.intp)
    n_layers = shape[0]
    if n_layers is None:
        n_layers = int(layers.max()) + 1 if len(layers) else 0
    for name, numbers, count in (("layer", layers, n_layers), ("head", columns, shape[1])):
        if len(numbers) and numbers.max() >= count:
            raise InputError(f"effects: {name} {numbers.max()} was measured, but the map has {count}")
    grids = []
    for name in (measure, f"{measure}_low", f"{measure}_high"):
        grid = np.full((n_layers, shape[1]), np.nan)
        grid[layers, columns] = sites[name].to_numpy(dtype=np.float64)
        grids.append(grid)
    return grids
