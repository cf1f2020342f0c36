"""Effects of runs in the smallest form that the analyses of mechanisms read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from relscope.analysis import RunEffects
from relscope.analysis.site_changes import SiteChanges
from relscope.results import SITE_COLUMNS

SHAPE = (6, 5)


def sites_of(
    shape: tuple[int, int] = SHAPE,
    places: Sequence[str] = ("query", "last"),
    experiment: str = "heads",
    component: str = "z",
    direction: str = "denoise",
) -> pd.DataFrame:
    """The sites of one component: layer by head (of "flow": none) by place; a place with an arrow is an edge."""
    heads: Sequence[int | None] = [None] if experiment == "flow" else range(shape[1])
    records = []
    for layer, head, place in product(range(shape[0]), heads, places):
        dest, arrow, src = place.partition("<-")
        ends = (None, dest, src) if arrow else (place, None, None)
        records.append((experiment, component, layer, head, *ends, direction))
    return pd.DataFrame(records, columns=list(SITE_COLUMNS)).astype({"layer": "Int16", "head": "Int16"})


def run_of(
    sites: pd.DataFrame, effects: np.ndarray, shape: tuple[int, int] = SHAPE, queries: Sequence[str] | None = None
) -> RunEffects:
    """A run with these effects, [site, pair]; each pair is its query's only one unless `queries` says otherwise."""
    n_pairs = effects.shape[1]
    query_ids = tuple(f"q{i}" for i in range(n_pairs)) if queries is None else tuple(queries)
    return RunEffects(SiteChanges(sites, query_ids, effects, effects, effects), *shape)


def noisy(mean: np.ndarray, n_pairs: int, seed: int, noise: float = 0.3) -> np.ndarray:
    """Effects [site, pair] around `mean`."""
    return mean[:, None] + np.random.default_rng(seed).normal(0, noise, (len(mean), n_pairs))
