"""What of a run is not measured yet? Measures that, pairs together, and stores it: resuming is planned minus stored.

The same for patches within one model and from one model into another; a `Sweep` says which.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from relscope.errors import InputError
from relscope.interventions import Direction, Joint, Patch, PatchCost, PatchedPair, Path, too_little_memory
from relscope.prompts import AlignedPair
from relscope.results import JOINT, KEY_COLUMNS, Run
from relscope.study.joint import set_name
from relscope.study.judging import margin
from relscope.study.paths import path_place
from relscope.study.prepare import Progress

Intervention = Patch | Path
"""What a row is of: a patch, or a path along which one is seen."""
OnGroup = Callable[[AlignedPair, list[Any]], None]
Work = Sequence[tuple[AlignedPair, list[Any]]]

MOST_TOGETHER = 16
# Rows are stored so often at least, where a pair alone does not take longer.
_SECONDS_OF_PART = 60.0
_PLACE = ["component", "layer", "head", "region", "dest", "src"]


@dataclass(frozen=True)
class Sweep:
    """What is measured of each pair, and how.

    Attributes:
        wanted: the sites of each experiment, sets of them, or paths; the experiments of one pair are measured together.
        direction: what the rows say it is.
        patch: measures some sites of some pairs, and tells of each group of them that is done.
        cost: what some sites of one pair cost.
        memory_bytes: bound on what is held at once; recorded runs of pairs measured together take at most half of what
            a chunk of rows leaves.
        most_together: pairs of one part at most, and so what a kill costs; fewer where they would take long.
    """

    wanted: Mapping[str, Sequence[Intervention]]
    direction: Direction
    patch: Callable[[Work, OnGroup], list[PatchedPair]]
    cost: Callable[[AlignedPair, Sequence[Any]], PatchCost]
    memory_bytes: int
    most_together: int = MOST_TOGETHER


def measure_missing(run: Run, sweep: Sweep, pairs: Sequence[AlignedPair], progress: Progress) -> None:
    """Measure and store what is not stored yet; a part of rows for each group of pairs and each experiment."""
    todo = _missing(run, sweep, pairs)
    pairs = [pair for pair in pairs if todo[pair.pair_id]]
    if pairs:
        mark_running(run)
    n_patches = sum(len(todo[pair.pair_id]) for pair in pairs)
    progress.stage(f"patching {n_patches:,} sites of {len(pairs)} pairs")
    work = [(pair, [site for _, site in todo[pair.pair_id]]) for pair in pairs]
    costs = [sweep.cost(pair, sites) for pair, sites in work]
    require_memory(pairs, costs, sweep.memory_bytes)
    progress.start(n_patches, sum(cost.flops for cost in costs))
    n_done = 0

    def on_group(pair: AlignedPair, group: list[Any]) -> None:
        nonlocal n_done
        n_done += len(group)
        progress.advance(len(group), sweep.cost(pair, group).flops)

    for part in _parts(costs, sweep):
        n_done, group = 0, work[part]
        measured = sweep.patch(group, on_group)
        progress.advance(
            max(0, sum(len(sites) for _, sites in group) - n_done), 0.0
        )  # sites that cannot change anything
        rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
        for (pair, sites), patched in zip(group, measured, strict=True):
            experiments = [experiment for experiment, _ in todo[pair.pair_id]]
            for experiment in dict.fromkeys(experiments):
                chosen = [i for i, name in enumerate(experiments) if name == experiment]
                keys = _keys(experiment, pair.pair_id, [sites[i] for i in chosen], sweep.direction)
                rows[experiment].append(_rows(keys, patched, chosen))
        for experiment, of_pairs in rows.items():
            run.write_part(experiment, pd.concat(of_pairs, ignore_index=True))


def _parts(costs: Sequence[PatchCost], sweep: Sweep) -> Iterator[slice]:
    """Neighbouring pairs that are measured together and stored: as many as fit, and as take `_SECONDS_OF_PART` or less.

    How long they take is judged by the part before, and the first part is one pair; so the caller asks for the next
    part when it has stored the one before.
    """
    first, most = 0, 1
    while first < len(costs):
        of_part = next(fitting(costs[first:], sweep.memory_bytes, most))
        part = slice(first, first + of_part.stop)
        began = time.monotonic()
        yield part
        pace = sum(cost.flops for cost in costs[part]) / max(time.monotonic() - began, 1e-9)
        first = part.stop
        work = itertools.accumulate(cost.flops for cost in costs[first : first + sweep.most_together])
        most = max(1, sum(done <= pace * _SECONDS_OF_PART for done in work))


def require_memory(pairs: Sequence[AlignedPair], costs: Sequence[PatchCost], memory_bytes: int) -> None:
    """Refuse a bound that is too low for a pair alone, before any is patched.

    Raises:
        InputError: names the pair that needs most, and how much that is.
    """
    longest = max(range(len(costs)), key=lambda i: costs[i].least_bytes, default=None)
    if longest is not None and costs[longest].least_bytes > memory_bytes:
        raise InputError(f"{pairs[longest].pair_id}: {too_little_memory(memory_bytes, costs[longest])}")


def fitting(costs: Sequence[PatchCost], memory_bytes: int, most_together: int = MOST_TOGETHER) -> Iterator[slice]:
    """Neighbouring pairs that are measured together, as many as fit; at least one."""
    first = taken = 0
    for number, cost in enumerate(costs):
        most = (memory_bytes - cost.chunk_bytes) / 2
        if number > first and (taken + cost.recorded_bytes > most or number - first == most_together):
            yield slice(first, number)
            first, taken = number, 0
        taken += cost.recorded_bytes
    if costs:
        yield slice(first, len(costs))


def mark_running(run: Run) -> None:
    """A finished run that has lost a part is unfinished again, until the part is back."""
    if run.manifest.status != "running":
        run.save_manifest(run.manifest.model_copy(update={"status": "running"}))


def mark_complete(run: Run) -> None:
    """All that was planned is stored."""
    run.save_manifest(run.manifest.model_copy(update={"status": "complete"}))


def _missing(run: Run, sweep: Sweep, pairs: Sequence[AlignedPair]) -> dict[str, list[tuple[str, Intervention]]]:
    """The experiments and sites of each pair whose rows are not on disk."""
    todo: dict[str, list[tuple[str, Intervention]]] = {pair.pair_id: [] for pair in pairs}
    for experiment, sites in sweep.wanted.items() if todo else ():
        planned = pd.concat([_keys(experiment, pair_id, sites, sweep.direction) for pair_id in todo], ignore_index=True)
        for number in run.missing(planned).index.to_numpy(dtype=np.int64):
            todo[str(planned["pair_id"].iloc[number])].append((experiment, sites[int(number) % len(sites)]))
    return todo


def _keys(experiment: str, pair_id: str, patches: Sequence[Intervention], direction: str) -> pd.DataFrame:
    """Key columns of one pair's rows, in the patches' order."""
    places = pd.DataFrame([_place(patch) for patch in patches], columns=_PLACE, dtype=object)
    keys = places.assign(experiment=experiment, pair_id=pair_id, direction=direction)
    return keys[list(KEY_COLUMNS)].astype({"layer": "Int16", "head": "Int16"})


def _place(patch: Intervention) -> dict[str, Any]:
    """What a row says of where its patch is; what it leaves out is null."""
    nothing = dict.fromkeys(_PLACE)
    if isinstance(patch, Path):
        return nothing | path_place(patch)
    if isinstance(patch, Joint):
        lowest = min(site.layer for site in patch.sites)
        return nothing | {"component": JOINT, "layer": lowest, "src": set_name(patch)}
    place = {"component": patch.component, "layer": patch.layer, "head": patch.head}
    if patch.src is not None:
        return nothing | place | {"dest": patch.region, "src": patch.src}
    return nothing | place | {"region": patch.region}


def _rows(keys: pd.DataFrame, patched: PatchedPair, chosen: list[int]) -> pd.DataFrame:
    """Rows of one pair and experiment: its keys with the values of the chosen sites."""
    ld = patched.ld_patched.numpy()[chosen]
    return keys.assign(
        ld_clean=patched.ld_clean,
        ld_corrupted=patched.ld_corrupted,
        ld_patched=ld,
        p_clean=margin(patched.ld_clean),
        p_corrupted=margin(patched.ld_corrupted),
        p_patched=margin(ld),
    )
