"""How are the verdicts spread? Counts of logit differences, for clean and for corrupted prompts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

MOST_BINS = 40


def histogram(judged: pd.DataFrame) -> dict[str, Any]:
    """Counts of the logit difference of clean (positive document) and corrupted (negative document) runs.

    Returns:
        `edges` [bin + 1] in logits, one of them exactly 0 (where yes turns into no), and the counts `clean` and
        `corrupted` [bin].
    """
    positive = judged["ld_clean"].to_numpy(dtype=np.float64)
    negative = judged["ld_corrupted"].to_numpy(dtype=np.float64)
    both = np.concatenate([positive, negative])
    low, high = min(0.0, float(both.min())), max(0.0, float(both.max()))
    width = _round_width((high - low) / MOST_BINS)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    edges = np.arange(first, last + 1) * width
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "clean": [int(n) for n in np.histogram(positive, edges)[0]],
        "corrupted": [int(n) for n in np.histogram(negative, edges)[0]],
    }


def _round_width(at_least: float) -> float:
    """The least of 1, 2, 2.5 or 5 times a power of ten that is not below `at_least`."""
    if at_least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= at_least * (1 - 1e-9))
