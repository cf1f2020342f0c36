"""How much faster than one full forward pass a cell are layer components and attention edges patched?

Side by side with plain hooks in one run, as `side_by_side` says, on the embedded model, float32:

- `attn_out`, `mlp_out` and `resid_post` of all layers at the five regions, all of them in one call;
- `scores` and `pattern` of all heads, from a source to a destination region (dest <- src).

An edge's goals are those of `z` at its destination, which is all that it changes in its layer. The plain way leaves
the model's own attention as it is and works out one head's new output by hand. Exits with status 1 if they disagree.

    python benchmarks/sites.py [--model smollm2-135m] [--pairs 2] [--cells 12]
"""

from __future__ import annotations

import argparse
import sys

import torch

from goals import RESIDUAL_GOAL, Z_GOALS, Goals
from pairs import pairs_of_150_tokens
from relscope.interventions import Site, all_sites
from relscope.models import JudgeModel, load_judge
from relscope.prompts import DEFAULT_REGIONS
from side_by_side import PRECISIONS, Bench, measure_peaks, report, warm_up
from tallies import Tallies, disagreements

RESIDUAL = "attn_out + mlp_out + resid_post, five regions"
# Destination and source.
EDGES = (("last", "document"), ("query", "document"), ("instruction", "query"))


def lines_of(judge: JudgeModel) -> dict[str, list[Site]]:
    """The cells of each line of the tables."""
    n_layers, n_heads = judge.shape.n_layers, judge.shape.n_heads
    lines = {RESIDUAL: all_sites(("attn_out", "mlp_out", "resid_post"), DEFAULT_REGIONS, n_layers, n_heads)}
    for component in ("scores", "pattern"):
        for dest, src in EDGES:
            lines[_edge(component, dest, src)] = all_sites((component,), (dest,), n_layers, n_heads, sources=(src,))
    return lines


def goals() -> Goals:
    """By precision and line; layer components have the same goal in both."""
    return {
        precision: {
            RESIDUAL: RESIDUAL_GOAL,
            **{_edge(component, dest, src): Z_GOALS[precision][dest] for component in ("scores", "pattern")
               for dest, src in EDGES},
        }
        for precision in PRECISIONS
    }  # fmt: skip


def _edge(component: str, dest: str, src: str) -> str:
    return f"{component}, {dest} <- {src}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the embedded one, or a folder of safetensors")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--cells", type=int, default=12, help="plain cells for each pair and line")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    judge = load_judge(options.model, device="cpu")
    torch.set_num_threads(options.threads)
    pairs = pairs_of_150_tokens(judge, options.pairs)
    warm_up(judge, pairs[0])
    lines = lines_of(judge)
    peaks: dict[str, float] = {}
    measure_peaks(judge, peaks)
    tallies = Tallies(list(lines), goals(), peaks)
    bench = Bench(judge, tallies, options.cells)
    for pair in pairs:
        bench.measure_pair(pair, lines)
    measure_peaks(judge, peaks)
    what = f"{options.model}, pairs of 150 tokens or a few fewer: {len(pairs)}"
    print(*report(bench, "all layers and heads", what, options.threads), sep="\n")
    if disagreeing := disagreements(tallies):
        sys.exit(f"LD differs by more than the tolerance: {', '.join(disagreeing)}")


if __name__ == "__main__":
    main()
