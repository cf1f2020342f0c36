"""What will a study cost, before it starts?

Counts patches, recomputed positions and the operations of matrix products (of dense layers), and estimates the time
from a short measurement: patches of one pair of median length, for each component and region; of a few layers where
all would take seconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from relscope.interventions import Precision, Site, patch_cost, patch_pair
from relscope.prompts import AlignedPair
from relscope.study.config import StudyConfig
from relscope.study.judging import verdicts
from relscope.study.measuring import require_memory
from relscope.study.prepare import Prepared, Progress, Silent, prepare
from relscope.study.run import exact_sample

_SAMPLED_LAYERS = 3
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
    sites = [site for chosen in config.sites(judge.shape.n_layers, judge.shape.n_heads).values() for site in chosen]
    progress.stage(f"counting {len(sites) * len(prepared.aligned):,} patches")
    costs = [patch_cost(judge, pair, sites, restart=restart, precision=precision) for pair in prepared.aligned]
    require_memory(prepared.aligned, costs, config.memory)
    progress.stage("measuring")
    seconds, full_pass = _measure(config, prepared, sites)
    weights = sum(p.numel() * p.element_size() for p in judge.model.parameters())
    return Plan(
        n_pairs=len(prepared.aligned),
        n_excluded=len(prepared.exclusions) + len(prepared.loaded.refused),
        n_patches=sum(cost.n_patches for cost in costs),
        n_tokens=sum(2 * len(pair.clean.ids) for pair in prepared.aligned),
        n_positions=sum(cost.n_positions for cost in costs),
        flops=sum(cost.flops + cost.recording_flops for cost in costs),
        full_pass_flops=sum(cost.full_pass_flops for cost in costs),
        memory_bytes=max(max(cost.least_bytes, min(cost.most_bytes, config.memory)) for cost in costs),
        seconds=seconds,
        full_pass_seconds=full_pass * len(sites) * len(prepared.aligned),
        weights_bytes=weights,
    )


def _measure(config: StudyConfig, prepared: Prepared, sites: list[Site]) -> tuple[float, float]:
    """Estimated seconds of all patches, and measured seconds of one full forward pass."""
    judge, restart, precision = prepared.judge, prepared.contract.restartable, prepared.precision(config)
    pairs = prepared.aligned
    median = sorted(pairs, key=lambda pair: len(pair.clean.ids))[len(pairs) // 2]

    def seconds_of(chosen: list[Site], how: Precision = precision) -> float:
        began = time.perf_counter()
        patch_pair(judge, median, chosen, direction=config.direction, memory_bytes=config.memory, restart=restart,
                   precision=how)  # fmt: skip
        return time.perf_counter() - began

    def flops(chosen: list[Site], of: list[AlignedPair]) -> float:
        return sum(patch_cost(judge, pair, chosen, restart=restart).flops for pair in of)

    layers = {judge.shape.n_layers * i // _SAMPLED_LAYERS for i in range(_SAMPLED_LAYERS)}
    verdicts(judge, [median])  # the first pass of a process is slower than all others, and so are the first patches
    seconds_of(sites[:1])
    began = time.perf_counter()
    verdicts(judge, [median])
    full_pass = (time.perf_counter() - began) / 2
    recording = seconds_of([])
    total = 2 * full_pass * len(pairs) + recording * len(pairs)
    for group in _alike(sites):
        sample = [site for site in group if site.layer in layers] if restart else group[:1]
        whole = flops(group, [median])
        if not whole:
            continue
        seconds = max(0.0, seconds_of(sample) - recording) * whole / max(flops(sample, [median]), 1.0)
        if restart and seconds < _SHORT:  # few patches at once say little about many
            seconds = max(0.0, seconds_of(group) - recording)
        total += seconds * flops(group, pairs) / whole
    if precision == "delta":
        again, of = exact_sample(config, {"": sites}, pairs)
        total += seconds_of(again, "exact") * len(of)
    return total, full_pass


def _alike(sites: list[Site]) -> list[list[Site]]:
    """The sites of each component and region."""
    groups: dict[tuple[str, str, str | None], list[Site]] = defaultdict(list)
    for site in sites:
        groups[site.component, site.region, site.src].append(site)
    return list(groups.values())
