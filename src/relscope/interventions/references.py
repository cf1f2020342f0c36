"""What does an ablation put in the place of an activation? Values of other prompts, by where a position stands.

Every position belongs to one region of its prompt (`Prompt.partition`: query, document, instruction, last or other). Of
reference prompts, over the positions p of a region, weighted by the share w(p, b) of p's token that lies in part b of
B equal parts of the region:

    mean, by region              the mean over all positions of the region in all prompts (B = 1)
    mean, by relative position   sum of w(p, b) a(p) / sum of w(p, b) for each part b; B = N_PARTS
    both, in `other`             the mean of each of the template's own tokens, by how many of them stand between it and
                                 the next part: the first of all, at which heads rest, is unlike the others
    mean, fixed                  the mean of each position, of prompts that are all equally long
    resample                     the activations of one other prompt, at the same relative position of the same region

Mean ablation over a reference distribution: Wang et al., arXiv 2211.00593 (2022). The fixed positional mean is that of
Liu, Mao and Wen, arXiv 2504.07898 (2025). Resample ablation: Chan et al., "Causal scrubbing" (2022).

Cost: one forward pass a reference prompt.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relscope.choices import DEFAULT_MEMORY_BYTES, Positions
from relscope.errors import InputError, did_you_mean
from relscope.interventions.ablatable import ABLATED_COMPONENTS, Ablatable, ablatable_sites
from relscope.models import JudgeModel, hook
from relscope.prompts import Prompt

N_PARTS = 10
"""Equal parts of a region in which means by relative position are taken."""


@dataclass(frozen=True)
class Reference:
    """Values of reference prompts, of which each position that is ablated is given one.

    Attributes:
        kind: what was gathered: `mean` or `resample`.
        positions: of means, by what they are distinguished; of `resample`, `relative`.
        n_prompts: how many prompts they are of.
        fingerprint: of the model that read them.
        prompts_sha256: over the prompts' token ids and the places of their parts, in order.
    """

    kind: str
    positions: str
    n_prompts: int
    fingerprint: str
    prompts_sha256: str
    _layout: _Parts | _Fixed | _Donors
    _values: dict[tuple[str, int], Tensor]

    @property
    def identity(self) -> dict[str, Any]:
        """What the values were gathered from, as JSON values; they themselves are rounded by each machine its way."""
        seed = {"seed": self._layout.seed} if isinstance(self._layout, _Donors) else {}
        return {"positions": self.positions, "n_prompts": self.n_prompts, "prompts_sha256": self.prompts_sha256,
                "model_fingerprint": self.fingerprint, **seed}  # fmt: skip

    def cells(self, prompt: Prompt) -> Sequence[int]:
        """The number of each position's value.

        Raises:
            InputError: the reference prompts have none for it, or all are of this prompt's query.
        """
        return self._layout.cells(prompt)

    def values(self, component: str, layer: int) -> Float[Tensor, "cell *width"]:
        """The values of a layer: of `z` [cell, head, d_head], otherwise [cell, d_model].

        Raises:
            InputError: they were not gathered.
        """
        if (component, layer) not in self._values:
            raise InputError(
                f"reference: {component} of layer {layer} was not gathered; "
                "give reference_of the sites that are ablated, or none for all layers"
            )
        return self._values[component, layer]


def reference_of(
    judge: JudgeModel,
    prompts: Sequence[Prompt],
    kind: str = "mean",
    *,
    positions: str = "region",
    sites: Iterable[Ablatable] | None = None,
    seed: int = 0,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> Reference:
    """Gather what ablations of other prompts take their values from. Cost: one forward pass a prompt.

    Args:
        judge: the model.
        prompts: of natural length; all equally long for `fixed`. None of them should be judged under the ablation.
        kind: `mean`: means over the prompts; `resample`: the activations themselves.
        positions: of means: `region`, `relative` (of N_PARTS equal parts of a region) or `fixed` (each position).
        sites: what will be ablated: values of their components and layers alone are kept. None: of all layers, and of
            all components for `mean`, of `z` for `resample`; an ablation that keeps only some sites needs all layers.
        seed: of the choice of the prompt that each prompt is given the activations of (`resample`).
        memory_bytes: what the values may take at most.

    Raises:
        InputError: there are no prompts; they differ in length for `fixed`, or the values take too much memory.
    """
    if kind not in ("mean", "resample"):
        raise InputError(f"kind {kind!r} has no reference: {did_you_mean(kind, ('mean', 'resample'))}")
    if positions not in get_args(Positions):
        raise InputError(f"positions {positions!r} do not exist: {did_you_mean(positions, get_args(Positions))}")
    if not prompts:
        raise InputError("reference: there are no prompts to gather values of")
    judge.contract.require_patching(judge.identity.name)
    if sites is None:
        components = ("z",) if kind == "resample" else ABLATED_COMPONENTS
        kept = [(component, layer) for component in components for layer in range(judge.shape.n_layers)]
    else:
        kept = list(dict.fromkeys((site.component, site.layer) for site in ablatable_sites(judge, sites)))
    layout: _Layout
    if kind == "resample":
        if positions == "fixed":
            raise InputError("positions: a resampled position is found by its relative position; leave positions out")
        positions, layout = "relative", _Donors.of(prompts, seed)
    elif positions == "fixed":
        layout = _Fixed.of(prompts)
    else:
        layout = _Parts.of(prompts, N_PARTS if positions == "relative" else 1)
    _check_memory(judge, kept, layout, memory_bytes)
    gathered = _gather(judge, prompts, kept, layout)
    fingerprint = judge.identity.fingerprint
    return Reference(kind, positions, len(prompts), fingerprint, _prompts_sha256(prompts), layout, gathered)


@dataclass(frozen=True)
class _Parts:
    """Equal parts of each region that some reference prompt has: the cells of one region stand together.

    Each of the template's own tokens has a cell; one that no reference prompt has is given the mean of all of them.
    """

    n_parts: Mapping[str, int]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], n_parts: int) -> _Parts:
        seen = dict.fromkeys(region for prompt in prompts for region in _by_region(prompt))
        parts = {region: 1 if _is_scaffold(region) else n_parts for region in seen}
        return cls({**parts, "other": 1} if any(map(_is_scaffold, seen)) else parts)

    @property
    def n_cells(self) -> int:
        return sum(self.n_parts.values())

    def _cells_of(self, region: str) -> range:
        regions = list(self.n_parts)
        first = sum(self.n_parts[before] for before in regions[: regions.index(region)])
        return range(first, first + self.n_parts[region])

    def cells(self, prompt: Prompt) -> Sequence[int]:
        cells = [0] * len(prompt)
        for region, at in _by_region(prompt).items():
            there = self._cells_of(_found(region, self.n_parts))
            for i, position in enumerate(at):
                cells[position] = there[_same_place(i, len(at), len(there))]
        return cells

    def weights(self, prompt: Prompt) -> Float[Tensor, "pos cell"]:
        """The share of each position's token that lies in each part of its region."""
        weights = torch.zeros(len(prompt), self.n_cells)
        for region, at in _by_region(prompt).items():
            there = self._cells_of(region)
            n, n_parts = len(at), len(there)
            tokens, parts = torch.arange(n)[:, None], torch.arange(n_parts)
            # A region is n * n_parts units long, a token n_parts of them and a part n.
            start = torch.maximum(tokens * n_parts, parts * n)
            stop = torch.minimum((tokens + 1) * n_parts, (parts + 1) * n)
            weights[list(at), there.start : there.stop] = (stop - start).clamp(min=0) / n_parts
            if _is_scaffold(region):
                weights[list(at), self._cells_of("other").start] = 1.0
        return weights


@dataclass(frozen=True)
class _Fixed:
    """Each position of prompts that are all equally long."""

    n_cells: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> _Fixed:
        lengths = {len(prompt) for prompt in prompts}
        if len(lengths) > 1:
            raise InputError(
                f"positions: fixed needs reference prompts of one length; they have {min(lengths)} to {max(lengths)} "
                "tokens; choose region or relative for prompts of natural length"
            )
        return cls(lengths.pop())

    def cells(self, prompt: Prompt) -> Sequence[int]:
        if len(prompt) != self.n_cells:
            raise InputError(
                f"a prompt has {len(prompt)} tokens and the reference's fixed positions are of {self.n_cells}; "
                "choose region or relative for prompts of natural length"
            )
        return range(self.n_cells)

    def weights(self, _prompt: Prompt) -> Float[Tensor, "pos cell"]:
        return torch.eye(self.n_cells)


@dataclass(frozen=True)
class _Donors:
    """Each position of each reference prompt; a prompt is given those of one whose query is another."""

    seed: int
    n_cells: int
    first: tuple[int, ...]  # cell of each prompt's first position
    queries: tuple[tuple[int, ...], ...]
    places: tuple[dict[str, list[int]], ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], seed: int) -> _Donors:
        first = [0]
        for prompt in prompts:
            first.append(first[-1] + len(prompt))
        places = tuple(map(_by_region, prompts))
        for of, prompt in zip(places, prompts, strict=True):
            if scaffold := [i for i, region in enumerate(prompt.partition()) if region == "other"]:
                of["other"] = scaffold
        return cls(seed, first[-1], tuple(first[:-1]), tuple(map(_query_of, prompts)), places)

    def cells(self, prompt: Prompt) -> Sequence[int]:
        query = _query_of(prompt)
        others = [i for i, of in enumerate(self.queries) if of != query]
        if not others:
            raise InputError("reference: all prompts have the query of a prompt that is judged; give some of others")
        # Drawn from the prompt itself: neither the order of prompts nor their batches change what it is given.
        donor = random.Random(f"{self.seed} {prompt.ids}").choice(others)
        cells = [0] * len(prompt)
        for region, at in _by_region(prompt).items():
            there = self.places[donor][_found(region, self.places[donor])]
            for i, position in enumerate(at):
                cells[position] = self.first[donor] + there[_same_place(i, len(at), len(there))]
        return cells


_Layout = _Parts | _Fixed | _Donors


def _gather(
    judge: JudgeModel, prompts: Sequence[Prompt], kept: Sequence[tuple[str, int]], layout: _Layout
) -> dict[tuple[str, int], Tensor]:
    """Means, or the activations themselves, of each component and layer that is kept; on the CPU."""
    if isinstance(layout, _Donors):
        parts: dict[tuple[str, int], dict[int, Tensor]] = defaultdict(dict)
        for batch, seen in _passes(judge, prompts, kept):
            for place, values in seen.items():
                parts[place].update({i: values[row, : len(prompts[i])].cpu() for row, i in enumerate(batch)})
        return {place: torch.cat([of[i] for i in range(len(prompts))]) for place, of in parts.items()}
    sums: dict[tuple[str, int], Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    totals = torch.zeros(layout.n_cells, dtype=torch.float64)
    for batch, seen in _passes(judge, prompts, kept):
        weights = [layout.weights(prompts[i]) for i in batch]
        at = nn.utils.rnn.pad_sequence(weights, batch_first=True).flatten(0, 1)  # none at padding
        totals += at.sum(dim=0, dtype=torch.float64)
        for place, values in seen.items():
            of_cells = torch.tensordot(at.T.to(values.device), values.flatten(0, 1).float(), dims=1)
            sums[place] = sums[place] + of_cells.cpu().double()
    # A cell that no position lies in has no mean, and is never asked for.
    return {place: (of / totals.clamp(min=1e-9).view(-1, *[1] * (of.dim() - 1))).float() for place, of in sums.items()}


def _passes(
    judge: JudgeModel, prompts: Sequence[Prompt], kept: Sequence[tuple[str, int]]
) -> Iterator[tuple[list[int], dict[tuple[str, int], Tensor]]]:
    """Batches of prompts, by their numbers, and what layers compute of them."""
    for batch in judge.batches([prompt.ids for prompt in prompts]):
        padded = judge.padded([prompts[i].ids for i in batch])
        with _seeing(judge, kept) as seen, torch.no_grad():
            judge.decoder(input_ids=padded, use_cache=False)
        yield batch, seen


@contextlib.contextmanager
def _seeing(judge: JudgeModel, kept: Sequence[tuple[str, int]]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """What layers compute within the context."""
    seen: dict[tuple[str, int], Tensor] = {}
    with contextlib.ExitStack() as stack:
        for component, layer in kept:

            def keep(name: str, values: Tensor, _n_behind: int = 0, /, layer: int = layer) -> Tensor:
                seen[name, layer] = values
                return values

            stack.callback(hook(judge.layers[layer], component, judge.shape.n_heads, keep).remove)
        yield seen


def _check_memory(judge: JudgeModel, kept: Sequence[tuple[str, int]], layout: _Layout, memory_bytes: int) -> None:
    shape = judge.shape
    width = sum(shape.n_heads * shape.d_head if component == "z" else shape.d_model for component, _ in kept)
    needed = 4 * layout.n_cells * width
    if isinstance(layout, _Donors):
        less = "fewer reference prompts (--reference of relscope circuit), or means of them (--kind mean)"
    else:
        less = "or means by region (--positions region) of fewer layers (sites)"
    if needed > memory_bytes:
        raise InputError(
            f"memory: {memory_bytes / 2**20:.3g} MiB are too little for the reference's values, which take up to "
            f"{math.ceil(needed / 2**20)} MiB: give at least that (--memory, in Python memory_bytes), {less}"
        )


def _prompts_sha256(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        parts = {name: (span.start, span.stop) for name, span in prompt.parts.items()}
        digest.update(json.dumps([prompt.ids, parts], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _by_region(prompt: Prompt) -> dict[str, list[int]]:
    """Positions of each region that the prompt has; each of the template's own tokens is one by itself.

    It is named by its place before the next part. Counted from there, because a tokenizer may take the first of them
    into the part before, as a line break into a full stop.
    """
    at: dict[str, list[int]] = defaultdict(list)
    following, n_between = "", 0
    for position, region in reversed(list(enumerate(prompt.partition()))):
        if region == "other":
            n_between += 1
            at[f"other {n_between} before {following}"].append(position)
        else:
            following, n_between = region, 0
            at[region].append(position)
    return {region: positions[::-1] for region, positions in at.items()}


def _same_place(i: int, n: int, n_there: int) -> int:
    """Which of `n_there` equal parts the middle of the i-th of n equal parts lies in."""
    return (2 * i + 1) * n_there // (2 * n)


def _query_of(prompt: Prompt) -> tuple[int, ...]:
    """A prompt's query, as its tokens."""
    return tuple(prompt.ids[position] for position in prompt.parts.get("query", ()))


def _is_scaffold(region: str) -> bool:
    return region.startswith("other ")


def _found(region: str, seen: Collection[str]) -> str:
    """The region among those seen; of a token of the template that none of them is, all its tokens."""
    if _is_scaffold(region) and region not in seen:
        region = "other"
    if region not in seen:
        raise InputError(
            f"reference: it has no value for region {region!r} of a prompt that is judged; "
            "give reference prompts of the same template"
        )
    return region
