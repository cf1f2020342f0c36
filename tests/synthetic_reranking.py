"""What `relscope rerank` leaves behind, made by hand: values of every query, facts and costs. No model runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relscope.results import HeadsRecord, RerankingHeader, open_run, verdicts_folder, write_reranking

# nDCG@10 of the first stage and of the ranking, a query each: 5 better, 1 worse, 2 the same.
FIRST = (0.5, 0.25, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5)
BETTER = (1.0, 0.5, 0.75, 0.75, 0.5, 1.0, 0.5, 0.5)
QUERIES = tuple(f"<q{n}>" for n in range(1, len(FIRST) + 1))
CALLS = ((1, 8, 2.0, 4.0), (1, 8, 1.0, 2.5), (2, 24, 5.0, 5.5))
"""Of each line of the costs: its call, prompts, CPU seconds, seconds by the clock."""


def heads_record(of: Path, name: str = "query-1", **source: Any) -> HeadsRecord:
    """Heads that the run `of` chose; `source` in place of what it says of itself."""
    from relscope.analysis import HeadSource

    told = vars(HeadSource.of_run(open_run(of))) | source
    return HeadsRecord(
        name=name, members=((1, 2, "query"),), reading="total", calibrated=True, n_chosen_on=2, source=told
    )


def write_synthetic_reranking(
    run: Path,
    file: Path,
    values: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    *,
    queries: Sequence[str] = QUERIES,
    calls: Sequence[tuple[int, int, float, float]] = CALLS,
    device: str = "cpu",
    **facts: Any,
) -> Path:
    """Write a run file and its folder, of the run's model: 40 prompts for 40 documents; returns the run file.

    `values`: measure to the queries' values of the first stage and of the ranking; `facts` in place of the header's.
    """
    values = {"nDCG@10": (FIRST, BETTER)} if values is None else values
    folder = verdicts_folder(file)
    folder.mkdir(parents=True)
    file.write_text("".join(f"{query} Q0 d1 1 1.0 relscope\n" for query in queries))
    (folder / "verdicts.jsonl").write_text("")
    lines = [
        {"call": call, "n_prompts": n, "cpu_seconds": cpu, "wall_seconds": wall, "device": device}
        for call, n, cpu, wall in calls
    ]
    if lines:
        (folder / "costs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [
        (system, query, measure, value)
        for measure, of_systems in values.items()
        for system, of_queries in zip(("first stage", "reranked"), of_systems, strict=True)
        for query, value in zip(queries, of_queries, strict=True)
    ]
    manifest = open_run(run).manifest
    model, shape = dict(manifest.identity["model"]), manifest.model_shape
    header = RerankingHeader(
        **{
            "created": "2026-01-02T03:04:05+00:00", "relscope_version": "0.1.0", "asked": "synthetic/<model>",
            "model": model, "n_layers": shape["n_layers"], "n_heads": shape["n_heads"],
            "last_layer": shape["n_layers"] - 1, "data": "<data>", "prompt": "pointwise-dqi", "method": "pointwise",
            "first_stage": "<BM25>", "depth": 5, "top": 10, "queries": dict.fromkeys(queries, "0" * 64),
            "n_queries": len(queries), "n_documents": 40, "n_prompts": 40, "n_not_judged": 3,
            "n_left_out": {"held_out": 2}, "seed": 0, **facts,
        }
    )  # fmt: skip
    write_reranking(folder, header, {
        name: [row[i] for row in rows] for i, name in enumerate(("system", "query_id", "measure", "value"))
    })  # fmt: skip
    return file
