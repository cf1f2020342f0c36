"""What a plan counts, worked out by hand and by a slow loop for the tiny model; and the bound on memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relscope.errors import InputError
from relscope.interventions import PatchCost, Site, all_sites, patch_cost, patch_pair, patch_pairs, path_cost
from relscope.prompts import AlignedPair
from relscope.study import Prepared, StudyConfig, plan_study
from relscope.study.experiments import Experiments
from relscope.study.joint import head_site
from relscope.study.paths import direct_paths, paths_between
from tiny_study import N_HEADS, N_LAYERS, Told, tiny_config

# The tiny model: d_model 32, 4 heads of 8, 2 key/value heads, MLP of 48. Two operations for each weight.
MLP = 2 * 3 * 32 * 48
OUT_PROJ = 2 * 32 * 32
Q_PROJ = 2 * 32 * 32
ATTENTION = Q_PROJ + 2 * 2 * 32 * 16 + OUT_PROJ
ATTENDED = 2 * 2 * 4 * 8  # for each source: q k and pattern v, for each head
GIB = 1 << 30


def row(n_sources: int) -> int:
    """Operations of one position through one layer: weights, then q k and pattern v, for each source and head."""
    return MLP + ATTENTION + ATTENDED * n_sources


def positions_from_the_difference_on(pair: AlignedPair, region: str) -> list[int]:
    first = next(p for p, (a, b) in enumerate(zip(pair.clean.ids, pair.corrupted.ids, strict=True)) if a != b)
    return [position for position in pair.clean.region(region) if position >= first]


def test_positions_recomputed_are_those_that_a_loop_over_layers_and_positions_counts(prepared: Prepared) -> None:
    regions = ("query", "document", "last", "all", "other", "document.first", "query.last")
    sites = all_sites(("attn_out", "resid_post", "z"), regions, N_LAYERS, N_HEADS)
    for pair in prepared.aligned:
        n_patches = n_positions = 0
        for site in sites:
            positions = positions_from_the_difference_on(pair, site.region)
            n_patches += bool(positions)
            for _layer in range(site.layer + 1, N_LAYERS):
                for position in range(len(pair.clean.ids)):
                    n_positions += bool(positions) and position >= positions[0]
        cost = patch_cost(prepared.judge, pair, sites, restart=True)
        assert (cost.n_patches, cost.n_positions) == (n_patches, n_positions)


def test_operations_of_a_head_at_the_query_by_hand(prepared: Prepared) -> None:
    pair = prepared.aligned[0]
    n = len(pair.clean.ids)
    query = pair.clean.region("query")
    suffix = n - query[0]
    cost = patch_cost(prepared.judge, pair, [Site("z", 1, "query", 2)], restart=True)
    # Layer 1: the query's rows through the output projection and the MLP. Layers 2 and 3: the suffix; in layer 3 all
    # but the last position need keys and values only.
    trimmed = MLP + OUT_PROJ + Q_PROJ + ATTENDED * n
    by_hand = len(query) * (OUT_PROJ + MLP) + 2 * suffix * row(n) - (suffix - 1) * trimmed
    assert cost.flops == by_hand
    assert cost.n_positions == 2 * suffix
    assert cost.recording_flops == 2 * n * N_LAYERS * row(n)
    assert cost.full_pass_flops == n * N_LAYERS * row(n)


def test_operations_of_other_components_by_hand(prepared: Prepared) -> None:
    pair = prepared.aligned[0]

    def flops(component: str, layer: int) -> float:
        sites = [Site(component, layer, "last")]
        return patch_cost(prepared.judge, pair, sites, restart=True).flops

    # At the last position of the last layer: the MLP runs again after attn_out; the others are sums.
    assert flops("attn_out", 3) == MLP
    assert flops("mlp_out", 3) == 0
    assert flops("resid_post", 3) == 0
    assert flops("resid_post", 2) == row(len(pair.clean.ids))


def test_without_restart_each_patch_is_a_full_forward_pass(prepared: Prepared) -> None:
    pair = prepared.aligned[0]
    sites = all_sites(("z",), ("last",), N_LAYERS, N_HEADS)
    cost = patch_cost(prepared.judge, pair, sites, restart=False)
    n = len(pair.clean.ids)
    assert cost.flops == cost.full_pass_flops == 16 * n * N_LAYERS * row(n)
    assert cost.n_positions == 16 * n * N_LAYERS


def test_costs_of_groups_add_up(prepared: Prepared) -> None:
    pair = prepared.aligned[0]
    sites = all_sites(("attn_out", "mlp_out"), ("query", "last"), N_LAYERS, N_HEADS)

    def flops(of: list[Site]) -> float:
        return patch_cost(prepared.judge, pair, of, restart=True).flops

    assert flops(sites) == flops(sites[:5]) + flops(sites[5:])


def test_readouts_are_planned_as_two_passes_a_pair_of_their_own(config: StudyConfig, prepared: Prepared) -> None:
    recorded = sum(patch_cost(prepared.judge, pair, [], restart=True).recording_flops for pair in prepared.aligned)
    flow = {"flow": {"regions": ["last"]}}
    for readouts in (["interaction"], ["interaction", "vocabulary"]):
        chosen = Experiments(**flow, **{name: {} for name in readouts})
        shared, _, read = plan_study(config.model_copy(update={"experiments": chosen})).parts
        assert (read.name, read.n_patches) == (f"{' and '.join(readouts)} (two passes a pair)", 0)
        assert read.flops == shared.flops == recorded
        assert read.seconds > 0
    alone = plan_study(config.model_copy(update={"experiments": Experiments(vocabulary={})}))
    assert [(part.n_patches, part.flops) for part in alone.parts] == [(0, 0), (0, recorded)]


def test_a_plan_is_the_sum_over_pairs(config: StudyConfig, prepared: Prepared) -> None:
    told = Told()
    plan = plan_study(config, told)
    sites = [site for chosen in config.sites(N_LAYERS, N_HEADS).values() for site in chosen]
    assert len(sites) == N_LAYERS * (3 * 5 + N_HEADS * 3)
    costs = [patch_cost(prepared.judge, pair, sites, restart=True) for pair in prepared.aligned]
    assert (plan.n_pairs, plan.n_excluded) == (3, 0)
    assert plan.n_patches == sum(cost.n_patches for cost in costs) == 3 * len(sites)
    assert plan.n_positions == sum(cost.n_positions for cost in costs)
    assert plan.n_tokens == sum(len(p.clean.ids) + len(p.corrupted.ids) for p in prepared.aligned)
    assert plan.flops == sum(cost.flops + cost.recording_flops for cost in costs)
    assert plan.full_pass_flops == sum(cost.full_pass_flops for cost in costs)
    # All pairs are measured together.
    held = sum(cost.recorded_bytes + cost.patches_bytes for cost in costs)
    assert plan.memory_bytes == held + max(cost.chunk_bytes for cost in costs)
    # Each experiment's own, and what they share.
    flow, heads = (config.sites(N_LAYERS, N_HEADS)[name] for name in ("flow", "heads"))
    flops = [
        sum(patch_cost(prepared.judge, pair, of, restart=True).flops for pair in prepared.aligned)
        for of in (flow, heads)
    ]
    assert [(part.name, part.n_patches) for part in plan.parts] == [
        ("verdicts and recorded runs", 0), ("flow", 3 * len(flow)), ("heads", 3 * len(heads))
    ]  # fmt: skip
    assert [part.flops for part in plan.parts] == [sum(cost.recording_flops for cost in costs), *flops]
    assert all(part.seconds > 0 for part in plan.parts)
    assert plan.weights_bytes == 4 * prepared.judge.shape.n_parameters  # float32
    assert 0 < plan.seconds < 60
    assert plan.full_pass_seconds > 0
    assert any(f"{3 * len(sites):,} patches" in stage for stage in told.stages)


def test_sites_before_the_first_difference_are_planned_as_no_patch(tiny_model_folder: Path) -> None:
    config = tiny_config(
        tiny_model_folder, prompt={"order": "qdi"}, experiments={"heads": {"regions": ["query", "last"]}}
    )
    assert plan_study(config).n_patches == 3 * N_LAYERS * N_HEADS  # those at the last token


def test_a_plan_writes_nothing(config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan_study(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_fit", [1, 5])
def test_patches_held_at_once_stay_within_the_memory_bound(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, n_fit: int
) -> None:
    pair = prepared.aligned[0]
    sites = all_sites(("z",), ("query", "last"), N_LAYERS, N_HEADS)
    suffix = len(pair.clean.ids) - pair.clean.region("query")[0]
    memory = n_fit * suffix * 32 * 4  # so many residuals of the longest suffix, in float32
    cost = patch_cost(prepared.judge, pair, sites, restart=True)
    beside = cost.recorded_bytes + cost.chunk_bytes
    held: list[int] = []
    new_empty = torch.Tensor.new_empty

    def counted(self: torch.Tensor, *shape: int, **options: object) -> torch.Tensor:
        made = new_empty(self, *shape, **options)  # type: ignore[arg-type]
        if made.dim() == 3 and made.shape[-1] == 32:  # [item, suffix, d_model]; a chunk's scores come on top
            held.append(made.numel() * made.element_size())
        return made

    groups: list[list[Site]] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", counted)
        (bounded,) = patch_pairs(
            prepared.judge,
            [(pair, sites)],
            memory_bytes=beside + memory,
            on_group=lambda _pair, group: groups.append(group),
        )
    assert sorted(site for group in groups for site in group) == sorted(sites)
    assert max(sum(site.region == "query" for site in group) for group in groups) == n_fit
    assert 0 < max(held) <= memory
    sizes = [sum(suffix if site.region == "query" else 1 for site in group) * 32 * 4 for group in groups]
    assert max(sizes) <= memory
    # Other batches, other rounding of float32 products.
    torch.testing.assert_close(
        bounded.ld_patched, patch_pair(prepared.judge, pair, sites).ld_patched, rtol=0, atol=1e-5
    )


def test_planned_memory_is_within_the_bound(config: StudyConfig, prepared: Prepared) -> None:
    sites = [site for chosen in config.sites(N_LAYERS, N_HEADS).values() for site in chosen]
    costs = [patch_cost(prepared.judge, pair, sites, restart=True) for pair in prepared.aligned]
    least = max(cost.least_bytes for cost in costs)
    most = max(cost.recorded_bytes + cost.chunk_bytes + cost.patches_bytes for cost in costs)
    assert least < most
    for bound in (least, (least + most) // 2):
        assert plan_study(config.model_copy(update={"memory": bound})).memory_bytes == bound


@pytest.mark.parametrize("flow", [["last"], ["all"]])
def test_paths_of_several_pairs_are_never_held_together(
    tiny_model_folder: Path, prepared: Prepared, flow: list[str]
) -> None:
    names = {"senders": ["L0H0@document", "L1H1@document"], "receivers": ["L2H0@document", "L3H1@last"]}
    options = {"flow": {"regions": flow}, "paths": {**names, "variants": ["frozen", "open"]}}
    config = tiny_config(tiny_model_folder, experiments=options)
    assert config.experiments.paths is not None
    senders, receivers = ([head_site(name) for name in of] for of in names.values())
    paths = direct_paths(N_LAYERS, N_HEADS) + paths_between(senders, receivers, config.experiments.paths, "dqi")
    sites = [site for chosen in config.sites(N_LAYERS, N_HEADS).values() for site in chosen]
    of_sites = [patch_cost(prepared.judge, pair, sites, restart=True) for pair in prepared.aligned]
    of_paths = [path_cost(prepared.judge, pair, paths) for pair in prepared.aligned]

    def held(costs: list[PatchCost]) -> int:
        return max(of.chunk_bytes for of in costs) + sum(of.recorded_bytes + of.patches_bytes for of in costs)

    assert plan_study(config).memory_bytes == max(held(of_sites), *(held([of]) for of in of_paths))


def test_recorded_runs_take_what_is_counted(prepared: Prepared) -> None:
    pair = prepared.aligned[0]
    for precision in ("exact", "delta"):
        counted = patch_cost(prepared.judge, pair, [], restart=True, precision=precision).recorded_bytes
        runs = [prepared.judge.record(pair.clean.ids, with_products=precision == "delta"),
                prepared.judge.record(pair.corrupted.ids)]  # fmt: skip
        held = [
            t
            for run in runs
            for of in (run.resid_pre, run.attn_out, run.mlp_out, run.z, run.q, run.k, run.v)
            for t in of
        ]
        held += [t for run in runs for of in run.products for product in of.values() for t in (product.x, product.y)]
        # Handed on is what the next layer reads, but for the last layer; masks and rotary embeddings are small.
        assert sum(t.numel() * t.element_size() for t in held) == pytest.approx(counted, rel=0.1)


def test_too_little_memory_is_told_with_what_would_do(prepared: Prepared, config: StudyConfig) -> None:
    pair, sites = prepared.aligned[0], all_sites(("z",), ("query",), N_LAYERS, N_HEADS)
    least = patch_cost(prepared.judge, pair, sites, restart=True).least_bytes
    patch_pair(prepared.judge, pair, sites, memory_bytes=least)
    message = r"memory: .* MiB are too little for a pair of \d+ tokens: .*; give at least \d+ MiB, or cut documents"
    with pytest.raises(InputError, match=message):
        patch_pair(prepared.judge, pair, sites, memory_bytes=least - 1)
    with pytest.raises(InputError, match=r"q01:0: " + message):
        plan_study(config.model_copy(update={"memory": 1 << 10}))
