"""Which sites cause the verdict of a pair? Exact activation patching.

For each site, the base run with that one activation taken from the source run (or for several sites together, all of
theirs):

    denoise: base = corrupted, source = clean        noise: base = clean, source = corrupted

and the logit difference LD = logit(yes) - logit(no) that results. Source of the method: Liu, Mao and Wen 2025
(arXiv 2504.07898), experiments 1 and 3.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.choices import DEFAULT_MEMORY_BYTES
from relscope.errors import InputError, did_you_mean
from relscope.interventions.cost import fit_together, memory_for_patches, patch_cost
from relscope.interventions.full_pass import full_pass
from relscope.interventions.placing import PlacedPatch, place_patches
from relscope.interventions.sites import Direction, Patch, Precision, sites_of
from relscope.interventions.wavefront import Job, sweep
from relscope.models import ATTENTION_COMPONENTS, KV_HEAD_COMPONENTS, JudgeModel, RecordedRun
from relscope.prompts import AlignedPair

DEVICE_TOO_SMALL: Final = (
    "the device's memory does not suffice for the recorded runs of one pair and one patched run beside the model; "
    "shorten documents (max_document_tokens), or use another device"
)


@dataclass(frozen=True)
class PatchedPair:
    """Logit differences of one pair: its two runs, and the base run with each patch, in the patches' order."""

    pair_id: str
    ld_clean: float
    ld_corrupted: float
    ld_patched: Float[Tensor, "patch"]


def patch_pair(
    judge: JudgeModel,
    pair: AlignedPair,
    patches: Sequence[Patch],
    *,
    direction: Direction = "denoise",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    restart: bool | None = None,
    precision: Precision = "exact",
) -> PatchedPair:
    """Apply each patch to one pair, alone, and measure the verdict: a real intervention, no gradient's estimate.

    Args:
        judge: the model.
        pair: clean and corrupted prompt of equal length.
        patches: sites, each patched alone, and `Joint`s, whose sites are patched together.
        direction: "denoise" patches clean values into the corrupted run, "noise" the reverse.
        memory_bytes: bound on what is held at once beyond the weights: the recorded runs, patched activations, and the
            temporaries of one chunk of about 1000 rows (counted, not measured; see `PatchCost.least_bytes`).
        restart: None asks the model's contract: restart where it holds, else the plain way, one full forward pass for
            each patch, with a warning. True and False decide it.
        precision: "exact", or "delta": the matrix products of restarts in bfloat16, of differences from the base run,
            which is faster and costs about a percent of the effects (`relscope.models.differences`).

    Returns:
        The logit differences, float32. A patch whose positions all lie before the first differing token is not
        computed: nothing can change there, and its patched LD is the base run's.

    Raises:
        InputError: a site's layer or head does not exist in the model, a region in the pair's prompts, the model
            fails a clause of the contract without which patches mean nothing, it cannot be restarted on differences,
            or the memory is too little for one patch.
    """
    (patched,) = patch_pairs(
        judge,
        [(pair, patches)],
        direction=direction,
        memory_bytes=memory_bytes,
        restart=restart,
        precision=precision,
    )
    return patched


def patch_pairs(
    judge: JudgeModel,
    work: Sequence[tuple[AlignedPair, Sequence[Patch]]],
    *,
    direction: Direction = "denoise",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    restart: bool | None = None,
    precision: Precision = "exact",
    on_group: Callable[[AlignedPair, list[Patch]], None] | None = None,
) -> list[PatchedPair]:
    """As `patch_pair`, of several pairs, each with its own patches: they go through the model together.

    That pays where a pair alone has little to compute, as at the last token. All pairs' recorded runs are held at once;
    where `memory_bytes`, or the device's memory, does not suffice for that, they go one by one. `on_group` is called
    with the patches that are done of a pair.
    """
    if not work:
        return []
    for _, patches in work:
        check_patches(judge, patches)
    if restart is None:
        restart = may_restart(judge)
    check_precision(judge, precision, restart=restart)
    how: dict[str, Any] = {"direction": direction, "restart": restart, "precision": precision, "on_group": on_group}
    costs = [patch_cost(judge, pair, patches, restart=restart, precision=precision) for pair, patches in work]
    if len(work) > 1 and not fit_together(memory_bytes, costs):
        return [patched for item in work for patched in patch_pairs(judge, [item], memory_bytes=memory_bytes, **how)]
    for_patches = memory_for_patches(memory_bytes, costs)
    try:
        return _patch_together(judge, work, memory_bytes=for_patches, **how)
    except torch.OutOfMemoryError:
        if len(work) == 1:
            raise InputError(DEVICE_TOO_SMALL) from None
    # Outside the handler, whose traceback keeps what was computed so far.
    free_memory(f"{len(work)} pairs at once; they go one by one")
    return [patched for item in work for patched in patch_pairs(judge, [item], memory_bytes=memory_bytes, **how)]


def _patch_together(
    judge: JudgeModel,
    work: Sequence[tuple[AlignedPair, Sequence[Patch]]],
    *,
    direction: Direction,
    memory_bytes: int,
    restart: bool,
    precision: Precision,
    on_group: Callable[[AlignedPair, list[Patch]], None] | None,
) -> list[PatchedPair]:
    clean, corrupted = ([getattr(pair, name).ids for pair, _ in work] for name in ("clean", "corrupted"))
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    for_restart = restart or any(replaces_attention(patches) for _, patches in work)
    if precision == "delta":
        runs = judge.record_all(base, for_restart=True, with_products=True) + judge.record_all(source)
    else:
        runs = judge.record_all([*base, *source], for_restart=for_restart)
    swaps = [
        Swap(ids, pair.answer_ids, of_base, of_source, place_patches(pair.clean, patches, pair.differing[0]))
        for (pair, patches), ids, of_base, of_source in zip(work, base, runs, runs[len(work) :], strict=False)
    ]

    def told(number: int, group: list[Patch]) -> None:
        if on_group is not None:
            on_group(work[number][0], group)

    values = patch_placed(judge, swaps, restart=restart, memory_bytes=memory_bytes, on_group=told)
    measured = []
    for (pair, _), swap, ld_patched in zip(work, swaps, values, strict=True):
        ld_base, ld_source = (float(logit_diff_of(judge, run, pair.answer_ids)) for run in (swap.base, swap.source))
        ld_clean, ld_corrupted = (ld_source, ld_base) if direction == "denoise" else (ld_base, ld_source)
        measured.append(PatchedPair(pair.pair_id, ld_clean, ld_corrupted, ld_patched))
    return measured


@dataclass(frozen=True)
class Swap:
    """Two recorded runs of equal length: activations of `source` go into `base`.

    Attributes:
        ids: the base run's prompt.
        answer_ids: of the positive and of the negative answer.
        base: recorded for restarts where they are wanted.
        source: of the same model or of another one of the same shape.
        placed: the patches, each made alone.
    """

    ids: Sequence[int]
    answer_ids: tuple[int, int]
    base: RecordedRun
    source: RecordedRun
    placed: Sequence[PlacedPatch]


def patch_placed(
    judge: JudgeModel,
    swaps: Sequence[Swap],
    *,
    restart: bool,
    memory_bytes: int,
    on_group: Callable[[int, list[Patch]], None],
) -> list[Float[Tensor, "patch"]]:
    """LD of each base run with each of its patches alone; the base run's own where a patch has no positions.

    `on_group` is called with a swap's number and the patches that are done.
    """
    values = [logit_diff_of(judge, swap.base, swap.answer_ids).repeat(len(swap.placed)) for swap in swaps]
    if not restart:
        for number, swap in enumerate(swaps):
            for place, item in enumerate(swap.placed):
                if item.replacements:
                    values[number][place] = full_pass(judge, swap.ids, swap.answer_ids, item, swap.source)
                    on_group(number, [item.patch])
        return values
    for batch in _batches(judge, swaps, memory_bytes):
        jobs = [_job(judge, swaps[group.swap], group.places) for group in batch]
        for group, of_group in zip(batch, _swept(judge, jobs), strict=True):
            values[group.swap][group.places] = of_group
            on_group(group.swap, [swaps[group.swap].placed[place].patch for place in group.places])
    return values


@dataclass(frozen=True)
class _Group:
    """Patches of one swap, by their places in it, that start at one position."""

    swap: int
    places: list[int]


def _job(judge: JudgeModel, swap: Swap, places: Sequence[int]) -> Job:
    read_out = functools.partial(read_logit_diff, judge, answer_ids=swap.answer_ids)
    return Job(swap.base, swap.source, [swap.placed[place] for place in places], read_out)


def _swept(judge: JudgeModel, jobs: Sequence[Job]) -> list[Float[Tensor, "patch"]]:
    """The verdicts of all jobs; where the device's memory does not suffice for all at once, in halves."""
    n_patches = sum(len(job.placed) for job in jobs)
    try:
        return sweep(judge, jobs)
    except torch.OutOfMemoryError:
        if n_patches == 1:
            raise
    free_memory(f"{n_patches} patched runs at once; they go on in halves. A smaller --memory avoids the attempt")
    if len(jobs) > 1:
        half = len(jobs) // 2
        return [*_swept(judge, jobs[:half]), *_swept(judge, jobs[half:])]
    half = n_patches // 2
    parts = (jobs[0].placed[:half], jobs[0].placed[half:])
    return [torch.cat([of for part in parts for of in _swept(judge, [dataclasses.replace(jobs[0], placed=part)])])]


def free_memory(for_what: str) -> None:
    """Hand back what the device holds unused, and warn that its memory does not suffice `for_what`."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(f"the device's memory does not suffice for {for_what}", stacklevel=4)


def check_patches(judge: JudgeModel, patches: Sequence[Patch]) -> None:
    """Refuse sites that the model does not have.

    Raises:
        InputError: names the first layer or head that does not exist.
    """
    # Out of range, an index would count from the end or drop the site in silence.
    shape = judge.shape
    for site in (site for patch in patches for site in sites_of(patch)):
        if not 0 <= site.layer < shape.n_layers:
            raise InputError(f"layer {site.layer} does not exist: the model has layers 0 to {shape.n_layers - 1}")
        of_keys = site.component in KV_HEAD_COMPONENTS
        n_heads, kind = (shape.n_kv_heads, "key/value heads") if of_keys else (shape.n_heads, "heads")
        if site.head is not None and not 0 <= site.head < n_heads:
            raise InputError(f"head {site.head} does not exist: a layer has {kind} 0 to {n_heads - 1}")


def check_precision(judge: JudgeModel, precision: str, *, restart: bool) -> None:
    """Refuse a precision that does not exist, and differences without restarts or of numbers that are rounded.

    Raises:
        InputError: says what would be right.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} does not exist: {did_you_mean(precision, get_args(Precision))}")
    if precision == "delta" and not restart:
        why = "the call forbids them" if judge.contract.restartable else judge.contract.why_not_restartable
        raise InputError(f"precision 'delta' is one of restarts: use 'exact'. {why}")
    if precision == "delta" and judge.dtype != torch.float32:
        dtype = str(judge.dtype).removeprefix("torch.")
        raise InputError(f"precision 'delta' takes differences of float32 activations; the model's are {dtype}")


def replaces_attention(patches: Sequence[Patch]) -> bool:
    """Whether any of the patches replaces what lies inside attention, so that runs must be recorded with it."""
    return any(site.component in ATTENTION_COMPONENTS for patch in patches for site in sites_of(patch))


def may_restart(judge: JudgeModel) -> bool:
    """Whether the model's contract lets patched runs be restarted; warns where it does not.

    Raises:
        InputError: the model fails a clause without which patches mean nothing.
    """
    judge.contract.require_patching(judge.identity.name)
    if not judge.contract.restartable:
        warnings.warn(f"{judge.identity.name}: {judge.contract.why_not_restartable}", stacklevel=3)
    return judge.contract.restartable


def logit_diff_of(judge: JudgeModel, run: RecordedRun, answer_ids: tuple[int, int]) -> Float[Tensor, "1"]:
    """LD of a recorded run."""
    return read_logit_diff(judge, run.resid_post[-1, -1:], answer_ids)


def read_logit_diff(
    judge: JudgeModel, resid: Float[Tensor, "item d_model"], answer_ids: tuple[int, int]
) -> Float[Tensor, "item"]:
    """LD of final residuals, on the CPU."""
    logits = judge.answer_logits(resid, answer_ids)
    return (logits[:, 0] - logits[:, 1]).cpu()


def _batches(judge: JudgeModel, swaps: Sequence[Swap], memory_bytes: int) -> Iterator[list[_Group]]:
    """What is swept together: as many patches as fit in memory, at least one."""
    batch: list[_Group] = []
    left = memory_bytes
    for number, swap in enumerate(swaps):
        by_start: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(swap.placed):
            if item.replacements:
                by_start[item.start].append(place)
        for start, places in by_start.items():
            # Neighbouring layers together: a sweep begins at its lowest layer.
            places.sort(key=lambda place: swap.placed[place].layer)
            each = (swap.base.n_positions - start) * judge.shape.d_model * judge.dtype.itemsize
            first = 0
            while first < len(places):
                n_fit = left // each if batch else max(1, left // each)
                if n_fit <= 0:
                    yield batch
                    batch, left = [], memory_bytes
                    continue
                batch.append(_Group(number, places[first : first + n_fit]))
                left -= len(batch[-1].places) * each
                first += n_fit
    if batch:
        yield batch
