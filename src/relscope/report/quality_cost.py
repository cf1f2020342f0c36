"""Is a ranking worth what it takes? Rerankings of the same queries beside each other: a measure over judging's cost.

The quality is that of the queries which all of them rank, the cost what judging 100 documents takes (seconds a judged
prompt, times the prompts that the ranking asks for). The first stage stands at a cost of 0.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from relscope.analysis import Estimate, RankingComparison
from relscope.report import words
from relscope.report.findings import difference
from relscope.report.reranking_contents import RerankingContents, Together
from relscope.results import Spent

PLACES: Final = 3
"""Decimals of measures, as `relscope rerank` prints them."""
_FIRST: Final = "first stage"


def quality_cost_view(of: Together, identifier: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the template shows of rerankings of the same queries, and the figure (None: nothing to draw)."""
    if not of.compared:
        return {"title": "Quality and cost", "text": _why_not(of), "rows": [], "plot": None}, None
    clock = any(device != "cpu" for one in of.members for device in one.cost.devices)
    unit = "seconds by the clock" if clock else "CPU seconds"
    names = _names(of.members)
    first, first_name = of.compared[0].baseline_value, of.members[0].header.first_stage
    rows: list[dict[str, Any]] = [
        {"name": first_name, "kind": _FIRST, "last": "", "seconds": "0", "value": difference(first, PLACES),
         "difference": ""}
    ]  # fmt: skip
    points = [{"name": first_name, "kind": _FIRST, "x": 0.0} | _ends(first)]
    for one, name, compared in zip(of.members, names, of.compared, strict=True):
        taken = _taken(one.per_100_documents, clock)
        rows.append(
            {"name": name, "kind": one.kind, "last": one.header.last_layer,
             "seconds": "not known" if taken is None else seconds(taken),
             "value": difference(compared.value, PLACES), "difference": signed(compared)}
        )  # fmt: skip
        if taken is not None:
            points.append({"name": name, "kind": one.kind, "x": _plain(taken)} | _ends(compared.value))
    draws = len(points) > 1
    view = {
        "title": f"{of.measure} and what it takes",
        "text": _text(of, unit, clock),
        "rows": rows,
        "unit": unit,
        "measure": of.measure,
        "plot": identifier if draws else None,
        "label": f"{of.measure} of {len(points)} rankings against {unit} for 100 documents; values in the table below.",
    }
    figure = {"id": identifier, "x_title": f"{unit} for 100 documents", "y_title": of.measure, "points": points}
    return view, figure if draws else None


def signed(compared: RankingComparison) -> str:
    """The difference and its interval, with a sign."""
    text = difference(compared.difference, PLACES)
    return f"+{text}" if compared.difference.value >= 0.5 * 10**-PLACES else text


def seconds(value: float) -> str:
    """`29.9`; below 1 s as many decimals as show two digits."""
    return words.number(value, 1 if value >= 1 else words.decimals_for([value]))


def _why_not(of: Together) -> str:
    if of.measure is None:
        return "These have no measure in common, so that there is no figure of quality and cost."
    return "No query is ranked by all of these, so that there is no figure of quality and cost."


def _text(of: Together, unit: str, clock: bool) -> str:
    n_ranked = words.count(len(of.queries), "query that all of these rank", "queries that all of these rank")
    text = (
        f"To read: higher is better, further left is cheaper. {of.measure} is over the {n_ranked}, with 95 % intervals "
        f"over queries. The cost is the {unit} that judging 100 documents takes, without loading the model, cutting "
        "documents and the first stage, which stands at 0. The queries are the same, so that two rankings may differ "
        "though their intervals overlap."
    )
    return f"{text} Time is by the clock, as not all of them were judged on a CPU." if clock else text


def _names(members: tuple[RerankingContents, ...]) -> list[str]:
    """The name of each; of those that are named alike the run file too."""
    names = [one.name for one in members]
    alike = [names.count(name) > 1 for name in names]
    return [
        f"{one.name}, {one.run_file.name}" if shared else one.name for one, shared in zip(members, alike, strict=True)
    ]


def _taken(spent: Spent | None, clock: bool) -> float | None:
    if spent is None:
        return None
    return spent.wall_seconds if clock else spent.cpu_seconds


def _ends(value: Estimate) -> dict[str, Any]:
    return {"y": _plain(value.value), "low": _plain(value.low), "high": _plain(value.high)}


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
