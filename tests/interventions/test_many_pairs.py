"""Pairs that go through the model together have the numbers that each has alone."""

from __future__ import annotations

from typing import Any

import pytest

from example_pairs import aligned
from families import N_HEADS, N_LAYERS
from relscope.interventions import Joint, Patch, Site, all_sites, patch_cost, patch_pair, patch_pairs
from relscope.models import JudgeModel

TOLERANCE = 2e-5  # as in test_equals_reference


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("bound", ["ample", "all pairs' runs", "one pair's runs"])
def test_together_and_alone(judge: JudgeModel, tiny_tokenizer: Any, direction: Any, bound: str) -> None:
    first: list[Patch] = [*all_sites(["z", "mlp_out"], ["query", "last", "all"], N_LAYERS, N_HEADS)]
    second: list[Patch] = [Joint((Site("z", 0, "last", 1), Site("z", 2, "query", 0)))]
    second += all_sites(["attn_out", "k", "resid_pre"], ["document"], N_LAYERS, N_HEADS, judge.shape.n_kv_heads)
    # Of other lengths, with other patches, and one with nothing to patch.
    work: list[Any] = [(aligned(tiny_tokenizer), first), (aligned(tiny_tokenizer, 1), second),
                       (aligned(tiny_tokenizer, 1), [])]  # fmt: skip
    costs = [patch_cost(judge, pair, patches, restart=True) for pair, patches in work]
    least = max(cost.least_bytes for cost in costs)
    all_runs = max(cost.chunk_bytes + cost.patch_bytes for cost in costs) + sum(cost.recorded_bytes for cost in costs)
    memory_bytes = {"ample": 1 << 30, "all pairs' runs": all_runs, "one pair's runs": least}[bound]
    done: list[tuple[str, int]] = []
    found = patch_pairs(judge, work, direction=direction, memory_bytes=memory_bytes,
                        on_group=lambda pair, group: done.append((pair.pair_id, len(group))))  # fmt: skip
    for (pair, patches), together in zip(work, found, strict=True):
        alone = patch_pair(judge, pair, patches, direction=direction)
        assert (together.pair_id, together.ld_clean) == (pair.pair_id, alone.ld_clean)
        assert len(together.ld_patched) == len(patches)
        if patches:
            assert float((together.ld_patched - alone.ld_patched).abs().max()) <= TOLERANCE
    assert {name for name, _ in done} == {"cat:0", "bread:0"}
    assert sum(n for _, n in done) <= len(first) + len(second)
