"""Which activations of one model carry its verdict into another? Patching across models (transfer).

Two models of one shape, a base and what it was tuned into, say, read the same prompt. For each site, the receiver's
run with that one activation taken from the donor's run, at every position of the site's region:

    LD_patched = LD of the receiver, given the donor's activation

The receiver computes all that follows, its final norm and unembedding included. A site that moves the receiver's LD
to the donor's carries what the donor does otherwise; where donor and receiver are one model, nothing moves. Source of
the method: Prakash et al. 2024 (arXiv 2402.14811), who call it cross-model activation patching.

Cost of n sites: one recorded run of each model, and as a sweep of n patches (`relscope.interventions.wavefront`)
whose regions count in full, since both runs may differ from the first token on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from relscope.choices import DEFAULT_MEMORY_BYTES
from relscope.errors import InputError
from relscope.interventions.cost import memory_for_patches, transfer_cost
from relscope.interventions.patching import (
    PatchedPair,
    Swap,
    check_patches,
    logit_diff_of,
    may_restart,
    patch_placed,
    replaces_attention,
)
from relscope.interventions.placing import place_patches
from relscope.interventions.sites import Patch
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair

PromptName = Literal["clean", "corrupted"]
_SAME = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head")


@dataclass(frozen=True)
class Transfer:
    """The model that is patched, and the one that its activations come from.

    Raises:
        InputError: the models differ in shape, in the layout of their layers, in number format or device.
    """

    receiver: JudgeModel
    donor: JudgeModel

    def __post_init__(self) -> None:
        require_same_shape(self.receiver, self.donor)

    def may_restart(self) -> bool:
        """Whether both models' contracts let patched runs be restarted.

        Raises:
            InputError: one of them fails a clause without which patches mean nothing.
        """
        return all([may_restart(self.receiver), may_restart(self.donor)])


def transfer_pair(
    transfer: Transfer,
    pair: AlignedPair,
    patches: Sequence[Patch],
    *,
    prompt: str,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    restart: bool | None = None,
    on_group: Callable[[list[Patch]], None] | None = None,
) -> PatchedPair:
    """Put each patch's activations of the donor into the receiver, alone, on one prompt of a pair. Exact.

    Args:
        transfer: receiver and donor.
        pair: whose tokens are the same for both models.
        patches: sites, each patched alone, and `Joint`s, whose sites are patched together.
        prompt: which prompt of the pair both models read, "clean" or "corrupted".
        memory_bytes: bound on what is held at once beyond the weights, as for `patch_pair`.
        restart: None asks both models' contracts, as `patch_pair` does.
        on_group: called with the patches of each group as soon as they are done.

    Returns:
        The logit differences, float32: `ld_clean` is the donor's own, `ld_corrupted` the receiver's own, on that
        prompt; `ld_patched` the receiver's with each patch.

    Raises:
        InputError: there is no such prompt, a layer or head does not exist, or a region in the pair's prompts, or the
            memory is too little for one patch.
    """
    if prompt not in get_args(PromptName):
        raise InputError(f"prompt {prompt!r} does not exist: a pair has the prompts 'clean' and 'corrupted'")
    check_patches(transfer.receiver, patches)
    restart = transfer.may_restart() if restart is None else restart
    read = pair.clean if prompt == "clean" else pair.corrupted
    for_patches = memory_for_patches(memory_bytes, [transfer_cost(transfer.receiver, pair, patches, restart=restart)])
    keep_attention = restart or replaces_attention(patches)
    base = transfer.receiver.record(read.ids, for_restart=keep_attention)
    source = transfer.donor.record(read.ids, for_restart=keep_attention)
    swap = Swap(read.ids, pair.answer_ids, base, source, place_patches(read, patches, 0))

    def told(_number: int, group: list[Patch]) -> None:
        if on_group is not None:
            on_group(group)

    (ld_patched,) = patch_placed(transfer.receiver, [swap], restart=restart, memory_bytes=for_patches, on_group=told)
    return PatchedPair(
        pair.pair_id,
        float(logit_diff_of(transfer.donor, source, pair.answer_ids)),
        float(logit_diff_of(transfer.receiver, base, pair.answer_ids)),
        ld_patched,
    )


def require_same_shape(first: JudgeModel, second: JudgeModel) -> None:
    """Refuse two models whose activations do not fit each other's places.

    The vocabularies may differ in size: a tuned model often has a few tokens more.

    Raises:
        InputError: names what differs.
    """
    differing = [
        f"{name} {getattr(first.shape, name)} and {getattr(second.shape, name)}"
        for name in _SAME
        if getattr(first.shape, name) != getattr(second.shape, name)
    ]
    if first.architecture != second.architecture:
        differing.append(f"layers like {first.architecture.name} and like {second.architecture.name}")
    for name in ("dtype", "device"):
        if getattr(first, name) != getattr(second, name):
            differing.append(f"{name} {getattr(first, name)} and {getattr(second, name)}")
    if differing:
        raise InputError(
            f"models {first.identity.name!r} and {second.identity.name!r} differ in {', '.join(differing)}: "
            "activations can only go from one model to another of the same shape"
        )
