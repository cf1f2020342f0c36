"""What will a study cost, before it starts?

Counts patches, recomputed positions and the operations of matrix products (of dense layers), and estimates the time
from a short measurement: patches of one pair of median length, for each component and region, and paths; of a few
layers where all would take seconds. Which heads `joint` and `paths` take is not known before `heads` is measured: as
many are counted as they take, evenly over the layers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from relscope.interventions import (
    Joint,
    Patch,
    PatchCost,
    Path,
    Precision,
    Site,
    patch_cost,
    patch_pair,
    patch_paths,
    path_cost,
)
from relscope.models import ModelShape
from relscope.prompts import AlignedPair
from relscope.study.config import StudyConfig
from relscope.study.joint import head_site, joint_sets, spread_heads
from relscope.study.judging import verdicts
from relscope.study.measuring import fitting, require_memory
from relscope.study.paths import direct_paths, paths_between
from relscope.study.prepare import Prepared, Progress, Silent, prepare
from relscope.study.run import exact_sample

_SAMPLED_LAYERS = 3
_SAMPLED_SETS = 16
_SAMPLED_PATHS = 48
# Seconds of a group of patches that is measured whole.
_SHORT = 2.0


@dataclass(frozen=True)
class Plan:
    """What a study will do. Times in seconds, memory in bytes beyond the model's weights.

    `full_pass_seconds` is what one full forward pass for each patch would take, from one measured pass.
    """

    n_pairs: int
    n_excluded: int
    n_patches: int
    n_tokens: int
    n_positions: int
    flops: float
    full_pass_flops: float
    memory_bytes: int
    seconds: float
    full_pass_seconds: float
    weights_bytes: int


def plan_study(config: StudyConfig, progress: Progress | None = None) -> Plan:
    """Count and time a study without running it. The filter is not applied: it needs the verdicts.

    Raises:
        InputError: data or model cannot be used.
    """
    progress = Silent() if progress is None else progress
    prepared = prepare(config, progress)
    judge, restart, precision = prepared.judge, prepared.contract.restartable, prepared.precision(config)
    patches, paths = _patches(config, judge.shape), _paths(config, judge.shape)
    progress.stage(f"counting {(len(patches) + len(paths)) * len(prepared.aligned):,} patches")
    of_patches = [patch_cost(judge, pair, patches, restart=restart, precision=precision) for pair in prepared.aligned]
    of_paths = [path_cost(judge, pair, paths) for pair in prepared.aligned] if paths else []
    for of in (of_patches, of_paths):
        require_memory(prepared.aligned, of, config.memory)
    costs = of_patches + of_paths
    recording = sum(cost.recording_flops for cost in of_patches) * _recordings(config, paths)
    progress.stage("measuring")
    seconds, full_pass = _measure(config, prepared, patches, paths)
    weights = sum(p.numel() * p.element_size() for p in judge.model.parameters())
    return Plan(
        n_pairs=len(prepared.aligned),
        n_excluded=len(prepared.exclusions) + len(prepared.loaded.refused),
        n_patches=sum(cost.n_patches for cost in costs),
        n_tokens=sum(2 * len(pair.clean.ids) for pair in prepared.aligned),
        n_positions=sum(cost.n_positions for cost in costs),
        flops=sum(cost.flops for cost in costs) + recording,
        full_pass_flops=sum(cost.full_pass_flops for cost in costs),
        memory_bytes=min(config.memory, _memory(of_patches, of_paths, config.memory)),
        seconds=seconds,
        full_pass_seconds=full_pass * (len(patches) + len(paths)) * len(prepared.aligned),
        weights_bytes=weights,
    )


def _patches(config: StudyConfig, shape: ModelShape) -> list[Patch]:
    """What is patched in each pair."""
    patches: list[Patch] = [site for sites in config.sites(shape.n_layers, shape.n_heads).values() for site in sites]
    joint, heads = config.experiments.joint, config.experiments.heads
    if joint is not None and joint.heads is not None:
        patches += joint_sets([head_site(name) for name in joint.heads])
    elif joint is not None and heads is not None:
        patches += joint_sets(spread_heads(heads.regions, joint.top, shape.n_layers, shape.n_heads))
    return patches


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
    """How often both runs of a pair are recorded: for all sites, the sets of `joint`, paths, and all readouts."""
    chosen = set(config.experiments.chosen)
    of_sites = bool(config.sites(1, 1))
    return of_sites + bool(chosen & {"joint"}) + bool(paths) + bool(chosen & {"interaction", "vocabulary"})


def _measure(
    config: StudyConfig, prepared: Prepared, patches: Sequence[Patch], paths: Sequence[Path]
) -> tuple[float, float]:
    """Estimated seconds of all patches, paths and recorded runs, and measured seconds of one full forward pass."""
    judge, restart, precision = prepared.judge, prepared.contract.restartable, prepared.precision(config)
    pairs = prepared.aligned
    median = sorted(pairs, key=lambda pair: len(pair.clean.ids))[len(pairs) // 2]

    def seconds_of(chosen: Sequence[Patch], how: Precision = precision) -> float:
        began = time.perf_counter()
        patch_pair(judge, median, chosen, direction=config.direction, memory_bytes=config.memory, restart=restart,
                   precision=how)  # fmt: skip
        return time.perf_counter() - began

    def flops(chosen: Sequence[Patch], of: list[AlignedPair]) -> float:
        return sum(patch_cost(judge, pair, chosen, restart=restart).flops for pair in of)

    verdicts(judge, [median])  # the first pass of a process is slower than all others, and so are the first patches
    seconds_of(patches[:1])
    began = time.perf_counter()
    verdicts(judge, [median])
    full_pass = (time.perf_counter() - began) / 2
    recording = seconds_of([])
    total = 2 * full_pass * len(pairs) + recording * _recordings(config, paths) * len(pairs)
    for group in _alike(patches):
        sample = _sample(group, judge.shape.n_layers) if restart else group[:1]
        whole, of_sample = flops(group, [median]), flops(sample, [median])
        if not of_sample:
            continue
        seconds = max(0.0, seconds_of(sample) - recording) * whole / of_sample
        if restart and seconds < _SHORT:  # few patches at once say little about many
            seconds = max(0.0, seconds_of(group) - recording)
        total += seconds * flops(group, pairs) / whole
    if precision == "delta":
        again, of = exact_sample(config, {"": patches}, pairs)
        total += seconds_of(again, "exact") * len(of)
    if paths:
        total += _path_seconds(config, prepared, paths, median)
    return total, full_pass


def _path_seconds(config: StudyConfig, prepared: Prepared, paths: Sequence[Path], median: AlignedPair) -> float:
    """Estimated seconds of the paths of all pairs, without the recorded runs."""
    judge = prepared.judge

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
    if 0 < seconds < _SHORT:
        seconds = max(0.0, seconds_of(between) - nothing)
    of_direct = max(0.0, seconds_of([path for path in paths if path.receiver == "logits"]) - nothing)
    return of_direct * len(prepared.aligned) + (seconds * flops(between, prepared.aligned) / whole if whole else 0.0)


def _alike(patches: Sequence[Patch]) -> list[list[Patch]]:
    """The sites of each component and region, and all sets."""
    groups: dict[object, list[Patch]] = defaultdict(list)
    for patch in patches:
        groups["joint" if isinstance(patch, Joint) else (patch.component, patch.region, patch.src)].append(patch)
    return list(groups.values())


def _sample(group: Sequence[Patch], n_layers: int) -> Sequence[Patch]:
    """Those of a few layers; of sets, a few."""
    layers = {n_layers * i // _SAMPLED_LAYERS for i in range(_SAMPLED_LAYERS)}
    every = max(1, len(group) // _SAMPLED_SETS)
    return [patch for patch in group if not isinstance(patch, Joint) and patch.layer in layers] or group[::every]
