"""A whole ablation folder made by hand, with awkward texts. No model runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relscope.results import (
    AblationHeader,
    ConditionRecord,
    QueryRecord,
    RerankRecord,
    SideRecord,
    create_or_resume_ablation,
    identity_hash,
)
from synthetic import AWKWARD_TEXTS

PROMPT = "pointwise-dqi"
SETTINGS = {
    "kind": "mean", "positions": "region", "keep_only": False, "top": 1, "regions": ["query", "last"], "draws": 2,
    "negatives": None, "seed": 0, "prompts": [PROMPT],
}  # fmt: skip


def conditions(n_draws: int) -> tuple[ConditionRecord, ...]:
    """Two heads, one at the query and one at the last token, beside so many draws of two kinds of random sets."""
    draws = range(1, n_draws + 1)
    return (
        ConditionRecord(name="Full model", kind="full"),
        *(
            ConditionRecord(name="Random-2", kind="random", draw=n, members=((n, 0, "all"), (n, 1, "all")))
            for n in draws
        ),
        *(
            ConditionRecord(
                name="Matched-2", kind="matched", draw=n, of="Mixed-2", members=((0, n, "query"), (3, n, "last"))
            )
            for n in draws
        ),
        ConditionRecord(name="Bottom-2", kind="bottom", members=((1, 1, "query"), (1, 1, "last"))),
        ConditionRecord(name="Query-1", kind="set", members=((0, 3, "query"),)),
        ConditionRecord(name="Last-1", kind="set", members=((3, 3, "last"),)),
        ConditionRecord(name="Mixed-2", kind="mixed", members=((0, 3, "query"), (3, 3, "last"))),
    )


CONDITIONS = conditions(2)
RELEVANT = {"Full model": 1.0, "Mixed-2": 0.2, "Last-1": 0.5}
"""Share of the pairs that each condition judges right; of the others 0.95."""


def ablation_header(n_queries: int = 12, *, ranks: bool = True, **fields: Any) -> AblationHeader:
    """The header of an ablation on `n_queries` pairs, one a query; `fields` in place of its own."""
    identity = {"model": {"name": "m", "kind": "folder", "adapter": None}, "settings": SETTINGS, "n": n_queries}
    queries = tuple(
        QueryRecord(query_id=f"q{n}", query_text=f"{n} {AWKWARD_TEXTS[n % len(AWKWARD_TEXTS)]}")
        for n in range(n_queries)
    )
    side = SideRecord(data="here", queries=queries)
    rankings = {query.query_id: ("other", "right") for query in queries}
    ranked = RerankRecord(side=side, first_stage="BM25", depth=2, n_draws=1, rankings=rankings)
    return AblationHeader(
        **{
            "identity": identity, "identity_hash": identity_hash(identity), "created": "2026-01-01T00:00:00+00:00",
            "relscope_version": "0", "run": "runs/one", "model": "<model>", "settings": SETTINGS, "prompts": (PROMPT,),
            "selection": SideRecord(data="here", queries=(QueryRecord(query_id="s", query_text="chose heads"),)),
            "evaluation": side, "shared_queries": 1,
            "query_of": {f"p{n}": f"q{n}" for n in range(n_queries)}, "conditions": CONDITIONS,
            "reranking": ranked if ranks else None, **fields,
        }
    )  # fmt: skip


def write_synthetic_ablation(
    directory: Path,
    n_queries: int = 12,
    *,
    ranks: bool = True,
    n_draws: int = 2,
    shares: Mapping[str, float] = RELEVANT,
    others: float = 0.95,
    **fields: Any,
) -> Path:
    """Write an ablation in which Mixed-2 ruins verdicts and rankings, and random sets hardly change them.

    `shares` and `others` in place of RELEVANT and its 0.95; a share of one draw alone is named "Matched-2, draw 3".
    """
    rng = np.random.default_rng(0)
    header = ablation_header(n_queries, ranks=ranks, conditions=conditions(n_draws), **fields)
    with create_or_resume_ablation(directory, header) as folder:
        for step, condition in enumerate(header.conditions):
            share = shares.get(f"{condition.name}, draw {condition.draw}", shares.get(condition.name, others))
            right = rng.permutation(n_queries) < round(share * n_queries)
            named = {"condition": condition.name, "draw": condition.draw, "prompt": PROMPT}
            columns: dict[str, Any] = {name: [value] * n_queries for name, value in named.items()}
            ld = np.where(right, 2.0, -2.0) + rng.normal(0, 0.1, n_queries)
            columns |= {"pair_id": list(header.query_of), "ld_clean": ld, "ld_corrupted": -ld}
            folder.write("judging", step, columns)
            if not ranks or condition.draw > 1:
                continue
            columns = {name: [value] * 2 * n_queries for name, value in named.items()}
            ranked = [("right", "other") if yes else ("other", "right") for yes in right]
            columns |= {
                "query_id": [query.query_id for query in header.evaluation.queries for _ in range(2)],
                "doc_id": [doc_id for ranking in ranked for doc_id in ranking],
                "place": [1, 2] * n_queries,
                "value": [2.0, 1.0] * n_queries,
            }
            folder.write("ranking", step, columns)
        if ranks:
            ids = [query.query_id for query in header.evaluation.queries]
            folder.write_qrels({"query_id": ids, "doc_id": ["right"] * n_queries, "grade": [1] * n_queries})
        folder.mark("complete", ())
    return directory
