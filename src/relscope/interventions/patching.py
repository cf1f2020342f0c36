"""Which sites cause the verdict of a pair? Exact activation patching.

For each site, the base run with that one activation taken from the source run:

    denoise: base = corrupted, source = clean        noise: base = clean, source = corrupted

and the logit difference LD = logit(yes) - logit(no) that results. Source of the method: Liu, Mao and Wen 2025
(arXiv 2504.07898), experiments 1 and 3.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from relscope.errors import InputError
from relscope.interventions.full_pass import full_pass_sweep
from relscope.interventions.sites import Direction, Site
from relscope.interventions.wavefront import PlacedSite, items_that_fit, sweep
from relscope.models import JudgeModel, RecordedRun
from relscope.prompts import AlignedPair, Prompt

DEFAULT_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class PatchedPair:
    """Logit differences of one pair: its two runs, and the base run with each site patched, in the sites' order."""

    pair_id: str
    ld_clean: float
    ld_corrupted: float
    ld_patched: Float[Tensor, "site"]


def patch_pair(
    judge: JudgeModel,
    pair: AlignedPair,
    sites: Sequence[Site],
    *,
    direction: Direction = "denoise",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    restart: bool | None = None,
    on_group: Callable[[list[Site]], None] | None = None,
) -> PatchedPair:
    """Patch each site of one pair, alone, and measure the verdict. Exact: nothing is approximated.

    Args:
        judge: the model.
        pair: clean and corrupted prompt of equal length.
        sites: what to patch.
        direction: "denoise" patches clean values into the corrupted run, "noise" the reverse.
        memory_bytes: bound on the patched activations held at once (the weights, the two recorded runs and the
            temporaries of one chunk of about 1000 rows come on top).
        restart: None asks the model's contract: restart where it holds, else the plain way, one full forward pass for
            each site, with a warning. True and False decide it.
        on_group: called with the sites of each group as soon as they are done.

    Returns:
        The logit differences, float32. A site whose positions all lie before the first differing token is not
        computed: nothing can change there, and its patched LD is the base run's.

    Raises:
        InputError: a site's layer or head does not exist in the model, a region in the pair's prompts, or the model
            fails a clause of the contract without which patches mean nothing.
    """
    check_sites(judge, sites)
    if restart is None:
        restart = may_restart(judge)
    clean, corrupted = (judge.record(run.ids, for_restart=restart) for run in (pair.clean, pair.corrupted))
    if direction == "denoise":
        swap = Swap(judge, pair.corrupted.ids, pair.answer_ids, base=corrupted, source=clean)
    else:
        swap = Swap(judge, pair.clean.ids, pair.answer_ids, base=clean, source=corrupted)
    placed = place_sites(pair.clean, sites, pair.differing[0])
    return PatchedPair(
        pair.pair_id,
        float(logit_diff_of(judge, clean, pair.answer_ids)),
        float(logit_diff_of(judge, corrupted, pair.answer_ids)),
        patch_placed(swap, placed, restart=restart, memory_bytes=memory_bytes, on_group=on_group),
    )


@dataclass(frozen=True)
class Swap:
    """Two recorded runs of equal length: activations of `source` go into `base`, one at a time.

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
    placed: Sequence[PlacedSite],
    *,
    restart: bool,
    memory_bytes: int,
    on_group: Callable[[list[Site]], None] | None,
) -> Float[Tensor, "site"]:
    """LD of the base run with each site patched alone; the base run's own where a site has no positions."""
    judge, base = swap.judge, swap.base
    ld_patched = logit_diff_of(judge, base, swap.answer_ids).repeat(len(placed))
    for numbers in _groups(placed, base.n_positions, judge, memory_bytes):
        group = [placed[n] for n in numbers]
        if restart:
            values = sweep(judge, base, swap.source, group, lambda resid: _logit_diff(judge, resid, swap.answer_ids))
        else:
            values = full_pass_sweep(judge, swap.ids, swap.answer_ids, group, swap.source)
        ld_patched[numbers] = values
        if on_group is not None:
            on_group([item.site for item in group])
    return ld_patched


def check_sites(judge: JudgeModel, sites: Sequence[Site]) -> None:
    """Refuse sites that the model does not have.

    Raises:
        InputError: names the first layer or head that does not exist.
    """
    # Out of range, an index would count from the end or drop the site in silence.
    shape = judge.shape
    for site in sites:
        if not 0 <= site.layer < shape.n_layers:
            raise InputError(f"layer {site.layer} does not exist: the model has layers 0 to {shape.n_layers - 1}")
        if site.head is not None and not 0 <= site.head < shape.n_heads:
            raise InputError(f"head {site.head} does not exist: a layer has heads 0 to {shape.n_heads - 1}")


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


def place_sites(prompt: Prompt, sites: Sequence[Site], first: int) -> list[PlacedSite]:
    """The positions that each site patches: its region's, from position `first` on, where the two runs part.

    A site without positions cannot change anything.
    """
    positions = {
        region: tuple(p for p in prompt.region(region) if p >= first) for region in {site.region for site in sites}
    }
    return [PlacedSite(site, positions[site.region]) for site in sites]


def _groups(
    placed: Sequence[PlacedSite], n_positions: int, judge: JudgeModel, memory_bytes: int
) -> Iterator[list[int]]:
    """Numbers of the sites that are swept together: those that begin at one position, as many as fit in memory."""
    by_start: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(placed):
        if item.positions:
            by_start[item.positions[0]].append(number)
    for start, numbers in by_start.items():
        # Neighbouring layers together: a sweep begins at its lowest layer.
        numbers.sort(key=lambda number: placed[number].site.layer)
        n_fit = items_that_fit(judge, n_positions - start, memory_bytes)
        for first in range(0, len(numbers), n_fit):
            yield numbers[first : first + n_fit]
