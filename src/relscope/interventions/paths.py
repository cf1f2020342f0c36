"""Through which receiver does a part act on the verdict, and how much of its effect is direct? Path patching.

The base run, in which one receiver alone sees what the sender writes in the source run:

    1. the receiver reads the residual that the sender has changed, and makes its q, k, v or z of it (`routes`)
    2. they take the place of the base run's, and what comes after the receiver is computed anew
    3. LD is read

The path with the final residual as receiver is the sender's direct effect; its total effect (`patch_pair`) less that is
mediated by later parts. Source: experiment 10 of Liu, Mao and Wen 2025 (arXiv 2504.07898) and, for all that lies
between sender and receiver held fixed, Wang et al. 2022 (arXiv 2211.00593).

Cost of n paths: as a sweep of n patches at their receivers (`relscope.interventions.wavefront`); for the open variant
also a sweep of their senders; the projections of the receiver's layer for each sender. Direct effects cost the two
recorded runs and a final norm each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.choices import DEFAULT_MEMORY_BYTES
from relscope.errors import InputError
from relscope.interventions.cost import RUNS_OF_PATH, memory_for_patches, path_cost
from relscope.interventions.patching import (
    DEVICE_TOO_SMALL,
    PatchedPair,
    check_patches,
    free_memory,
    logit_diff_of,
    read_logit_diff,
)
from relscope.interventions.routes import Path, Route, batches, changed_residuals, find_routes
from relscope.interventions.sites import Direction, Site
from relscope.interventions.wavefront import ROWS_PER_CHUNK, Job, ResidOf, Resumed, changed_rows, sweep
from relscope.models import AlteredHeads, JudgeModel, RecordedRun, Replacement
from relscope.prompts import AlignedPair


def patch_paths(
    judge: JudgeModel,
    pair: AlignedPair,
    paths: Sequence[Path],
    *,
    direction: Direction = "denoise",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> PatchedPair:
    """Let each receiver see its sender's activation of the other run, alone, and measure the verdict.

    Args:
        judge: the model.
        pair: clean and corrupted prompt of equal length.
        paths: each patched alone.
        direction: "denoise" sends clean values into the corrupted run, "noise" the reverse.
        memory_bytes: bound on what is held at once beyond the weights, counted as for `patch_pair`.

    Returns:
        The logit differences, float32, in the paths' order. A path along which nothing can come through is not
        computed, and its LD is the base run's: the receiver's positions lie before the sender's or, in the frozen
        variant, beside them.

    Raises:
        InputError: a layer or head does not exist in the model, a region in the pair's prompts, the model fails a
            clause of the contract without which paths mean nothing, or the memory, that of the bound or of the
            device, is too little for one path.
    """
    check_patches(judge, [site for path in paths for site in (path.sender, path.receiver) if isinstance(site, Site)])
    only_direct = all(path.receiver == "logits" and path.variant == "frozen" for path in paths)
    if only_direct:
        judge.contract.require_readouts(judge.identity.name)
    else:
        judge.contract.require_paths(judge.identity.name)
    max_bytes = memory_for_patches(memory_bytes, [path_cost(judge, pair, paths)]) // RUNS_OF_PATH
    max_rows = max_bytes // (judge.shape.d_model * judge.dtype.itemsize)
    try:
        return _patch_all(judge, pair, paths, direction, for_restart=not only_direct, max_rows=max_rows)
    except torch.OutOfMemoryError:
        raise InputError(DEVICE_TOO_SMALL) from None


def direct_effects(
    judge: JudgeModel,
    pair: AlignedPair,
    sites: Sequence[Site],
    *,
    direction: Direction = "denoise",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> PatchedPair:
    """LD with only the final norm seeing what each site writes in the other run: each later part is as in the base run.

    `ld_patched` less the base run's LD is a site's direct effect on the verdict; what is left of its total effect,
    which `patch_pair` measures, is mediated by later parts. A site has a direct effect at the last token only.

    Args:
        judge: the model; it need not be restartable.
        pair: clean and corrupted prompt of equal length.
        sites: `attn_out`, `mlp_out` or `z`, or `resid_pre` of layer 0, the embedding.
        direction: as for `patch_paths`.
        memory_bytes: as for `patch_paths`.

    Raises:
        InputError: as `patch_paths` does.
    """
    return patch_paths(judge, pair, [Path(site) for site in sites], direction=direction, memory_bytes=memory_bytes)


def _patch_all(
    judge: JudgeModel,
    pair: AlignedPair,
    paths: Sequence[Path],
    direction: Direction,
    *,
    for_restart: bool,
    max_rows: int,
) -> PatchedPair:
    """As `patch_paths`, with `max_rows` rows of d_model held at once of senders, and as many of receivers."""
    routes = find_routes(pair.clean, paths, pair.differing[0], judge.shape.n_layers)
    clean, corrupted = judge.record_all([pair.clean.ids, pair.corrupted.ids], for_restart=for_restart)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    ld_patched = logit_diff_of(judge, base, pair.answer_ids).repeat(len(paths))
    job = Job(base, source, (), functools.partial(read_logit_diff, judge, answer_ids=pair.answer_ids))
    for batch in batches(routes, base.n_positions, max_rows):
        _patch_as_fits(judge, job, batch, max_rows, ld_patched)
    ld_clean, ld_corrupted = (float(logit_diff_of(judge, run, pair.answer_ids)) for run in (clean, corrupted))
    return PatchedPair(pair.pair_id, ld_clean, ld_corrupted, ld_patched)


@dataclass
class _RunsToResume:
    """Runs that wait at their receivers until they fill the memory, and then go on together.

    Attributes:
        judge: the model.
        base: the run that they were made from.
        read_out: as of `Job`.
        max_rows: how many rows of d_model may wait.
        values: where the verdicts go, by the routes' places.
    """

    judge: JudgeModel
    base: RecordedRun
    read_out: Callable[[Tensor], Tensor]
    max_rows: int
    values: Float[Tensor, "path"]
    _waiting: list[tuple[list[int], int, Tensor]] = field(default_factory=list)
    _n_rows: int = 0

    def add(self, places: list[int], layer: int, resid_pre: Float[Tensor, "item suffix d_model"]) -> None:
        """Runs that go on with what a layer reads."""
        n_rows = resid_pre.shape[0] * resid_pre.shape[1]
        if self._waiting and self._n_rows + n_rows > self.max_rows:
            self.resume()
        self._waiting.append((places, layer, resid_pre))
        self._n_rows += n_rows

    def resume(self) -> None:
        """Let all that wait go on to their verdicts; those of one layer and length as one batch."""
        alike: dict[tuple[int, int], list[tuple[list[int], Tensor]]] = defaultdict(list)
        for places, layer, resid_pre in self._waiting:
            alike[layer, resid_pre.shape[1]].append((places, resid_pre))
        self._waiting, self._n_rows = [], 0
        jobs = [Resumed(self.base, layer, torch.cat([resid for _, resid in of]), self.read_out)
                for (layer, _), of in alike.items()]  # fmt: skip
        for of, verdicts in zip(alike.values(), sweep(self.judge, jobs) if jobs else (), strict=True):
            self.values[[place for places, _ in of for place in places]] = verdicts


def _patch_as_fits(
    judge: JudgeModel, job: Job, routes: Sequence[Route], max_rows: int, values: Float[Tensor, "path"]
) -> None:
    """The verdicts of a batch's routes, into `values`; where the device's memory does not suffice, in halves."""
    try:
        _patch_batch(judge, job, routes, _RunsToResume(judge, job.base, job.read_out, max_rows, values))
        return
    except torch.OutOfMemoryError:
        if len(routes) == 1:
            raise
    # Outside the handler, whose traceback keeps what was computed so far. Each half begins at its senders again: a
    # sweep that stopped half-way has overwritten the residuals it was given.
    free_memory(f"{len(routes)} paths at once; they go on in halves. A smaller --memory avoids the attempt")
    half = len(routes) // 2
    for part in (routes[:half], routes[half:]):
        _patch_as_fits(judge, job, part, max_rows // 2, values)


@torch.no_grad()
def _patch_batch(judge: JudgeModel, job: Job, routes: Sequence[Route], runs: _RunsToResume) -> None:
    """Bring each route's run to its receiver, layer by layer, and let it go on from there."""
    job = dataclasses.replace(job, placed=list(dict.fromkeys(route.sender for route in routes)))
    number_of = {sender: number for number, sender in enumerate(job.placed)}
    by_layer: dict[int, dict[int, list[Route]]] = defaultdict(lambda: defaultdict(list))
    for route in routes:
        by_layer[route.receiver.layer][route.reads_from].append(route)
    for layer, resid_of in changed_residuals(judge, job, routes[0].variant, by_layer):
        for first, group in by_layer[layer].items():
            by_sender: dict[int, list[Route]] = defaultdict(list)
            for route in group:
                by_sender[number_of[route.sender]].append(route)
            numbers = sorted(by_sender)
            at_once = max(1, ROWS_PER_CHUNK // (job.base.n_positions - first))
            for n in range(0, len(numbers), at_once):
                part = {number: by_sender[number] for number in numbers[n : n + at_once]}
                _enter_receivers(judge, resid_of, first, part, runs)
    runs.resume()


def _enter_receivers(
    judge: JudgeModel, resid_of: ResidOf, first: int, by_sender: dict[int, list[Route]], runs: _RunsToResume
) -> None:
    """The receivers of one layer read the changed residuals of some senders, from position `first` on."""
    base = runs.base
    resid = resid_of(list(by_sender), first)
    by_receiver: dict[Replacement, list[tuple[int, int]]] = defaultdict(list)
    for item, of_sender in enumerate(by_sender.values()):
        for route in of_sender:
            by_receiver[route.receiver].append((item, route.place))
    layer = next(iter(by_receiver)).layer
    within = [receiver for receiver in by_receiver if receiver.component != "resid_pre"]
    heads = AlteredHeads(judge, layer, resid, base) if within else None
    for receiver, of_receiver in by_receiver.items():
        items, places = map(list, zip(*of_receiver, strict=True))
        if heads is None or receiver.component == "resid_pre":
            rows = receiver.positions
            resid_pre = base.resid_before(layer)[rows[0] :].repeat(len(items), 1, 1)
            changed = resid[items][:, [row - first for row in rows]]
            resid_pre[:, [row - rows[0] for row in rows]] = changed
            runs.add(places, layer, resid_pre)
        else:
            runs.add(places, layer + 1, _after_heads(judge, base, heads, receiver, items))


def _after_heads(
    judge: JudgeModel, base: RecordedRun, heads: AlteredHeads, receiver: Replacement, items: Sequence[int]
) -> Float[Tensor, "item suffix d_model"]:
    """What the receiver's layer hands on, from the first position on at which the receiver changes it."""
    layer = receiver.layer
    rows = list(changed_rows(receiver, base.n_positions))
    if layer == judge.shape.n_layers - 1:
        rows = rows[-1:]  # the last position, of which alone the verdict is read
    block = judge.layers[layer]
    z = heads.z(receiver, items, rows)
    resid_pre = base.resid_pre[layer, rows].expand(len(items), -1, -1)
    resid_post = base.resid_post[layer, rows[0] :].repeat(len(items), 1, 1)
    resid_post[:, [row - rows[0] for row in rows]] = block.after_attention(resid_pre, block.attn_out(z.flatten(-2)))
    return resid_post
