"""What a sweep is said to cost against what torch counts while it runs."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from example_pairs import aligned
from families import CONFIGS_OF_EXPERTS, MODULE_COMPONENTS, N_HEADS, N_KV_HEADS, N_LAYERS, tiny_judge
from relscope.interventions import Site, all_sites, patch_cost, patch_pair

# Left out of the count: the answers' rows of the unembedding, and in families with biases or norms nothing but
# elementwise work, which torch does not count either.
TOLERANCE = 0.02


def counted(judge: Any, pair: Any, sites: list[Site], restart: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        patch_pair(judge, pair, sites, restart=restart)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("region", ["document", "instruction", "last", "all"])
@pytest.mark.parametrize(
    "components",
    [["z"], ["resid_pre", "attn_out", "mlp_out", "resid_post"], ["q", "v"], ["scores", "pattern"]],
    ids=["heads", "flow", "queries and values", "edges"],
)
def test_operations_are_those_that_torch_counts(components: list[str], region: str, tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer)
    sites = all_sites(components, [region], N_LAYERS, N_HEADS, N_KV_HEADS, sources=["document"])
    cost = patch_cost(judge, pair, sites, restart=True)
    assert counted(judge, pair, sites, True) == pytest.approx(cost.flops + cost.recording_flops, rel=TOLERANCE)
    assert cost.flops < cost.full_pass_flops


def test_the_plain_way_costs_a_full_pass_a_patch(tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge("gpt2", tiny_tokenizer), aligned(tiny_tokenizer)
    judge.model.set_attn_implementation("eager")  # torch does not count the fused attention of CPUs
    sites = all_sites(MODULE_COMPONENTS, ["last"], N_LAYERS, N_HEADS)
    cost = patch_cost(judge, pair, sites, restart=False)
    assert cost.flops == cost.full_pass_flops
    assert counted(judge, pair, sites, False) == pytest.approx(cost.flops + cost.recording_flops, rel=TOLERANCE)


def test_sites_that_change_nothing_cost_nothing(tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer, order="qdi")
    sites = all_sites(MODULE_COMPONENTS, ["query"], N_LAYERS, N_HEADS)
    cost = patch_cost(judge, pair, sites, restart=True)
    assert (cost.n_patches, cost.n_positions, cost.flops, cost.full_pass_flops) == (0, 0, 0, 0)
    assert counted(judge, pair, sites, True) == pytest.approx(cost.recording_flops, rel=TOLERANCE)


@pytest.mark.parametrize("family", CONFIGS_OF_EXPERTS)
def test_of_a_mixture_of_experts_those_are_counted_that_a_position_is_sent_to(family: str, tiny_tokenizer: Any) -> None:
    judge, pair = tiny_judge(family, tiny_tokenizer), aligned(tiny_tokenizer)
    judge.model.set_experts_implementation("eager")  # torch does not count grouped products
    sites = all_sites(["z"], ["document"], N_LAYERS, N_HEADS)
    cost = patch_cost(judge, pair, sites, restart=True)
    assert counted(judge, pair, sites, True) == pytest.approx(cost.flops + cost.recording_flops, rel=TOLERANCE)
