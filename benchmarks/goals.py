"""The goals that the benchmarks are measured against: times as fast as one full forward pass a cell, and agreement.

Ratios are of patches alone (recorded runs not counted) to plain hooks on the float32 model, by precision and line.
"""

from __future__ import annotations

from collections.abc import Mapping

Goals = Mapping[str, Mapping[str, float]]

TOGETHER = "the five together"
Z_GOALS: Goals = {
    "exact": {"last": 200.0, "instruction": 18.0, "query": 12.0, "document": 4.0, "all": 4.0, TOGETHER: 7.5},
    "delta": {"last": 350.0, "instruction": 32.0, "query": 24.0, "document": 9.0, "all": 9.0, TOGETHER: 16.0},
}
RESIDUAL_GOAL = 6.0

# Largest difference in LD from plain hooks. Other libraries may compute attention in another order.
EXACT_TOLERANCE = 1e-4
PEER_TOLERANCE = 1e-3
# Products in bfloat16 cost about a percent of an effect, and the largest effects are tenths of a unit of LD.
DELTA_TOLERANCE = 1e-2


def verdict(measured: float, goal: float | None) -> str:
    """The goal, and whether the measured ratio reaches it."""
    if goal is None:
        return ""
    return f">= {goal:g}x" if measured >= goal else f">= {goal:g}x, falls short"
