"""What does the judge make of its prompts without some of its parts?

Within the context, what a part computes at its region is replaced by values that say nothing of the prompt:

    mean        the mean over reference prompts (`relscope.interventions.references` says at which positions)
    zero        zero
    resample    what another prompt, of another query, has at the same relative position of the same region

Knocked out is what is named; with `keep_only`, all else of the same components, at all positions. A position is given
the value of its own region, whatever the region was called by which it was chosen (`all`, `query.first`).

Cost: a gather and a selection for each layer that is ablated; nothing is run a second time.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from relscope.choices import Kind
from relscope.errors import InputError, did_you_mean
from relscope.interventions.ablatable import Ablatable, ablatable_sites, check_chosen
from relscope.interventions.references import Reference
from relscope.interventions.sites import Site
from relscope.models import EditFunction, JudgeModel, Treatment, hook
from relscope.prompts import Prompt


@contextlib.contextmanager
def ablated(
    judge: JudgeModel,
    sites: Iterable[Ablatable],
    *,
    kind: str = "mean",
    reference: Reference | None = None,
    keep_only: bool = False,
) -> Iterator[None]:
    """Within the context, `judge.relevance` is that of the model without the sites (with `keep_only`, of them alone).

    Contexts nest: an inner one adds its own ablations, and at a place that both ablate its values stand. Passes that
    are not told where a prompt's regions are (`judge.logit_diff`, ...) are refused within it.

    Args:
        judge: the model.
        sites: of `z`, `attn_out` or `mlp_out`; a head may be given as (layer, head, region), or all as a
            head set or circuit.
        kind: `mean` and `resample` need a reference of that kind; `zero` takes none.
        reference: from `reference_of`, of the same model.
        keep_only: ablate all else of the sites' components (of `z` where there are no sites) at all positions.

    Raises:
        InputError: a site is none of the model's or cannot be ablated, heads were chosen in a model of other shape,
            the reference does not suit, or the model fails the clauses of the contract that patching needs.
    """
    judge.contract.require_patching(judge.identity.name)
    check_chosen(judge, sites)
    ablation = _Ablation(judge, ablatable_sites(judge, sites), _checked_reference(judge, kind, reference), keep_only)
    with contextlib.ExitStack() as stack:
        stack.callback(judge.decoder.register_forward_pre_hook(ablation.refuse_others).remove)
        for component, layer in ablation.places:
            handle = hook(judge.layers[layer], component, judge.shape.n_heads, ablation.edit_of(layer))
            stack.callback(handle.remove)
        judge.edits.append(ablation)
        stack.callback(judge.edits.remove, ablation)
        yield


class _Ablation:
    """A `PositionEdit`. A position's treatment: its cell in the reference, and the number of its set of regions."""

    def __init__(self, judge: JudgeModel, sites: Sequence[Site], reference: Reference | None, keep_only: bool) -> None:
        self._reference, self._keep_only = reference, keep_only
        self._n_heads = judge.shape.n_heads
        self._chosen: dict[tuple[str, int], list[Site]] = defaultdict(list)
        for site in sites:
            self._chosen[site.component, site.layer].append(site)
        self._regions = tuple(dict.fromkeys(site.region for site in sites))
        components = dict.fromkeys(site.component for site in sites) if sites else ("z",)
        everywhere = [(component, layer) for component in components for layer in range(judge.shape.n_layers)]
        self.places: list[tuple[str, int]] = everywhere if keep_only else list(self._chosen)
        self._values = {place: torch.zeros(1) if reference is None else reference.values(*place)
                        for place in self.places}  # fmt: skip
        self._numbers: dict[frozenset[str], int] = {}  # of each set of chosen regions that a position lies in
        self._masks: dict[tuple[str, int], Tensor] = {}
        self._treatments: Int[Tensor, "row pos 2"] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What is ablated and by which values, as JSON values."""
        sites = sorted(
            ([site.component, site.layer, site.region, site.head] for of in self._chosen.values() for site in of),
            key=str,  # a whole layer has no head
        )
        reference = self._reference
        kind, of = ("zero", None) if reference is None else (reference.kind, reference.identity)
        return {"kind": kind, "keep_only": self._keep_only, "sites": sites, "reference": of}

    def treatments(self, prompt: Prompt) -> Sequence[Treatment]:
        """What is done at each position of a prompt."""
        regions_at: list[set[str]] = [set() for _ in range(len(prompt))]
        for region in self._regions:
            for position in prompt.region(region):
                regions_at[position].add(region)
        numbers = [self._numbers.setdefault(frozenset(at), len(self._numbers)) for at in regions_at]
        if self._reference is None or not self.places:
            return [(0, number) for number in numbers]
        # Positions that stay as they are share a cell: prompts may then share them.
        cells = self._reference.cells(prompt)
        return [(cell if at or self._keep_only else 0, number)
                for cell, at, number in zip(cells, regions_at, numbers, strict=True)]  # fmt: skip

    @contextlib.contextmanager
    def applied(self, treatments: Int[Tensor, "row pos 2"]) -> Iterator[None]:
        """Within the context, one pass is ablated."""
        if any(len(mask) < len(self._numbers) for mask in self._masks.values()) or not self._masks:
            self._masks = {place: self._mask(place) for place in self.places}
        self._treatments = treatments
        try:
            yield
        finally:
            self._treatments = None

    def refuse_others(self, *_: Any) -> None:
        """Refuse passes that are not told what is at their positions: they would not be ablated.

        Raises:
            InputError: says how prompts are judged instead.
        """
        if self._treatments is None:
            raise InputError(
                "within ablated(...) prompts are judged by judge.relevance(prompts, answer_ids): "
                "token ids alone do not say where a prompt's regions are"
            )

    def edit_of(self, layer: int) -> EditFunction:
        """What replaces a component of a layer as it is computed."""

        def edit(component: str, values: Tensor, _n_behind: int = 0, /) -> Tensor:
            self.refuse_others()
            assert self._treatments is not None
            place = component, layer
            cells, numbers = self._treatments.to(values.device).unbind(-1)
            self._values[place] = replacing = self._values[place].to(values)  # moved and rounded once
            chosen = self._masks[place].to(values.device)[numbers]
            return torch.where(chosen, replacing if self._reference is None else replacing[cells], values)

        return edit

    def _mask(self, place: tuple[str, int]) -> Bool[Tensor, "set *width"]:
        """What is ablated at positions of each set of regions: of `z` [set, head, 1], otherwise [set, 1]."""
        width = (self._n_heads, 1) if place[0] == "z" else (1,)
        mask = torch.zeros(len(self._numbers), *width, dtype=torch.bool)
        for regions, number in self._numbers.items():
            for site in self._chosen.get(place, ()):
                if site.region in regions:
                    mask[number, slice(None) if site.head is None else site.head] = True
        return ~mask if self._keep_only else mask


def _checked_reference(judge: JudgeModel, kind: str, reference: Reference | None) -> Reference | None:
    if kind not in get_args(Kind):
        raise InputError(f"kind {kind!r} of an ablation does not exist: {did_you_mean(kind, get_args(Kind))}")
    if kind == "zero":
        if reference is not None:
            raise InputError("reference: an ablation to zero takes none; leave it out, or choose mean or resample")
        return None
    if reference is None:
        raise InputError(f"reference: a {kind} ablation needs one: reference_of(judge, prompts, {kind!r})")
    if reference.kind != kind:
        raise InputError(f"reference: it was gathered for {reference.kind!r} and the ablation is {kind!r}")
    if reference.fingerprint != judge.identity.fingerprint:
        raise InputError("reference: it was gathered from another model")
    return reference
