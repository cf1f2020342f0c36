"""How much faster is exact patching than one full forward pass for each patch?

Side by side in one run: for each pair and region, some cells by the plain way (the Hugging Face model as it is, a hook
on one output projection, batch 1, only the last position's logits), then all cells by relscope, then plain cells again.
Prints milliseconds a cell (for relscope, the pair's two recorded runs included), their ratio, the largest difference in
LD between the two ways, and the share of the measured matrix-product peak.

    python benchmarks/patching.py [--model smollm2-135m] [--pairs 4] [--cells 12]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from goals import Z_GOALS, verdict
from pairs import pairs_of_150_tokens
from relscope.interventions import all_sites, patch_cost, patch_pair
from relscope.models import JudgeModel, load_judge
from relscope.prompts import AlignedPair


@torch.no_grad()
def plain_cells(
    judge: JudgeModel,
    pair: AlignedPair,
    z_clean: list[torch.Tensor],
    cells: list[tuple[int, int]],
    positions: list[int],
) -> tuple[list[float], list[float]]:
    """LD and seconds of each (layer, head), patched by a hook in one full forward pass each."""
    d_head = judge.shape.d_head
    ids = torch.tensor([pair.corrupted.ids])
    values, seconds = [], []
    for layer, head in cells:
        columns = slice(head * d_head, (head + 1) * d_head)

        def hook(
            _module: object, args: tuple[torch.Tensor, ...], layer: int = layer, columns: slice = columns
        ) -> object:
            z = args[0].clone()
            z[0, positions, columns] = z_clean[layer][positions, columns]
            return (z,)

        began = time.perf_counter()
        handle = judge.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook)
        logits = judge.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        handle.remove()
        values.append(float(logits[pair.answer_ids[0]] - logits[pair.answer_ids[1]]))
        seconds.append(time.perf_counter() - began)
    return values, seconds


@torch.no_grad()
def clean_heads(judge: JudgeModel, pair: AlignedPair) -> list[torch.Tensor]:
    """Input of every output projection in the clean run, by plain hooks."""
    kept: dict[int, torch.Tensor] = {}
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _m, args, i=i: kept.__setitem__(i, args[0][0]))
        for i, layer in enumerate(judge.model.model.layers)
    ]
    judge.model(input_ids=torch.tensor([pair.clean.ids]), use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return [kept[i] for i in range(len(kept))]


def peak_flops() -> float:
    """Measured float32 matrix products a second, in floating-point operations, at 1024 rows of the MLP's shape."""
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * 1024 * 576 * 1536 / best


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--regions", default=",".join(Z_GOALS), help="comma-separated")
    parser.add_argument("--cells", type=int, default=12, help="plain cells for each pair and region")
    arguments = parser.parse_args()
    judge = load_judge(arguments.model, device="cpu")
    aligned = pairs_of_150_tokens(judge, arguments.pairs)
    shape, peak = judge.shape, peak_flops()
    judge.logit_diff([aligned[0].clean.ids], [aligned[0].answer_ids])  # warm up
    generator = torch.Generator().manual_seed(0)
    lengths = [len(pair.clean.ids) for pair in aligned]
    print(f"{arguments.model}, {len(aligned)} pairs of {min(lengths)} to {max(lengths)} tokens, float32, "
          f"{torch.get_num_threads()} threads, measured peak {peak / 1e9:.0f} GFLOP/s")  # fmt: skip
    print(
        "| region of z, all heads | plain ms a cell | relscope ms a cell | ratio | of peak | max LD difference | goal |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    assert judge.contract.restartable  # checked here, so that no timing holds the check
    patch_pair(judge, aligned[0], all_sites(("z",), ("last",), shape.n_layers, shape.n_heads))  # warm up as well
    for region in arguments.regions.split(","):
        goal = Z_GOALS[region]
        plain, ours, flops, worst = [], [], 0.0, 0.0
        sites = all_sites(("z",), (region,), shape.n_layers, shape.n_heads)
        for pair in aligned:
            z_clean = clean_heads(judge, pair)
            positions = list(pair.clean.region(region))
            chosen = torch.randperm(len(sites), generator=generator)[: arguments.cells].tolist()
            cells = [(sites[i].layer, sites[i].head) for i in chosen]
            half = len(cells) // 2
            before, seconds_before = plain_cells(judge, pair, z_clean, cells[:half], positions)
            began = time.perf_counter()
            patched = patch_pair(judge, pair, sites).ld_patched
            ours.append((time.perf_counter() - began) / len(sites))
            after, seconds_after = plain_cells(judge, pair, z_clean, cells[half:], positions)
            plain += seconds_before + seconds_after
            cost = patch_cost(judge, pair, sites, restart=True, memory_limit=1 << 30)
            flops += cost.flops + cost.recording_flops
            worst = max(worst, (patched[chosen] - torch.tensor(before + after)).abs().max().item())
        a_cell, our_cell = statistics.mean(plain), statistics.mean(ours)
        share = flops / (sum(ours) * len(sites)) / peak
        print(f"| {region} | {1e3 * a_cell:.0f} | {1e3 * our_cell:.2f} | {a_cell / our_cell:.1f}x | {share:.0%} | "
              f"{worst:.1e} | {verdict(a_cell / our_cell, goal)} |")  # fmt: skip


if __name__ == "__main__":
    main()
