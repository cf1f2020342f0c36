"""Which sites cause the verdict of a pair? Exact activation patching.

For each site, the base run with that one activation taken from the source run (or for several sites together, all of
theirs):

    denoise: base = corrupted, source = clean        noise: base = clean, source = corrupted

and the logit difference LD = logit(yes) - logit(no) that results. Source of the method: Liu, Mao and Wen 2025
(arXiv 2504.07898), experiments 1 and 3.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from relscope.errors import InputError
from relscope.interventions.full_pass import full_pass
from relscope.interventions.placing import PlacedPatch, place_patches
from relscope.interventions.sites import Direction, Patch, sites_of
from relscope.interventions.wavefront import Job, sweep
from relscope.models import ATTENTION_COMPONENTS, KV_HEAD_COMPONENTS, JudgeModel, RecordedRun
from relscope.prompts import AlignedPair

DEFAULT_MEMORY_BYTES = 1 << 30


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
    on_group: Callable[[list[Patch]], None] | None = None,
) -> PatchedPair:
    """Apply each patch to one pair, alone, and measure the verdict. Exact: nothing is approximated.

    Args:
        judge: the model.
        pair: clean and corrupted prompt of equal length.
        patches: sites, each patched alone, and `Joint`s, whose sites are patched together.
        direction: "denoise" patches clean values into the corrupted run, "noise" the reverse.
        memory_bytes: bound on the patched activations held at once (the weights, the two recorded runs and the
            temporaries of one chunk of about 1000 rows come on top).
        restart: None asks the model's contract: restart where it holds, else the plain way, one full forward pass for
            each patch, with a warning. True and False decide it.
        on_group: called with the patches of each group as soon as they are done.

    Returns:
        The logit differences, float32. A patch whose positions all lie before the first differing token is not
        computed: nothing can change there, and its patched LD is the base run's.

    Raises:
        InputError: a site's layer or head does not exist in the model, a region in the pair's prompts, or the model
            fails a clause of the contract without which patches mean nothing.
    """
    check_patches(judge, patches)
    if restart is None:
        restart = may_restart(judge)
    keep_attention = restart or replaces_attention(patches)
    clean, corrupted = (judge.record(run.ids, for_restart=keep_attention) for run in (pair.clean, pair.corrupted))
    if direction == "denoise":
        swap = Swap(judge, pair.corrupted.ids, pair.answer_ids, base=corrupted, source=clean)
    else:
        swap = Swap(judge, pair.clean.ids, pair.answer_ids, base=clean, source=corrupted)
    placed = place_patches(pair.clean, patches, pair.differing[0])
    return PatchedPair(
        pair.pair_id,
        float(logit_diff_of(judge, clean, pair.answer_ids)),
        float(logit_diff_of(judge, corrupted, pair.answer_ids)),
        patch_placed(swap, placed, restart=restart, memory_bytes=memory_bytes, on_group=on_group),
    )


@dataclass(frozen=True)
class Swap:
    """Two recorded runs of equal length: activations of `source` go into `base`.

    Attributes:
        judge: the model of the base run, which computes what follows from a patch.
        ids: the base run's prompt.
        answer_ids: of the positive and of the negative answer.
        base: recorded for restarts where they are wanted.
        source: of the same model or of another one of the same shape.
    """

    judge: JudgeModel
    ids: Sequence[int]
    answer_ids: tuple[int, int]
    base: RecordedRun
    source: RecordedRun


def patch_placed(
    swap: Swap,
    placed: Sequence[PlacedPatch],
    *,
    restart: bool,
    memory_bytes: int,
    on_group: Callable[[list[Patch]], None] | None,
) -> Float[Tensor, "patch"]:
    """LD of the base run with each patch alone; the base run's own where a patch has no positions."""
    judge, base = swap.judge, swap.base
    ld_patched = logit_diff_of(judge, base, swap.answer_ids).repeat(len(placed))
    on_group = on_group or (lambda _patches: None)
    if not restart:
        for number, item in enumerate(placed):
            if item.replacements:
                ld_patched[number] = full_pass(judge, swap.ids, swap.answer_ids, item, swap.source)
                on_group([item.patch])
        return ld_patched
    read_out = functools.partial(_logit_diff, judge, answer_ids=swap.answer_ids)
    for batch in _batches(placed, base.n_positions, judge, memory_bytes):
        groups = [[placed[number] for number in numbers] for numbers in batch]
        values = sweep(judge, [Job(base, swap.source, group, read_out) for group in groups])
        for numbers, of_group in zip(batch, values, strict=True):
            ld_patched[numbers] = of_group
        on_group([item.patch for group in groups for item in group])
    return ld_patched


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
    return _logit_diff(judge, run.resid_post[-1, -1:], answer_ids)


def _logit_diff(judge: JudgeModel, resid: Tensor, answer_ids: tuple[int, int]) -> Tensor:
    logits = judge.answer_logits(resid, answer_ids)
    return (logits[:, 0] - logits[:, 1]).cpu()


def _batches(
    placed: Sequence[PlacedPatch], n_positions: int, judge: JudgeModel, memory_bytes: int
) -> Iterator[list[list[int]]]:
    """Numbers of the patches that are swept together, as many as fit in memory: groups that start at one position."""
    by_start: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(placed):
        if item.replacements:
            by_start[item.start].append(number)
    batch: list[list[int]] = []
    left = memory_bytes
    for start, numbers in by_start.items():
        # Neighbouring layers together: a sweep begins at its lowest layer.
        numbers.sort(key=lambda number: placed[number].layer)
        each = (n_positions - start) * judge.shape.d_model * judge.dtype.itemsize
        first = 0
        while first < len(numbers):
            n_fit = left // each if batch else max(1, left // each)
            if n_fit <= 0:
                yield batch
                batch, left = [], memory_bytes
                continue
            batch.append(numbers[first : first + n_fit])
            left -= len(batch[-1]) * each
            first += n_fit
    if batch:
        yield batch
