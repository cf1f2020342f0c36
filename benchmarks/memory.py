"""How much memory does exact patching take beyond the model's weights?

Patches components and heads of pairs of 150 tokens under several bounds of `--memory` (every sixth layer, at five
regions; then all sites of the two longest), and prints the growth of the process's peak over what it held once the
model was loaded. 192 MiB is hardly more than the least that a pair needs. Linux only.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from pairs import pairs_of_150_tokens
from relscope.interventions import all_sites, patch_pair
from relscope.models import load_judge
from relscope.prompts import DEFAULT_REGIONS

COMPONENTS = ("attn_out", "mlp_out", "resid_post", "z")
GOAL_GIB = 1.5


def resident(field: str) -> int:
    """A memory figure of this process in bytes: VmRSS (now) or VmHWM (peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()
    judge = load_judge("smollm2-135m", device="cpu")
    pairs = pairs_of_150_tokens(judge, arguments.pairs)
    shape = judge.shape
    layers = set(range(0, shape.n_layers, 6)) | {shape.n_layers - 1}
    sites = all_sites(COMPONENTS, DEFAULT_REGIONS, shape.n_layers, shape.n_heads)
    judge.logit_diff([pairs[0].clean.ids], [pairs[0].answer_ids])  # buffers that any forward pass needs
    print("| --memory | pairs | sites a pair | peak beyond the loaded model | goal |")
    print("| --- | --- | --- | --- | --- |")
    loaded = resident("VmRSS")
    some = [site for site in sites if site.layer in layers]
    # All sites of the two longest regions of one pair are the most that is ever in flight.
    most = [site for site in sites if site.region in ("document", "all")]
    plans = ((192 << 20, some, 1), (512 << 20, some, 1), (1 << 30, some, len(pairs)), (1 << 30, most, 1))
    for bound, chosen, n_pairs in plans:
        of = pairs[:n_pairs]
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
        for pair in of:
            patch_pair(judge, pair, chosen, memory_bytes=bound)
        grown = (resident("VmHWM") - loaded) / 2**30
        label = "within" if grown < GOAL_GIB else "falls short"
        print(f"| {bound >> 20} MiB | {len(of)} | {len(chosen)} | {grown:.2f} GiB | < {GOAL_GIB} GiB, {label} |")


if __name__ == "__main__":
    main()
