"""A circuit's folder with rows made up here: LDs that are 4.0 logits apart in full, and less without its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from relscope.analysis import Circuit, Head
from relscope.results import create_or_resume_circuit

SIZES, N_PAIRS = [1, 2, 4], 12
MEMBERS = (Head(1, 0, "last"), Head(0, 1, "last"))
# How far LDs of relevant and other documents are apart without a set.
GAPS = {
    "full": 4.0, "empty": 0.0, "keep 1": 1.0, "keep 2": 3.0, "knock_out 1": 2.5, "knock_out 2": 0.5, "circuit": 3.0,
    "circuit knocked out": 0.48, "random 1": 0.25, "without L1H0@last": 1.0, "without L0H1@last": 3.0,
    "circuit without part 1": 1.0, "model without part 1": 2.0,
}  # fmt: skip


def circuit_folder(
    directory: Path,
    settings: dict[str, Any] | None = None,
    run: str | None = None,
    options: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """Write a circuit of two members of four sites, whose full and empty models and random sets have the gaps above."""
    identity = {"options": {"seed": 0} | (options or {})} | ({"run": run} if run else {})
    names = [f"q{i}:0" for i in range(N_PAIRS)]
    circuit = Circuit(
        members=MEMBERS, regions=("last",), n_layers=2, n_heads=2,
        model={"name": "<b>m</b>", "kind": "folder", "adapter": None, "fingerprint": "f" * 64}, loading={"model": "m"},
        prompt={"format": "pointwise", "order": "dqi"}, data={"source": "d", "sha256": "0"},
        selection={"s": "text"}, ablation={"kind": "mean", "positions": "region"},
        settings=settings or {"threshold": 0.7},
        faithfulness={"data": "d", "prompt": "pointwise-dqi", "negatives": "hard", "n_queries": 12, "n_pairs": 12},
    )  # fmt: skip
    with create_or_resume_circuit(directory, identity, {}) as folder:
        noise = np.random.default_rng(0).normal(0, 0.2, N_PAIRS)
        for name, gap in GAPS.items():
            spread = noise * gap
            folder.add(
                {
                    "step": ["evaluate"] * N_PAIRS, "set": [name] * N_PAIRS, "n_ablated": [1] * N_PAIRS,
                    "ablated": [name] * N_PAIRS, "pair_id": names, "ld_clean": gap / 2 + spread,
                    "ld_corrupted": -gap / 2 - spread,
                }
            )  # fmt: skip
        folder.save(
            status="complete", query_of={name: name[:-2] for name in names}, sizes=SIZES, n_randoms=1, n_draws=1,
            left_out=MEMBERS, n_reference_queries=3, n_selection_queries=1, n_excluded=0,
            grown={"n_sites": 3, "faithfulness": 0.81}, pruned={"n_sites": 2, "faithfulness": 0.8, "n_tried": 2,
                                                                "n_untried": 0}, **facts,
        )  # fmt: skip
    circuit.save(directory / "circuit.json")
    return directory
