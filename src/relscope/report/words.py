"""How is a number, an interval, a count or a name written for a reader?

Numbers are written with a true minus sign and a fixed number of decimals within one table, so that columns can
be compared by eye; what was not measured is an en dash, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from relscope.analysis import Head, regions

MISSING = "–"
MINUS = "−"
NO_WIDTH = "†"
NO_WIDTH_NOTE = "† no width: all resamples are equal, which does not say that other queries would be."

region_key = regions.region_key
disjoint = regions.disjoint

COMPONENTS = {
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "resid_post": "Residual stream after the layer",
    "resid_pre": "Residual stream before the layer",
    "z": "Head output",
    "scores": "Attention scores",
    "pattern": "Attention weights",
    "pattern_renormalised": "Attention weights, rows divided by their sums",
}
DIRECTIONS = {
    "denoise": "denoise (one activation of the clean run is put into the corrupted run)",
    "noise": "noise (one activation of the corrupted run is put into the clean run)",
}
_PLACE_OF_COMPONENT = {name: place for place, name in enumerate(COMPONENTS)}
ORDER_LETTERS = {"d": "document", "q": "query", "i": "instruction"}
REASONS = {
    "data": "while reading the data",
    "alignment": "while aligning clean with corrupted",
    "filter": "by the filter on the verdict",
}


def number(value: float | None, decimals: int = 2) -> str:
    """`value` with that many decimals, or an en dash if there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{decimals}f}"
    if float(text) == 0:  # "-0.00" says something that is not so
        text = f"{0:.{decimals}f}"
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """`[low, high]`, or an en dash where either end is missing."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def probability(value: float) -> str:
    """A p- or q-value: `0.034`, `< 0.001`, or an en dash if there is none."""
    if not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else number(value, 3)


def decimals_for(values: Iterable[float]) -> int:
    """How many decimals show two significant digits of the largest of `values`: 2 to 4."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest <= 0:
        return 2
    return min(4, max(2, 1 - math.floor(math.log10(largest))))


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 pair`, `12 pairs`, `1,024 heads`."""
    return f"{n:,} {noun if n == 1 else (plural or noun + 's')}"


def percent(share: float) -> str:
    """`95 %`, with a space that does not break."""
    return f"{100 * share:.0f}\u00a0%"


def listing(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    parts = list(items)
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def head_name(layer: int, head: int) -> str:
    """`L12H3`, the display name of a head."""
    return f"L{layer}H{head}"


def site_label(layer: int, head: int, region: str) -> str:
    """`L12H3@last`: a head at a region, as rows, configurations and command lines name it."""
    return Head(layer, head, region).name


def component_key(component: str) -> tuple[int, str]:
    """Sorts components as COMPONENTS lists them, others after them by name."""
    return _PLACE_OF_COMPONENT.get(component, len(COMPONENTS)), component


def parameters(n: int) -> str:
    """`135 M parameters`, `8.03 B parameters`."""
    if n >= 1_000_000_000:
        return f"{n / 1e9:.3g} B parameters"
    if n >= 1_000_000:
        return f"{n / 1e6:.3g} M parameters"
    return count(n, "parameter")


def size(n_bytes: int) -> str:
    """`820 B`, `1.3 MB`."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    if n_bytes < 1_000_000:
        return f"{n_bytes / 1e3:.0f} kB"
    return f"{n_bytes / 1e6:.1f} MB"


def order_of_parts(order: str) -> str:
    """`dqi` as `document, query, instruction`; anything else as it stands."""
    if order and set(order) <= set(ORDER_LETTERS):
        return ", ".join(ORDER_LETTERS[letter] for letter in order)
    return order
