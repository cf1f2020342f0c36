"""What a sweep is said to cost against what torch counts while it runs."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from example_pairs import aligned
from families import CONFIGS_OF_EXPERTS, MODULE_COMPONENTS, N_HEADS, N_KV_HEADS, N_LAYERS, tiny_judge
from relscope.interventions import Path, Site, all_sites, patch_cost, patch_pair, patch_paths, path_cost

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


@pytest.mark.parametrize("variant", ["frozen", "open"])
@pytest.mark.parametrize("component", ["z", "q", "k_view", "v_view", "resid_pre"])
def test_operations_of_paths_are_nearly_those_that_torch_counts(
    component: str, variant: str, tiny_tokenizer: Any
) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer)
    judge.contract.require_paths("llama")  # checked here, and not while operations are counted
    paths = [
        Path(sender, receiver, variant)
        for region in ("document", "query", "last")
        for sender in all_sites(["z"], [region], 2, N_HEADS)
        for receiver in all_sites([component], [region, "last"], N_LAYERS, N_HEADS)
        if receiver.layer > sender.layer
    ]
    cost = path_cost(judge, pair, paths)
    with FlopCounterMode(display=False) as counter:
        patch_paths(judge, pair, paths)
    # What several receivers of one layer share is counted for each of them, or for none.
    assert counter.get_total_flops() == pytest.approx(cost.flops + cost.recording_flops, rel=0.06)
    direct = path_cost(judge, pair, [Path(site) for site in all_sites(["z"], ["last"], N_LAYERS, N_HEADS)])
    assert (direct.n_patches, direct.n_positions, direct.flops) == (N_LAYERS * N_HEADS, 0, 0)


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
