"""The goals that the benchmarks are measured against."""

from __future__ import annotations

# Ratio against one full forward pass a cell, head outputs `z`, float32, recorded runs included.
Z_GOALS = {"last": 80.0, "instruction": 10.0, "query": 7.0, "document": 2.5, "all": 2.5}


def verdict(measured: float, goal: float) -> str:
    """The goal, and whether the measured ratio reaches it."""
    return f">= {goal:g}x" if measured >= goal else f">= {goal:g}x, falls short"
