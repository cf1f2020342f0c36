"""What will a study cost, before it starts?

Counts patches, recomputed positions and the operations of matrix products (of dense layers), for each experiment. The
time is estimated in `relscope.study.plan_times`. Readouts patch nothing: they take two forward passes a pair, for both
of them together. Which heads `joint` and `paths` take is not known before `heads` is
measured: as many are counted as they take, evenly over the layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from relscope.interventions import Patch, PatchCost, Path, Site, patch_cost, path_cost
from relscope.models import ModelShape
from relscope.results import EXACT_SAMPLE, JOINT, PATHS
from relscope.study.config import StudyConfig
from relscope.study.experiments import READOUTS
from relscope.study.joint import head_site, joint_sets, spread_heads
from relscope.study.measuring import fitting, require_memory
from relscope.study.paths import direct_paths, paths_between
from relscope.study.plan_times import Alike, PlannedTimes, Stopwatch, alike
from relscope.study.prepare import Progress, Silent, prepare
from relscope.study.run import exact_sample

SHARED = "verdicts and recorded runs"
"""What all experiments of a study share."""
_SUMMED = ("n_patches", "n_positions", "flops", "full_pass_flops", "patches_bytes")


@dataclass(frozen=True)
class PlannedPart:
    """What one experiment takes, without the recorded runs, which it shares with others; time in seconds.

    The readouts are one part: the recorded runs that they read, which are their own.
    """

    name: str
    n_patches: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a study will do. Times in seconds, memory in bytes beyond the model's weights.

    `parts` are the experiments, and what they share (`SHARED`): patches, operations and seconds are their sums.
    `full_pass_seconds` is what one full forward pass for each patch would take, from one measured pass.
    """

    n_pairs: int
    n_excluded: int
    n_tokens: int
    n_positions: int
    full_pass_flops: float
    memory_bytes: int
    full_pass_seconds: float
    weights_bytes: int
    parts: tuple[PlannedPart, ...]

    @property
    def n_patches(self) -> int:
        """Patches whose effect is computed; the others cannot change anything."""
        return sum(part.n_patches for part in self.parts)

    @property
    def flops(self) -> float:
        """Floating-point operations of patches and recorded runs."""
        return sum(part.flops for part in self.parts)

    @property
    def seconds(self) -> float:
        """Estimated time, from the first verdict to the last patch."""
        return sum(part.seconds for part in self.parts)


def plan_study(config: StudyConfig, progress: Progress | None = None) -> Plan:
    """Count and time a study without running it. The filter is not applied: it needs the verdicts.

    Raises:
        InputError: data or model cannot be used.
    """
    progress = Silent() if progress is None else progress
    prepared = prepare(config, progress)
    judge, pairs = prepared.judge, prepared.aligned
    restart, precision = prepared.contract.restartable, prepared.precision(config)
    wanted, paths = _patches(config, judge.shape), _paths(config, judge.shape)
    patches = [patch for of in wanted.values() for patch in of]
    progress.stage(f"counting {(len(patches) + len(paths)) * len(pairs):,} patches")
    groups = [
        Alike(name, of, [patch_cost(judge, pair, of, restart=restart, precision=precision) for pair in pairs])
        for name, chosen in wanted.items()
        for of in alike(chosen)
    ]
    of_nothing = [patch_cost(judge, pair, [], restart=restart, precision=precision) for pair in pairs]
    of_patches = [_sum(costs) for costs in zip(of_nothing, *(group.costs for group in groups), strict=True)]
    of_paths = [path_cost(judge, pair, paths) for pair in pairs] if paths else []
    for of in (of_patches, of_paths):
        require_memory(pairs, of, config.memory)
    costs = of_patches + of_paths
    counted = {name: [cost for group in groups if group.name == name for cost in group.costs] for name in wanted}
    counted |= {PATHS: of_paths} if paths else {}
    if precision == "delta" and patches:
        sample, of_sample = exact_sample(config, wanted, pairs)
        counted[EXACT_SAMPLE] = [patch_cost(judge, pair, sample, restart=restart) for pair in of_sample]
    n_recorded = _recordings(config, paths)
    times = Stopwatch(config, prepared, progress).times(groups, paths, n_recorded)
    recording_flops = sum(cost.recording_flops for cost in of_patches)
    parts = [PlannedPart(SHARED, 0, recording_flops * n_recorded, times.shared), *_parts(counted, times)]
    if readouts := [name for name in READOUTS if name in config.experiments.chosen]:
        name = f"{' and '.join(readouts)} (two passes a pair)"
        parts.append(PlannedPart(name, 0, recording_flops, times.recording))
    return Plan(
        n_pairs=len(pairs),
        n_excluded=len(prepared.exclusions) + len(prepared.loaded.refused),
        n_tokens=sum(2 * len(pair.clean.ids) for pair in pairs),
        n_positions=sum(cost.n_positions for cost in costs),
        full_pass_flops=sum(cost.full_pass_flops for cost in costs),
        memory_bytes=min(config.memory, _memory(of_patches, of_paths, config.memory)),
        full_pass_seconds=times.full_pass * (len(patches) + len(paths)) * len(pairs),
        weights_bytes=sum(p.numel() * p.element_size() for p in judge.model.parameters()),
        parts=tuple(parts),
    )


def _sum(costs: Sequence[PatchCost]) -> PatchCost:
    """What all groups of patches of one pair cost together; its runs are recorded once for all of them."""
    sums = {name: sum(getattr(cost, name) for cost in costs) for name in _SUMMED}
    return dataclasses.replace(
        costs[0],
        **sums,
        chunk_bytes=max(cost.chunk_bytes for cost in costs),
        patch_bytes=max(cost.patch_bytes for cost in costs),
    )


def _parts(counted: dict[str, list[PatchCost]], times: PlannedTimes) -> list[PlannedPart]:
    """What each experiment takes."""
    return [
        PlannedPart(name, sum(cost.n_patches for cost in of), sum(cost.flops for cost in of), times.of[name])
        for name, of in counted.items()
    ]


def _patches(config: StudyConfig, shape: ModelShape) -> dict[str, Sequence[Patch]]:
    """What each experiment patches in each pair."""
    wanted: dict[str, Sequence[Patch]] = {**config.sites(shape.n_layers, shape.n_heads)}
    joint, heads = config.experiments.joint, config.experiments.heads
    if joint is not None and joint.heads is not None:
        wanted[JOINT] = joint_sets([head_site(name) for name in joint.heads])
    elif joint is not None and heads is not None:
        wanted[JOINT] = joint_sets(spread_heads(heads.regions, joint.top, shape.n_layers, shape.n_heads))
    return wanted


def _memory(of_patches: Sequence[PatchCost], of_paths: Sequence[PatchCost], memory_bytes: int) -> int:
    """What is held at most at once: patches are measured of several pairs together, paths of one pair at a time."""
    groups = [*(of_patches[part] for part in fitting(of_patches, memory_bytes)), *([cost] for cost in of_paths)]
    return max(map(_together, groups))


def _together(costs: Sequence[PatchCost]) -> int:
    """Memory that pairs take which are measured together, without a bound."""
    return max(cost.chunk_bytes for cost in costs) + sum(cost.recorded_bytes + cost.patches_bytes for cost in costs)


def _paths(config: StudyConfig, shape: ModelShape) -> list[Path]:
    """The paths of each pair, direct effects included."""
    options, heads = config.experiments.paths, config.experiments.heads
    if options is None:
        return []
    spread: list[Site] = []
    if options.chooses and heads is not None:
        spread = spread_heads(heads.regions, options.top, shape.n_layers, shape.n_heads)
    senders, receivers = (
        spread if names is None else [head_site(name) for name in names]
        for names in (options.senders, options.receivers)
    )
    between = paths_between(senders, receivers, options, config.prompt.order)
    return direct_paths(shape.n_layers, shape.n_heads) + between


def _recordings(config: StudyConfig, paths: Sequence[Path]) -> int:
    """How often both runs of a pair are recorded to patch: for all sites, the sets of `joint`, and paths."""
    of_sites = bool(config.sites(1, 1))
    return of_sites + ("joint" in config.experiments.chosen) + bool(paths)
