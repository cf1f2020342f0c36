"""What does exact patching take on a large model, on a GPU? Llama-3.1-8B's shape, random weights, random tokens.

For each region: all heads' outputs `z` of some pairs by relscope, pairs together; before and after, some cells (layer,
head) of one of the pairs by plain hooks, one full forward pass each, and by TransformerLens where its environment has
been made (`python benchmarks/patching.py` makes it). `last` is measured on all pairs; the other regions on
`--measure-pairs` of them, in proportion for all. Plain hooks and TransformerLens are extrapolated from their cells.

Seconds include both recorded runs of each pair. Operations are counted (`patch_cost`) and compared, over the seconds
of the patches alone, with the measured peak of one large matrix product. Exits with status 1 if the ways disagree: LD
differs by more than a share of LD's own size (root mean square over pairs), which is what bfloat16 rounds away. A
patch's effects are shown beside it: with random weights they may be smaller than that.

    python benchmarks/large.py [--pairs 100] [--measure-pairs 2] [--regions last,all] [--json large.json]
    python benchmarks/large.py --shape tiny --device cpu          # a try on a small model, seconds on any machine
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from clock import peak_flops, timed
from goals import DELTA_TOLERANCE, TOGETHER
from pairs import random_pair
from peers.client import Peer, PeerError, is_installed
from plain import PlainPatcher, plain_patcher
from random_judge import SHAPES, random_judge
from relscope.interventions import PatchedPair, Precision, Site, all_sites, patch_cost, patch_pairs
from relscope.models import JudgeModel, load_tokenizer
from relscope.models.loading import MIXED
from relscope.prompts import DEFAULT_REGIONS, AlignedPair
from tallies import ratio_text, row, rule

N_TOKENS = 200
# Of 100 pairs at the shape of Llama-3.1-8B, on an H200.
GOAL_SECONDS = {"last": 10.0, TOGETHER: 25 * 60.0}
GOAL_SHARE = {"document": 0.4, "all": 0.4}
GOAL_SHAPE, GOAL_PAIRS = "llama-8b", 100
# As the load-time contract allows: roundings add up to about 0.02 of the largest entry in bfloat16.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
PEER = "transformer_lens"


@dataclasses.dataclass(frozen=True)
class Line:
    """What was measured at one region, of `n_pairs` pairs.

    Attributes:
        seconds: of the patches alone.
        recording_seconds: of the recorded runs of these pairs.
        flops: operations of the patches, counted.
        plain_seconds: of one cell.
        peer_seconds: of one cell; None where the peer does not run.
        difference: largest LD difference from plain hooks, in units of LD's root mean square.
        peer_difference: the same, of the peer.
        effect: root mean square of the effects of the sampled cells, in the same units.
    """

    region: str
    n_pairs: int
    seconds: float
    recording_seconds: float
    flops: float
    plain_seconds: float
    peer_seconds: float | None
    difference: float
    peer_difference: float | None
    effect: float


@dataclasses.dataclass
class LargeBench:
    """What every region is measured with."""

    judge: JudgeModel
    pairs: Sequence[AlignedPair]
    plain: PlainPatcher
    peer: Peer | None
    about_peer: str
    precision: Precision
    memory_bytes: int
    n_together: int
    n_cells: int
    generator: torch.Generator = dataclasses.field(default_factory=lambda: torch.Generator().manual_seed(0))

    def measure(self, region: str, n_pairs: int) -> Line:
        """Measure all ways at one region."""
        sites = all_sites(("z",), (region,), self.judge.shape.n_layers, self.judge.shape.n_heads)
        pairs = self.pairs[:n_pairs]
        chosen = torch.randperm(len(sites), generator=self.generator)[: self.n_cells].tolist()
        cells = [sites[i] for i in chosen]
        before, seconds_before = self.plain.patch(cells[::2])
        _, recording_before = self.patch(pairs, [])
        patched, seconds = self.patch(pairs, sites)
        _, recording_after = self.patch(pairs, [])
        recording_seconds = (recording_before + recording_after) / 2
        of_peer, peer_seconds = self._by_peer(cells)
        after, seconds_after = self.plain.patch(cells[1::2])
        reference = torch.empty(len(cells))
        reference[::2], reference[1::2] = torch.tensor(before), torch.tensor(after)
        size = torch.tensor([[of.ld_clean, of.ld_corrupted] for of in patched]).square().mean().sqrt()
        ours = patched[0].ld_patched[chosen]
        effects = ours - patched[0].ld_corrupted
        cost = patch_cost(self.judge, pairs[0], sites, restart=True)
        return Line(
            region=region,
            n_pairs=n_pairs,
            seconds=seconds - recording_seconds,
            recording_seconds=recording_seconds,
            flops=n_pairs * cost.flops,  # all pairs have the same spans
            plain_seconds=sum(seconds_before + seconds_after) / len(cells),
            peer_seconds=peer_seconds,
            difference=float((ours - reference).abs().max() / size),
            peer_difference=None if of_peer is None else float((of_peer - reference).abs().max() / size),
            effect=float(effects.square().mean().sqrt() / size),
        )

    def patch(self, pairs: Sequence[AlignedPair], sites: Sequence[Site]) -> tuple[list[PatchedPair], float]:
        """Patch all sites of all pairs, some pairs together at a time; and the seconds."""

        def patched() -> list[PatchedPair]:
            groups = [pairs[i : i + self.n_together] for i in range(0, len(pairs), self.n_together)]
            return [
                of
                for group in groups
                for of in patch_pairs(
                    self.judge,
                    [(pair, sites) for pair in group],
                    memory_bytes=self.memory_bytes,
                    precision=self.precision,
                )
            ]

        return timed(self.judge.device, patched)

    def _by_peer(self, cells: Sequence[Site]) -> tuple[torch.Tensor | None, float | None]:
        """LD of each cell by the peer, and seconds a cell; one that fails is left out from then on."""
        if self.peer is None:
            return None, None
        places = [(site.layer, site.head) for site in cells if site.head is not None]
        try:
            values, seconds = self.peer.patch(places, list(self.pairs[0].clean.region(cells[0].region)))
        except PeerError as failure:
            self.peer, self.about_peer = None, f"{PEER}: not run to the end: {failure}"
            return None, None
        return torch.tensor(values), sum(seconds) / len(seconds)


def start_peer(judge: JudgeModel, pair: AlignedPair, stack: contextlib.ExitStack) -> tuple[Peer | None, str]:
    """TransformerLens with the same weights in a process of its own, and its name; or None, and why it does not run."""
    if not is_installed(PEER):
        return None, f"{PEER}: not run: it has no environment here; python benchmarks/patching.py makes one"
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    judge.model.save_pretrained(folder)
    load_tokenizer("smollm2-135m").save_pretrained(folder)  # it wants one; the prompts are ids
    try:
        peer = Peer(PEER, Path(folder), torch.get_num_threads(), device=str(judge.device),
                    dtype=str(judge.model.dtype).removeprefix("torch."))  # fmt: skip
        stack.callback(peer.close)
        peer.take_pair(pair)
    except PeerError as failure:
        return None, f"{PEER}: not run: {failure}"
    return peer, ", ".join(f"{package} {version}" for package, version in peer.versions.items())


def report(lines: Sequence[Line], n_pairs: int, judge: JudgeModel, peak: float) -> Iterator[str]:
    """The table of seconds for all pairs, and that of agreement; goals where they apply."""
    n_heads = judge.shape.n_layers * judge.shape.n_heads
    of_goal_shape = judge.identity.name == f"random {GOAL_SHAPE}"
    goal_share = GOAL_SHARE if of_goal_shape else {}
    goal_seconds = GOAL_SECONDS if of_goal_shape and n_pairs == GOAL_PAIRS else {}
    yield row([f"{n_pairs} pairs, {n_heads} heads", "pairs measured", "seconds for all", "goal", "TFLOP/s", "of peak",
               "goal", "plain hooks, extrapolated", f"{PEER}, extrapolated"])  # fmt: skip
    yield rule(9)
    for line in lines:
        seconds = (line.seconds + line.recording_seconds) * n_pairs / line.n_pairs
        rate = line.flops / line.seconds
        n_cells = n_pairs * n_heads
        peer = None if line.peer_seconds is None else line.peer_seconds * n_cells
        yield row([line.region, str(line.n_pairs), f"{seconds:.3g}", _below(seconds, goal_seconds.get(line.region)),
                   f"{rate / 1e12:.3g}", f"{rate / peak:.0%}", _above(rate / peak, goal_share.get(line.region)),
                   _times(line.plain_seconds * n_cells, seconds), _times(peer, seconds)])  # fmt: skip
    if {line.region for line in lines} == set(DEFAULT_REGIONS):
        yield _together(lines, n_pairs, n_heads, goal_seconds.get(TOGETHER))
    yield "\n" + row(["in units of LD's rms", "max LD difference from plain hooks", PEER, "rms effect of the cells"])
    yield rule(4)
    for line in lines:
        of_peer = "not run" if line.peer_difference is None else f"{line.peer_difference:.1e}"
        yield row([line.region, f"{line.difference:.1e}", of_peer, f"{line.effect:.1e}"])


def _together(lines: Sequence[Line], n_pairs: int, n_heads: int, goal: float | None) -> str:
    """All regions in one study: each pair's runs are recorded once."""
    recording = max(line.recording_seconds / line.n_pairs for line in lines)
    seconds = n_pairs * (recording + sum(line.seconds / line.n_pairs for line in lines))
    n_cells = n_pairs * n_heads
    of_peer = [line.peer_seconds for line in lines if line.peer_seconds is not None]
    peer_seconds = n_cells * sum(of_peer) if len(of_peer) == len(lines) else None
    return row([TOGETHER, "", f"{seconds:.3g}", _below(seconds, goal), "", "", "",
                _times(n_cells * sum(line.plain_seconds for line in lines), seconds),
                _times(peer_seconds, seconds)])  # fmt: skip


def _below(seconds: float, goal: float | None) -> str:
    return "" if goal is None else f"< {goal:g} s" + ("" if seconds < goal else ", falls short")


def _above(share: float, goal: float | None) -> str:
    return "" if goal is None else f"> {goal:.0%}" + ("" if share > goal else ", falls short")


def _times(seconds: float | None, ours: float) -> str:
    return "not run" if seconds is None else f"{seconds / 3600:.3g} h ({ratio_text(seconds / ours)})"


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=(MIXED, "bfloat16", "float32"), default=MIXED)
    parser.add_argument("--precision", choices=("exact", "delta"), default="delta")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--measure-pairs", type=int, default=2, help="at regions other than last; as --pairs for all")
    parser.add_argument("--regions", default="last,instruction,query,document,all", help="comma-separated")
    parser.add_argument("--cells", type=int, default=6, help="cells at each region by plain hooks and TransformerLens")
    parser.add_argument("--together", type=int, default=16, help="pairs whose recorded runs are held at once")
    parser.add_argument("--memory", type=float, default=40.0, help="GiB beyond the weights")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def warm_up(bench: LargeBench) -> None:
    """Do once, untimed, what is slower the first time."""
    shape = bench.judge.shape
    for region in ("last", "all"):
        sites = all_sites(("z",), (region,), shape.n_layers, shape.n_heads)[-2 * shape.n_heads :]
        bench.patch(bench.pairs[:2], sites)
        bench.plain.patch(sites[:1])


def main() -> None:
    """Measure and print the tables."""
    options = read_options()
    device = torch.device(options.device)
    judge = random_judge(options.shape, device, options.dtype)
    if not judge.contract.restartable:
        sys.exit(judge.contract.why_not_restartable)
    shape = judge.shape
    pairs = [random_pair(N_TOKENS, shape.d_vocab, seed) for seed in range(options.pairs)]
    n_rows = 8192 if options.shape == "llama-8b" else 1024
    of_products = torch.bfloat16 if options.precision == "delta" else judge.dtype
    config = judge.model.config
    peak = peak_flops(device, of_products, n_rows, config.hidden_size, config.intermediate_size)
    with contextlib.ExitStack() as stack:
        peer, about_peer = start_peer(judge, pairs[0], stack)
        bench = LargeBench(judge, pairs, plain_patcher(judge, pairs[0]), peer, about_peer, options.precision,
                           int(options.memory * 2**30), options.together, options.cells)  # fmt: skip
        warm_up(bench)
        lines = []
        for region in options.regions.split(","):
            print(region, file=sys.stderr)
            n_pairs = options.pairs if region == "last" else min(options.measure_pairs, options.pairs)
            lines.append(bench.measure(region, n_pairs))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about = {
        "model": judge.identity.name, "device": name, "weights": options.dtype, "precision": options.precision,
        "tokens": N_TOKENS, "pairs": options.pairs, "torch": torch.__version__, "peak_flops": peak,
        "peer": bench.about_peer,
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print(*report(lines, options.pairs, judge, peak), sep="\n")
    if options.json is not None:
        figures = {**about, "lines": [dataclasses.asdict(line) for line in lines]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    tolerance = DELTA_TOLERANCE if options.precision == "delta" else TOLERANCES[judge.dtype]
    if disagreeing := [line.region for line in lines if not line.difference <= tolerance]:
        sys.exit(f"LD differs by more than {tolerance:g} of its size: {', '.join(disagreeing)}")


if __name__ == "__main__":
    main()
