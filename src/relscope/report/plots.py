"""Which numbers does the page's script draw as lines, points and readout maps? Plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relscope.report import words
from relscope.report.maps import EffectMap, Matrix

_ENDS = {"effect": "mean", "effect_low": "low", "effect_high": "high", "n_pairs": "n_pairs", "n_queries": "n_queries"}


def lines(
    identifier: str, x_title: str, y_title: str, of_lines: Sequence[tuple[str, pd.DataFrame]], *, x: str
) -> dict[str, Any]:
    """A line plot: for each (name, frame) `mean` over the column `x`, with the band from `low` to `high`."""
    values = np.concatenate([frame["mean"].to_numpy(dtype=np.float64) for _, frame in of_lines])
    return {
        "id": identifier,
        "x_title": x_title,
        "y_title": y_title,
        "decimals": words.decimals_for(values),
        "lines": [
            {"name": name, "x": [int(value) for value in frame[x]]}
            | {end: plain(frame[end]) for end in ("mean", "low", "high")}
            for name, frame in of_lines
        ],
    }


def readout_map(name: str, rows: Sequence[str], places: pd.Series, means: pd.DataFrame, n_layers: int) -> EffectMap:
    """Means of a readout as a map: item i, of layer `means.layer[i]`, stands in the row `places[i]`."""
    at = (places.to_numpy(dtype=np.intp), means["layer"].to_numpy(dtype=np.intp))
    cells: dict[str, Matrix] = {}
    for column, source in _ENDS.items():
        cells[column] = np.full((len(rows), n_layers), np.nan)
        cells[column][at] = means[source].to_numpy(dtype=np.float64)
    return EffectMap(name, "", tuple(rows), tuple(range(n_layers)), cells)


def plain(values: pd.Series) -> list[float | None]:
    """Six significant digits, None where there is no number."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.to_numpy(dtype=np.float64, na_value=np.nan)]
