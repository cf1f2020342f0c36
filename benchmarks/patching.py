"""How much faster is exact patching than one full forward pass for each patch, by plain hooks and by other libraries?

Side by side in one run, as `side_by_side` says: cells (layer, head) of `z` at each region, each peer in a process and a
virtual environment of its own. Model, token ids, positions, cells and threads are the same; float32.

A second table counts the two recorded runs too. The lower bound is what the patches' floating-point operations
take at the measured peak of matrix products (float32; bfloat16 of delta). Exits with status 1 if the ways disagree.

    python benchmarks/patching.py [--model smollm2-135m] [--pairs 2] [--cells 12] [--peer-cells 4] [--peers none]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from goals import TOGETHER, Z_GOALS
from pairs import pairs_of_150_tokens
from peers.client import PEERS, Peer, PeerError
from relscope.interventions import all_sites
from relscope.models import load_judge
from relscope.models.embedded import EMBEDDED_MODELS, embedded_folder
from side_by_side import Bench, measure_peaks, report, warm_up
from tallies import Tallies, disagreements

REGIONS = [line for line in Z_GOALS["exact"] if line != TOGETHER]


def start_peers(
    names: Sequence[str], model: str, threads: int, stack: contextlib.ExitStack
) -> tuple[dict[str, Peer], dict[str, str], dict[str, str]]:
    """Start the peers; those that run, the name on the table of each, and why one does not run."""
    peers: dict[str, Peer] = {}
    titles, failures = {}, {}
    folder = embedded_folder(model) if model in EMBEDDED_MODELS else Path(model)
    for name in names:
        try:
            peers[name] = Peer(name, folder, threads)
        except PeerError as failure:
            titles[name], failures[name] = name, str(failure)
        else:
            stack.callback(peers[name].close)
            titles[name] = " ".join(next(iter(peers[name].versions.items())))
    return peers, titles, failures


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the embedded one, or a folder of safetensors")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--regions", default=",".join(REGIONS), help="comma-separated")
    parser.add_argument("--cells", type=int, default=12, help="plain cells for each pair and region")
    parser.add_argument("--peer-cells", type=int, default=4, help="cells of each peer for each pair and region")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, or none")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Measure and print the tables."""
    options = read_options()
    judge = load_judge(options.model, device="cpu")
    torch.set_num_threads(options.threads)
    pairs = pairs_of_150_tokens(judge, options.pairs)
    warm_up(judge, pairs[0])
    names = [] if options.peers == "none" else options.peers.split(",")
    shape = judge.shape
    lines = {
        region: all_sites(("z",), (region,), shape.n_layers, shape.n_heads) for region in options.regions.split(",")
    }
    with contextlib.ExitStack() as stack:
        peers, titles, failures = start_peers(names, options.model, options.threads, stack)
        peaks: dict[str, float] = {}
        measure_peaks(judge, peaks)
        tallies = Tallies(list(lines), Z_GOALS, peaks, titles, failures)
        bench = Bench(judge, tallies, options.cells, peers, options.peer_cells)
        for pair in pairs:
            bench.measure_pair(pair, lines)
        measure_peaks(judge, peaks)
        title = f"`z`, all {shape.n_layers * shape.n_heads} heads"
        what = f"{options.model}, pairs of 150 tokens or a few fewer: {len(pairs)}"
        print(*report(bench, title, what, options.threads), sep="\n")
        for name, peer in bench.peers.items():
            print(f"{name}: {', '.join(f'{package} {version}' for package, version in peer.versions.items())}")
        for name, reason in tallies.failures.items():
            print(f"{name}: not run: {reason}")
    if disagreeing := disagreements(tallies):
        sys.exit(f"LD differs by more than the tolerance: {', '.join(disagreeing)}")


if __name__ == "__main__":
    main()
