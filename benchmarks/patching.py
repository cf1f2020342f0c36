"""How much faster is exact patching than one full forward pass for each patch, by plain hooks and by other libraries?

Side by side in one run. For each pair and region: some cells (layer, head) of `z` by plain hooks, one full forward pass
each; all cells by relscope, exact and by differences; a few of the cells by each peer, in a process and a virtual
environment of its own; then plain cells again. Model, token ids, positions, cells and threads are the same; float32.

relscope's time is that of the patches alone: `patch_pair` with all cells less `patch_pair` with none, measured beside
it; a second column counts the two recorded runs too. The lower bound is what the patches' floating-point operations
take at the measured peak of matrix products (float32; bfloat16 of delta). Exits with status 1 if the ways disagree.

    python benchmarks/patching.py [--model smollm2-135m] [--pairs 2] [--cells 12] [--peer-cells 4] [--peers none]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import torch

from goals import TOGETHER, Z_GOALS
from pairs import pairs_of_150_tokens
from peers.client import PEERS, Peer, PeerError
from plain import PlainPatcher, peak_flops, plain_patcher
from relscope.interventions import Precision, Site, all_sites, patch_cost, patch_pair
from relscope.models import JudgeModel, load_judge
from relscope.models.embedded import EMBEDDED_MODELS, embedded_folder
from relscope.prompts import AlignedPair
from tallies import PLAIN, Tallies, agreement_table, disagreements, goal_table, speed_table

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"exact": torch.float32, "delta": torch.bfloat16}
REGIONS = [line for line in Z_GOALS["exact"] if line != TOGETHER]
T = TypeVar("T")
# Short sweeps are measured again and again for this long.
MIN_SECONDS = 3.0


@dataclass(frozen=True)
class Sweep:
    """All cells of one region of one pair by relscope: LD of each, and seconds without and with the recorded runs."""

    ld_patched: torch.Tensor
    seconds: float
    recording_seconds: float


@dataclass
class Bench:
    """Everything that is measured in turns, and where the figures are summed."""

    judge: JudgeModel
    peers: dict[str, Peer]
    tallies: Tallies
    n_cells: int
    n_peer_cells: int
    generator: torch.Generator
    highest_load: float = 0.0

    def measure_pair(self, pair: AlignedPair) -> None:
        """Measure every way at every region of one pair."""
        plain = plain_patcher(self.judge, pair)
        for name in list(self.peers):
            self._ask(name, lambda peer: peer.take_pair(pair))
        for region in self.tallies.regions:
            print(f"{pair.pair_id}: {region}", file=sys.stderr)
            self._measure_region(pair, plain, region)
            if hasattr(os, "getloadavg"):
                self.highest_load = max(self.highest_load, os.getloadavg()[0])

    def _measure_region(self, pair: AlignedPair, plain: PlainPatcher, region: str) -> None:
        shape, tallies = self.judge.shape, self.tallies
        sites = all_sites(("z",), (region,), shape.n_layers, shape.n_heads)
        positions = list(pair.clean.region(region))
        chosen = torch.randperm(len(sites), generator=self.generator)[: self.n_cells].tolist()
        cells = [(sites[i].layer, sites[i].head) for i in chosen]
        half = len(cells) // 2
        before, seconds_before = plain.patch(cells[:half], positions)
        sweeps = {precision: sweep(self.judge, pair, sites, precision) for precision in PRECISIONS}
        peers = {
            name: self._ask(name, lambda peer: peer.patch(cells[: self.n_peer_cells], positions))
            for name in list(self.peers)
        }
        after, seconds_after = plain.patch(cells[half:], positions)
        reference = torch.tensor(before + after)
        tallies.at(region, PLAIN).add(len(cells), sum(seconds_before + seconds_after))
        for precision, of in sweeps.items():
            cost = patch_cost(self.judge, pair, sites, restart=True)
            worst = _worst(of.ld_patched[chosen], reference)
            tallies.at(region, precision).add(
                len(sites), of.seconds, worst, recording=of.recording_seconds, flops=cost.flops
            )
        for name, answer in peers.items():
            if answer is not None:
                values, seconds = answer
                worst = _worst(torch.tensor(values), reference[: len(values)])
                tallies.at(region, name).add(len(values), sum(seconds), worst)

    def _ask(self, name: str, question: Callable[[Peer], T]) -> T | None:
        """What a peer answers; one that fails is left out from then on."""
        try:
            return question(self.peers[name])
        except PeerError as failure:
            self.peers.pop(name).close()
            self.tallies.drop(name, str(failure))
            return None


def sweep(judge: JudgeModel, pair: AlignedPair, sites: Sequence[Site], precision: Precision) -> Sweep:
    """Patch all cells of one region of one pair; the recorded runs alone are measured before and after."""
    recordings = [_timed(judge, pair, [], precision)[1]]
    alone = []
    while not alone or sum(alone) + sum(recordings) < MIN_SECONDS:
        ld_patched, seconds = _timed(judge, pair, sites, precision)
        recordings.append(_timed(judge, pair, [], precision)[1])
        alone.append(seconds - statistics.mean(recordings[-2:]))
    return Sweep(ld_patched, statistics.mean(alone), statistics.mean(recordings))


def _timed(
    judge: JudgeModel, pair: AlignedPair, sites: Sequence[Site], precision: Precision
) -> tuple[torch.Tensor, float]:
    began = time.perf_counter()
    ld_patched = patch_pair(judge, pair, sites, precision=precision).ld_patched
    return ld_patched, time.perf_counter() - began


def _worst(values: torch.Tensor, reference: torch.Tensor) -> float:
    return (values - reference).abs().max().item()


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


def warm_up(judge: JudgeModel, pair: AlignedPair) -> None:
    """Do once, untimed, what is slower the first time."""
    assert judge.contract.restartable  # checked here, so that no timing holds the check
    plain_patcher(judge, pair).patch([(0, 0)], list(pair.clean.region("last")))
    for precision in PRECISIONS:
        patch_pair(judge, pair, all_sites(("z",), ("last",), judge.shape.n_layers, 1), precision=precision)


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
    with contextlib.ExitStack() as stack:
        peers, titles, failures = start_peers(names, options.model, options.threads, stack)
        peaks = {precision: peak_flops(judge, dtype) for precision, dtype in DTYPES.items()}
        tallies = Tallies(options.regions.split(","), titles, peaks, failures)
        generator = torch.Generator().manual_seed(0)
        bench = Bench(judge, peers, tallies, options.cells, options.peer_cells, generator)
        for pair in pairs:
            bench.measure_pair(pair)
        for precision, dtype in DTYPES.items():  # another program may have run beside the first measurement
            peaks[precision] = max(peaks[precision], peak_flops(judge, dtype))
        print_report(options, bench, pairs)
    if disagreeing := disagreements(tallies):
        sys.exit(f"LD differs by more than the tolerance: {', '.join(disagreeing)}")


def print_report(options: argparse.Namespace, bench: Bench, pairs: Sequence[AlignedPair]) -> None:
    """Print what was measured, and on what."""
    tallies, judge = bench.tallies, bench.judge
    peaks = ", ".join(f"{tallies.peaks[p] / 1e9:.0f} GFLOP/s ({d})".replace("torch.", "") for p, d in DTYPES.items())
    print(
        f"{options.model}, pairs of 150 tokens or a few fewer: {len(pairs)}, float32, "
        f"{options.threads} threads, torch {torch.__version__}; measured peak of matrix products {peaks}"
    )
    for lines in (speed_table(tallies, judge.shape.n_layers * judge.shape.n_heads), goal_table(tallies),
                  agreement_table(tallies)):  # fmt: skip
        print("", *lines, sep="\n")
    print(
        "\nIn brackets: times as fast as plain hooks. In the first table relscope's time is that of the patches alone."
        f"\nLoad average up to {bench.highest_load:.1f}: much beyond {options.threads}, other programs ran beside "
        "the benchmark, and its figures are not to be relied on."
    )
    for name, peer in bench.peers.items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in peer.versions.items())}")
    for name, reason in tallies.failures.items():
        print(f"{name}: not run: {reason}")


if __name__ == "__main__":
    main()
