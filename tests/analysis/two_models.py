"""Rows of two models in the smallest form that the analyses of comparisons read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relscope.results import rows_table


def rows_of(
    patched: np.ndarray,
    clean: Sequence[float],
    corrupted: Sequence[float],
    *,
    pair_ids: Sequence[str] | None = None,
    experiment: str = "heads",
    region: str = "last",
    direction: str = "denoise",
) -> pd.DataFrame:
    """Rows of one run: `patched` is LD_patched [pair, site]; site i is head i of layer 0, or layer i of `flow`."""
    n_pairs, n_sites = np.shape(patched)
    ids = [f"p{i}" for i in range(n_pairs)] if pair_ids is None else list(pair_ids)
    of_heads = "heads" in experiment
    values = {
        "clean": np.repeat(np.asarray(clean, dtype=np.float64), n_sites),
        "corrupted": np.repeat(np.asarray(corrupted, dtype=np.float64), n_sites),
        "patched": np.asarray(patched, dtype=np.float64).ravel(),
    }
    columns: dict[str, Any] = {
        "pair_id": np.repeat(ids, n_sites),
        "component": ["z" if of_heads else "attn_out"] * (n_pairs * n_sites),
        "layer": [0 if of_heads else i for i in range(n_sites)] * n_pairs,
        "head": [i if of_heads else None for i in range(n_sites)] * n_pairs,
        "region": [region] * (n_pairs * n_sites),
        "dest": [None] * (n_pairs * n_sites),
        "src": [None] * (n_pairs * n_sites),
        "direction": [direction] * (n_pairs * n_sites),
    }
    columns |= {f"ld_{run}": value for run, value in values.items()}
    columns |= {f"p_{run}": np.tanh(value / 2) for run, value in values.items()}
    frame: pd.DataFrame = rows_table(experiment, columns).to_pandas(types_mapper=None)
    return frame.astype({"layer": "Int16", "head": "Int16"})


def own_queries(n_pairs: int) -> dict[str, str]:
    """Every pair is the only one of its query."""
    return {f"p{i}": f"q{i}" for i in range(n_pairs)}


def random_rows(seed: int, n_pairs: int = 8, n_sites: int = 30, **options: Any) -> pd.DataFrame:
    """Rows of random effects of a model that separates the prompts by about 4 logits."""
    rng = np.random.default_rng(seed)
    clean, corrupted = rng.normal(2, 0.5, n_pairs), rng.normal(-2, 0.5, n_pairs)
    effects = rng.normal(0, 1, n_sites) + rng.normal(0, 0.3, (n_pairs, n_sites))
    return rows_of(corrupted[:, None] + effects, clean, corrupted, **options)
