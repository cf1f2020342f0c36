"""Does the cost of patching grow with (layers above the patch) x (positions from the first changed one)?

For each depth, length of prompt and number of heads: head outputs `z` of one layer, each head alone, exact, on the
embedded model in float32. What should be linear, of patches at layer l of L whose suffix is s positions long:

    seconds = c * heads * (L - 1 - l) * s

Each patch sends s rows through every layer above. At `all`, the s patched rows of layer l itself go through its output
projection and MLP, which is about what the last layer is spared, so that both together count as one layer. At other
regions fewer rows are patched, and a line of all operations that are counted (`patch_cost`) is printed beside.

Seconds are without the two recorded runs. All points are measured in turns, in another order in each round, and the
least of all rounds counts, of patches and of recorded runs: other programs only ever add. The lines are fitted to the
points at `all`. The others are shown for what they are: they patch fewer positions than they recompute, and at `last`
one row a head fills no core.

    python benchmarks/scaling.py [--model smollm2-135m] [--rounds 5] [--lengths 96,150,300]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from clock import timed
from pairs import random_pair
from relscope.interventions import Site, patch_cost, patch_pair
from relscope.models import JudgeModel, load_judge
from relscope.prompts import AlignedPair
from tallies import row, rule

GOAL = 0.15
SHORTER_REGIONS = ("query", "instruction", "last")


@dataclass
class Point:
    """Some heads of one layer at one region of one prompt; seconds of each round, with patches and of recorded runs."""

    pair: AlignedPair
    sites: Sequence[Site]
    n_layers_above: int
    flops: float
    with_patches: list[float] = field(default_factory=list)
    recordings: list[float] = field(default_factory=list)

    @property
    def region(self) -> str:
        """The patched region."""
        return self.sites[0].region

    @property
    def n_positions(self) -> int:
        """From the first one that the patch changes to the last of the prompt."""
        return len(self.pair.clean) - max(self.pair.differing[0], self.pair.clean.region(self.region)[0])

    @property
    def n_rows(self) -> int:
        """Layers above x positions x heads."""
        return self.n_layers_above * self.n_positions * len(self.sites)

    @property
    def seconds(self) -> float:
        """The patches alone: the least of as many measurements with them as without."""
        return max(min(self.with_patches) - min(self.recordings), 1e-6)  # noise may leave nothing


def make_points(judge: JudgeModel, lengths: Sequence[int]) -> list[Point]:
    """Depths x lengths x numbers of heads at `all`; depths x other regions, of the middle length and with all heads."""
    n_layers, n_heads = judge.shape.n_layers, judge.shape.n_heads
    pairs = [random_pair(n_tokens, judge.shape.d_vocab, seed=n_tokens) for n_tokens in lengths]
    depths = (0, n_layers // 3, 2 * n_layers // 3, n_layers - 4)
    heads = (n_heads // 3, 2 * n_heads // 3, n_heads)
    plan = [(pair, "all", layer, n) for pair in pairs for layer in depths for n in heads]
    middle = pairs[len(pairs) // 2]
    plan += [(middle, region, layer, n_heads) for region in SHORTER_REGIONS for layer in depths]
    points = []
    for pair, region, layer, n in plan:
        sites = [Site("z", layer, region, head) for head in range(n)]
        cost = patch_cost(judge, pair, sites, restart=True)
        points.append(Point(pair, sites, n_layers - 1 - layer, cost.flops))
    return points


def measure(judge: JudgeModel, points: Sequence[Point], n_rounds: int) -> None:
    """Measure all points in turns, each with its patches and without."""

    def seconds(pair: AlignedPair, sites: Sequence[Site]) -> float:
        return timed(judge.device, lambda: patch_pair(judge, pair, sites))[1]

    shuffle = random.Random(0).shuffle
    for number in range(n_rounds):
        print(f"round {number + 1} of {n_rounds}", file=sys.stderr)
        order = list(points)
        shuffle(order)
        for point in order:
            point.recordings.append(seconds(point.pair, []))
            point.with_patches.append(seconds(point.pair, point.sites))


def slope_through_origin(amounts: Sequence[float], seconds: Sequence[float]) -> float:
    """Seconds a unit: the line through the origin with the least squares of relative deviations, in logarithms."""
    return math.exp(statistics.mean(math.log(of / amount) for amount, of in zip(amounts, seconds, strict=True)))


def report(points: Sequence[Point]) -> Iterator[str]:
    """Each point's deviation from both lines, and how many of the fitted points are within the goal."""
    fitted = [point for point in points if point.region == "all"]
    per_row = slope_through_origin([point.n_rows for point in fitted], [point.seconds for point in fitted])
    per_flop = slope_through_origin([point.flops for point in fitted], [point.seconds for point in fitted])
    columns = ("region", "tokens", "layers above", "positions", "heads", "rows", "ms", "off the line", "goal",
               "off the line of operations")  # fmt: skip
    yield row(columns)
    yield rule(len(columns))
    n_within = 0
    for point in points:
        of = point.seconds
        off, off_flops = of / (per_row * point.n_rows) - 1, of / (per_flop * point.flops) - 1
        goal = ""
        if point.region == "all":
            n_within += abs(off) <= GOAL
            goal = f"within {GOAL:.0%}" if abs(off) <= GOAL else f"within {GOAL:.0%}, falls short"
        numbers = (len(point.pair.clean), point.n_layers_above, point.n_positions, len(point.sites), point.n_rows)
        yield row([point.region, *map(str, numbers), f"{1e3 * of:.1f}", f"{off:+.0%}", goal, f"{off_flops:+.0%}"])
    yield (
        f"\nThe line, fitted to the points at `all`: {1e6 * per_row:.2f} us a row, {1e-9 / per_flop:.0f} GFLOP/s; "
        f"{n_within} of {len(fitted)} of them within {GOAL:.0%}."
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the embedded one, or a folder of safetensors")
    parser.add_argument("--lengths", default="96,150,300", help="tokens of the prompts, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    judge = load_judge(options.model, device="cpu")
    torch.set_num_threads(options.threads)
    points = make_points(judge, [int(length) for length in options.lengths.split(",")])
    patch_pair(judge, points[0].pair, points[0].sites)  # what is slower the first time, the contract's check included
    measure(judge, points, options.rounds)
    print(f"{options.model}, `z`, exact, float32, {options.threads} threads, least of {options.rounds} rounds\n")
    print(*report(points), sep="\n")


if __name__ == "__main__":
    main()
