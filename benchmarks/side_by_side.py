"""How long do relscope, plain hooks and other libraries take for the same cells, in turns, and do they agree?

For each pair and line (a region, say): some cells by plain hooks, one full forward pass each; all cells by relscope,
exact and by differences; a few by each peer; then plain cells again. relscope's time is that of the patches alone:
`patch_pair` with all cells less `patch_pair` with none, measured beside it.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

import torch

from clock import peak_flops, timed
from peers.client import Peer, PeerError
from plain import PlainPatcher, plain_patcher
from relscope.interventions import Precision, Site, all_sites, patch_cost, patch_pair
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair
from tallies import PLAIN, Tallies, agreement_table, goal_table, speed_table

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"exact": torch.float32, "delta": torch.bfloat16}
T = TypeVar("T")
# Short sweeps are measured again and again for this long.
MIN_SECONDS = 3.0


@dataclass(frozen=True)
class Sweep:
    """All cells of one line of one pair by relscope: LD of each, and seconds without and with the recorded runs."""

    ld_patched: torch.Tensor
    seconds: float
    recording_seconds: float


@dataclass
class Bench:
    """Everything that is measured in turns, and where the figures are summed.

    Attributes:
        n_cells: plain cells for each pair and line.
        peers: they patch heads' outputs `z` alone.
        n_peer_cells: cells of each peer for each pair and line.
    """

    judge: JudgeModel
    tallies: Tallies
    n_cells: int
    peers: dict[str, Peer] = field(default_factory=dict)
    n_peer_cells: int = 0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    highest_load: float = 0.0

    def measure_pair(self, pair: AlignedPair, lines: Mapping[str, Sequence[Site]]) -> None:
        """Measure every way at every line of one pair."""
        plain = plain_patcher(self.judge, pair)
        for name in list(self.peers):
            self._ask(name, lambda peer: peer.take_pair(pair))
        for line, sites in lines.items():
            print(f"{pair.pair_id}: {line}", file=sys.stderr)
            self._measure_line(pair, plain, line, sites)
            if hasattr(os, "getloadavg"):
                self.highest_load = max(self.highest_load, os.getloadavg()[0])

    def _measure_line(self, pair: AlignedPair, plain: PlainPatcher, line: str, sites: Sequence[Site]) -> None:
        tallies = self.tallies
        chosen = torch.randperm(len(sites), generator=self.generator)[: self.n_cells].tolist()
        cells = [sites[i] for i in chosen]
        half = len(cells) // 2
        before, seconds_before = plain.patch(cells[:half])
        sweeps = {precision: sweep(self.judge, pair, sites, precision) for precision in PRECISIONS}
        peers = {name: self._patched_by(name, pair, cells[: self.n_peer_cells]) for name in list(self.peers)}
        after, seconds_after = plain.patch(cells[half:])
        reference = torch.tensor(before + after)
        tallies.at(line, PLAIN).add(len(cells), sum(seconds_before + seconds_after))
        cost = patch_cost(self.judge, pair, sites, restart=True)
        for precision, of in sweeps.items():
            worst = _worst(of.ld_patched[chosen], reference)
            tallies.at(line, precision).add(
                len(sites), of.seconds, worst, recording=of.recording_seconds, flops=cost.flops
            )
        for name, answer in peers.items():
            if answer is not None:
                values, seconds = answer
                worst = _worst(torch.tensor(values), reference[: len(values)])
                tallies.at(line, name).add(len(values), sum(seconds), worst)

    def _patched_by(
        self, name: str, pair: AlignedPair, sites: Sequence[Site]
    ) -> tuple[list[float], list[float]] | None:
        """LD and seconds of each site by a peer; all are of one region."""
        positions = list(pair.clean.region(sites[0].region))
        cells = [(site.layer, site.head) for site in sites if site.head is not None]
        return self._ask(name, lambda peer: peer.patch(cells, positions))

    def _ask(self, name: str, question: Callable[[Peer], T]) -> T | None:
        """What a peer answers; one that fails is left out from then on."""
        try:
            return question(self.peers[name])
        except PeerError as failure:
            self.peers.pop(name).close()
            self.tallies.drop(name, str(failure))
            return None


def sweep(judge: JudgeModel, pair: AlignedPair, sites: Sequence[Site], precision: Precision) -> Sweep:
    """Patch all cells of one line of one pair; the recorded runs alone are measured before and after."""

    def patched(some: Sequence[Site]) -> tuple[torch.Tensor, float]:
        return timed(judge.device, lambda: patch_pair(judge, pair, some, precision=precision).ld_patched)

    recordings = [patched([])[1]]
    alone: list[float] = []
    while not alone or sum(alone) + sum(recordings) < MIN_SECONDS:
        ld_patched, seconds = patched(sites)
        recordings.append(patched([])[1])
        alone.append(seconds - statistics.mean(recordings[-2:]))
    return Sweep(ld_patched, statistics.median(alone), statistics.median(recordings))


def warm_up(judge: JudgeModel, pair: AlignedPair) -> None:
    """Do once, untimed, what is slower the first time."""
    assert judge.contract.restartable  # checked here, so that no timing holds the check
    sites = all_sites(("z",), ("last",), judge.shape.n_layers, 1)
    plain_patcher(judge, pair).patch(sites[:1])
    for precision in PRECISIONS:
        patch_pair(judge, pair, sites, precision=precision)


def measure_peaks(judge: JudgeModel, peaks: dict[str, float]) -> None:
    """Raise the peak of each precision to what is measured now: another program may have run beside an earlier try."""
    config = judge.model.config
    for precision, dtype in DTYPES.items():
        measured = peak_flops(judge.device, dtype, 1024, config.hidden_size, config.intermediate_size)
        peaks[precision] = max(peaks.get(precision, 0.0), measured)


def report(bench: Bench, title: str, what: str, n_threads: int) -> Iterator[str]:
    """The tables, `title` over the first, and on `what` they were measured."""
    tallies = bench.tallies
    peaks = ", ".join(f"{tallies.peaks[p] / 1e9:.0f} GFLOP/s ({d})".replace("torch.", "") for p, d in DTYPES.items())
    yield f"{what}, float32, {n_threads} threads, torch {torch.__version__}; measured peak of matrix products {peaks}"
    for table in (speed_table(tallies, title), goal_table(tallies), agreement_table(tallies)):
        yield ""
        yield from table
    yield (
        "\nIn brackets: times as fast as plain hooks. In the first table relscope's time is that of the patches alone."
        f"\nLoad average up to {bench.highest_load:.1f}: much beyond {n_threads}, other programs ran beside "
        "the benchmark, and its figures are not to be relied on."
    )


def _worst(values: torch.Tensor, reference: torch.Tensor) -> float:
    return (values - reference).abs().max().item()
