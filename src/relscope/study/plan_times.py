"""How long will a study's patches take? From a short measurement on one pair of median length.

    seconds of a group = seconds of some of its patches * operations of all / operations of these

A group is the patches of one experiment that compute alike: at one region, or whose destination is one region. Of a
group, some patches of a few layers are measured; all of it where that takes a moment. The larger part of the time goes
into the two recorded runs that every measurement begins with; they are taken away.

Cost: one or two measurements a group, some ten groups in a study of everything.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relscope.interventions import (
    Joint,
    Patch,
    PatchCost,
    Path,
    Precision,
    patch_cost,
    patch_pair,
    patch_paths,
    path_cost,
)
from relscope.prompts import AlignedPair
from relscope.results import EXACT_SAMPLE, PATHS
from relscope.study.config import StudyConfig
from relscope.study.judging import verdicts
from relscope.study.prepare import Prepared, Progress
from relscope.study.run import exact_sample

_SAMPLED_LAYERS = 3
_SAMPLED_SITES = 24
_SAMPLED_SETS = 16
_SAMPLED_PATHS = 48
# Seconds of a group of patches that is measured whole.
_SHORT = 2.0


@dataclass(frozen=True)
class PlannedTimes:
    """Seconds: of what all share, of recording both runs of each pair once, of each experiment, of one full pass."""

    shared: float
    recording: float
    of: Mapping[str, float]
    full_pass: float


@dataclass(frozen=True)
class Alike:
    """Patches of one experiment that compute alike, and what they cost in each pair."""

    name: str
    patches: Sequence[Patch]
    costs: Sequence[PatchCost]


class Stopwatch:
    """Times a few patches of a study.

    Args:
        config: the study.
        prepared: its model and pairs.
        progress: is told of each measurement.
    """

    def __init__(self, config: StudyConfig, prepared: Prepared, progress: Progress) -> None:
        self._config, self._judge, self._pairs = config, prepared.judge, prepared.aligned
        self._restart, self._precision = prepared.contract.restartable, prepared.precision(config)
        self._progress = progress
        self._median = sorted(self._pairs, key=lambda pair: len(pair.clean.ids))[len(self._pairs) // 2]
        self._recording = 0.0

    def times(self, groups: Sequence[Alike], paths: Sequence[Path], n_recorded: int) -> PlannedTimes:
        """Estimated seconds of everything; `n_recorded`: how often both runs of a pair are recorded to patch."""
        n_steps = 1 + len(groups) + bool(paths)
        self._progress.stage(f"measuring this machine's speed on {n_steps} kinds of patches")
        self._progress.start(n_steps, float(n_steps))
        everything: dict[str, list[Patch]] = defaultdict(list)
        for group in groups:
            everything[group.name] += group.patches
        first = [patch for group in groups for patch in group.patches][:1]
        verdicts(self._judge, [self._median])  # the first pass of a process is slower than all others,
        self._seconds(first)  # and so are the first patches
        began = time.perf_counter()
        verdicts(self._judge, [self._median])
        full_pass = (time.perf_counter() - began) / 2
        self._recording = self._seconds([])
        self._progress.advance(1, 1.0)
        of: dict[str, float] = dict.fromkeys(everything, 0.0)
        for group in groups:
            of[group.name] += self._of_group(group)
            self._progress.advance(1, 1.0)
        if paths:
            of[PATHS] = self._of_paths(paths)
            self._progress.advance(1, 1.0)
        if self._precision == "delta" and first:
            again, pairs = exact_sample(self._config, everything, self._pairs)
            of[EXACT_SAMPLE] = self._seconds(again, "exact") * len(pairs)
        recording = self._recording * len(self._pairs)
        return PlannedTimes(2 * full_pass * len(self._pairs) + recording * n_recorded, recording, of, full_pass)

    def _of_group(self, group: Alike) -> float:
        """Estimated seconds of patches that compute alike, in all pairs."""
        patches = group.patches
        sample = _sample(patches, self._judge.shape.n_layers) if self._restart else patches[:1]
        whole = group.costs[self._pairs.index(self._median)].flops
        of_sample = patch_cost(self._judge, self._median, sample, restart=self._restart).flops
        if not of_sample:
            return 0.0
        seconds = max(0.0, self._seconds(sample) - self._recording) * whole / of_sample
        if (
            self._restart and seconds < _SHORT and len(sample) < len(patches)
        ):  # few patches at once say little about many
            seconds = max(0.0, self._seconds(patches) - self._recording)
        return seconds * sum(cost.flops for cost in group.costs) / whole

    def _seconds(self, chosen: Sequence[Patch], how: Precision | None = None) -> float:
        config, began = self._config, time.perf_counter()
        patch_pair(self._judge, self._median, chosen, direction=config.direction, memory_bytes=config.memory,
                   restart=self._restart, precision=how or self._precision)  # fmt: skip
        return time.perf_counter() - began

    def _of_paths(self, paths: Sequence[Path]) -> float:
        """Estimated seconds of the paths of all pairs, without the recorded runs."""
        judge, config, median, pairs = self._judge, self._config, self._median, self._pairs

        def seconds_of(chosen: Sequence[Path]) -> float:
            began = time.perf_counter()
            patch_paths(judge, median, chosen, direction=config.direction, memory_bytes=config.memory)
            return time.perf_counter() - began

        def flops(chosen: Sequence[Path], of: Sequence[AlignedPair]) -> float:
            return sum(path_cost(judge, pair, chosen).flops for pair in of)

        nothing = seconds_of(paths[:1])  # a direct effect: both runs, and a norm
        between = [path for path in paths if path.receiver != "logits"]
        sample = between[:: max(1, len(between) // _SAMPLED_PATHS)]
        whole, of_sample = flops(between, [median]), flops(sample, [median])
        seconds = max(0.0, seconds_of(sample) - nothing) * whole / of_sample if of_sample else 0.0
        if 0 < seconds < _SHORT and len(sample) < len(between):
            seconds = max(0.0, seconds_of(between) - nothing)
        of_direct = max(0.0, seconds_of([path for path in paths if path.receiver == "logits"]) - nothing)
        return of_direct * len(pairs) + (seconds * flops(between, pairs) / whole if whole else 0.0)


def alike(patches: Sequence[Patch]) -> list[list[Patch]]:
    """The sites of heads, and those of whole layers, at each region or destination; and all sets."""
    groups: dict[object, list[Patch]] = defaultdict(list)
    for patch in patches:
        groups["joint" if isinstance(patch, Joint) else (patch.head is None, patch.region)].append(patch)
    return list(groups.values())


def _sample(group: Sequence[Patch], n_layers: int) -> Sequence[Patch]:
    """Some of those of a few layers; of sets, a few."""
    layers = {n_layers * i // _SAMPLED_LAYERS for i in range(_SAMPLED_LAYERS)}
    sites = [patch for patch in group if not isinstance(patch, Joint) and patch.layer in layers]
    return sites[:: max(1, len(sites) // _SAMPLED_SITES)] or group[:: max(1, len(group) // _SAMPLED_SETS)]
