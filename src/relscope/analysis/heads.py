"""Which heads have the largest effects?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from relscope.errors import InputError
from relscope.results import DIRECT


def top_heads(effects: pd.DataFrame, region: str, k: int = 10, component: str = "z") -> pd.DataFrame:
    """The `k` heads of largest |effect| at `region`, largest first; ties by layer, then head.

    A run with the experiment `paths` has direct effects of the same heads too. They are parts of the others, and are
    left out; give a table of `direct` alone to rank by them.

    Returns:
        Rows of `effects` (all its columns), at most `k`, numbered from 0.

    Raises:
        InputError: a head comes twice (two directions or experiments): choose one first. Or `k` is below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; give at least 1")
    here = (effects["component"] == component) & (effects["region"] == region) & effects["head"].notna()
    heads = effects[here]
    if "experiment" in heads and not (is_direct := heads["experiment"] == DIRECT).all():
        heads = heads[~is_direct]
    repeated = heads[heads.duplicated(subset=["layer", "head"])]
    if len(repeated):
        layer, head = repeated.iloc[0][["layer", "head"]]
        raise InputError(
            f"effects: layer {layer}, head {head} comes more than once; choose one direction and experiment first"
        )
    order = np.lexsort(
        (
            heads["head"].to_numpy(dtype=np.intp),
            heads["layer"].to_numpy(dtype=np.intp),
            -heads["effect"].abs().to_numpy(dtype=np.float64),
        )
    )
    return heads.iloc[order[:k]].reset_index(drop=True)
