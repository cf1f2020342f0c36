"""Do heads that are patched together do more, or less, than each alone? The experiment `joint`.

The matrix shows interaction = joint effect - sum of single effects for every two of the chosen heads, the curve both of
its terms over the growing set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import Estimate, joint_interactions
from relscope.report import plots, views, words
from relscope.report.findings import Finding, by_chance, estimate, estimate_of, excludes_zero, excluding_zero
from relscope.report.maps import EffectMap, limit_of

_QUANTITIES = ("effect", "sum_of_singles", "interaction")
_ENDS = {"": "mean", "_low": "low", "_high": "high"}
_COLUMNS = {f"effect{end}": f"interaction{end}" for end in _ENDS}


@dataclass(frozen=True)
class JointSets:
    """The sets of one direction.

    `sets` has all of them, as `joint_interactions` gives them; `growing` those of the growing set by size, each with
    the heads of the one before it.
    """

    direction: str
    heads: tuple[str, ...]  # in the order of the growing set
    matrix: EffectMap
    growing: pd.DataFrame
    sets: pd.DataFrame
    found: Finding


def read_joint(
    rows: pd.DataFrame, chosen: Sequence[str], query_of: Mapping[str, str], confidence: float
) -> tuple[JointSets, ...]:
    """Everything that the page shows of the sets, one entry a direction; none where no set is stored.

    Args:
        rows: of the run.
        chosen: `Manifest.joint_heads`: the heads in the order of the growing set.
        query_of: the query of each pair.
        confidence: of the intervals.
    """
    sets = joint_interactions(rows, query_of, confidence=confidence)
    found = []
    for direction, here in sets.groupby("direction", sort=False):
        singles = set(here.loc[here["n_heads"] == 1, "src"])
        heads = tuple(name for name in chosen if name in singles)
        if heads:
            by_members = {
                frozenset(str(name).split("+")): row
                for name, row in zip(here["src"], here.to_dict("records"), strict=True)
            }
            growing = pd.DataFrame([by_members[m] for m in _prefixes(heads) if m in by_members])
            matrix = _matrix(heads, by_members, str(direction))
            finding = _finding(heads, by_members, growing, confidence)
            found.append(JointSets(str(direction), heads, matrix, growing, here, finding))
    return tuple(found)


def joint_view(
    joint: Sequence[JointSets], *, table: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """What the template shows of each direction (if `table`, the matrix in one too), and what the script draws."""
    shown, maps, lines = [], [], []
    for number, sets in enumerate(joint):
        limit = limit_of([sets.matrix.cells["effect"]])
        plot = views.plot_map(sets.matrix, f"joint-{number}", "matrix")
        group = {"group": "readout", "unit": "logits", "limits": {"effect": limit}, "columns": list(sets.heads)}
        maps.append({**plot, **group})
        of_lines = [
            (name, sets.growing.rename(columns={f"{column}{end}": new for end, new in _ENDS.items()}))
            for name, column in (("joint effect", "effect"), ("sum of single effects", "sum_of_singles"))
        ]
        curve = [(name, frame[["n_heads", *_ENDS.values()]]) for name, frame in of_lines]
        lines.append(plots.lines(f"growing-{number}", "heads patched together", "logits", curve, x="n_heads"))
        shown.append(
            {
                "id": f"joint-{number}",
                "curve": f"growing-{number}",
                "direction": sets.direction,
                "limit": f"{limit:g}",
                "has_pairs": len(sets.heads) > 1,
                "found": sets.found,
                "table": _table(sets) if table else {"table_rows": []},
                "rows": [_row(step) for step in sets.growing.to_dict("records")],
            }
        )
    return shown, maps, lines


def _table(sets: JointSets) -> dict[str, Any]:
    """The matrix of the interactions as a table; it is symmetric, and a head has none with itself."""
    rows = views.table_rows(sets.matrix, "effect", with_intervals=True)
    return {
        "title": "Interaction of two heads",
        "corner": "head",
        "dense": False,
        "missing_words": "A dash was not measured.",
        "table_columns": sets.heads,
        "table_rows": [{**row, "name": head} for row, head in zip(rows, sets.heads, strict=True)],
    }


def _prefixes(heads: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(heads[:size]) for size in range(1, len(heads) + 1)]


def _matrix(heads: Sequence[str], by_members: Mapping[frozenset[str], Mapping[Any, Any]], direction: str) -> EffectMap:
    n = len(heads)
    cells = {name: np.full((n, n), np.nan) for name in (*_COLUMNS, "n_pairs", "n_queries")}
    for i, one in enumerate(heads):
        for j, other in enumerate(heads):
            of_two = by_members.get(frozenset((one, other))) if i != j else None
            for name, matrix in cells.items():
                if of_two is not None:
                    matrix[i, j] = of_two[_COLUMNS.get(name, name)]
    return EffectMap("interaction of two heads", direction, tuple(heads), tuple(range(n)), cells)


def _finding(
    heads: Sequence[str],
    by_members: Mapping[frozenset[str], Mapping[Any, Any]],
    growing: pd.DataFrame,
    confidence: float,
) -> Finding:
    largest = growing.to_dict("records")[-1]
    n = int(largest["n_heads"])
    effect, singles, together = (estimate_of(largest, name) for name in _QUANTITIES)
    text = (
        f"The {words.count(n, 'head')} together have an effect of {estimate(effect)} logits; their "
        f"single effects sum to {estimate(singles)}: an interaction of {estimate(together)}, "
        f"{_meaning(together, _singles(heads[:n], by_members))}."
    )
    pairs = [(members, row) for members, row in by_members.items() if len(members) == 2]
    if pairs:
        members, row = max(pairs, key=lambda pair: abs(pair[1]["interaction"]))
        clear = sum(excludes_zero(estimate_of(of_two, "interaction")) for _, of_two in pairs)
        counted = words.count(len(pairs), "pair")
        named = [head for head in heads if head in members]
        of_pair, of_each = estimate_of(row, "interaction"), _singles(named, by_members)
        n_queries = int(row["n_queries"])
        would = f"{by_chance(len(pairs), n_queries, confidence)} would if there were none"
        how_many = f"; {excluding_zero(clear, counted)} ({would})" if n_queries > 1 else ""
        alone = " and ".join(words.number(value, words.decimals_for(of_each)) for value in of_each)
        text += (
            f" Of {counted} of heads the largest interaction is that of {' and '.join(named)}, "
            f"{estimate(of_pair)}, {_meaning(of_pair, of_each)} (alone they have {alone}){how_many}."
        )
    return Finding(f"Joint patches: {words.count(n, 'head')} together, {estimate(effect)} logits", text)


def _singles(heads: Sequence[str], by_members: Mapping[frozenset[str], Mapping[Any, Any]]) -> list[float]:
    """What each head does alone, in logits."""
    return [float(by_members[frozenset((head,))]["effect"]) for head in heads]


def _meaning(interaction: Estimate, singles: Sequence[float]) -> str:
    """Less or more than the sum; of effects that work against each other the sum says neither."""
    if not excludes_zero(interaction):
        return "whose interval holds 0 or is missing, so that it may be none"
    if min(singles) < 0 < max(singles):
        return "which is neither less nor more, as the single effects have opposite signs"
    return "less than the sum" if interaction.value * sum(singles) < 0 else "more than the sum"


def _row(step: Mapping[Any, Any]) -> dict[str, Any]:
    return {"n_heads": int(step["n_heads"])} | {name: estimate(estimate_of(step, name)) for name in _QUANTITIES}
