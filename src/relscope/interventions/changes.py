"""How far did each head's output, and each weight, move from one model to another? Readouts.

    head:    ||z_base||, ||z_tuned||, ||z_tuned - z_base||     over the positions of a region, on one prompt
    weight:  ||W_base||, ||W_tuned - W_base||                  Frobenius norms, of each parameter and each head's share

Cost: of heads, one recorded run of each model; of weights, reading both models once, a million values at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from relscope.errors import InputError
from relscope.models import JudgeModel, ParameterPart, RecordedRun, parameter_parts
from relscope.prompts import Prompt

_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class HeadChanges:
    """L2 norms of the heads' outputs in two models, on one prompt, over the positions of each region."""

    regions: tuple[str, ...]
    norm_base: Float[Tensor, "region layer head"]
    norm_tuned: Float[Tensor, "region layer head"]
    distance: Float[Tensor, "region layer head"]


@dataclass(frozen=True)
class WeightChange:
    """Frobenius norms of one parameter, or of a part of it.

    Attributes:
        name: the parameter's name.
        layer: None outside the decoder layers.
        head: None for all of the part; else the query head (parts q and o) or the key/value head (k and v).
        part: "q", "k", "v", "o", "mlp", "norm", "embedding" or "other".
        n_values: how many values the norms are over.
        norm_base: of the base's values.
        norm_change: of the differences, tuned - base.
    """

    name: str
    layer: int | None
    head: int | None
    part: str
    n_values: int
    norm_base: float
    norm_change: float


def head_changes(base: RecordedRun, tuned: RecordedRun, prompt: Prompt, regions: Sequence[str]) -> HeadChanges:
    """How far each head's output `z` moved, over the positions of each region of the prompt that both models read.

    A region without positions has norms of 0.

    Raises:
        InputError: the prompt has no such region, or the runs differ in shape.
    """
    if base.z.shape != tuned.z.shape:
        raise InputError(f"the runs' heads differ in shape: {tuple(base.z.shape)} and {tuple(tuned.z.shape)}")
    first, second = (torch.stack([z.float().cpu() for z in run.z]) for run in (base, tuned))
    positions = [list(prompt.region(region)) for region in regions]

    def norms(z: Tensor) -> Tensor:
        squares = z.square().sum(-1)  # layer pos head
        return torch.stack([squares[:, at].sum(1).sqrt() for at in positions]).cpu()

    return HeadChanges(tuple(regions), norms(first), norms(second), norms(second - first))


@torch.no_grad()
def weight_changes(base: JudgeModel, tuned: JudgeModel) -> list[WeightChange]:
    """How far each parameter moved, and each head's share of q, k, v and o.

    A fused projection is three rows of one name, for q, k and v. Embeddings of two vocabularies are compared where
    both have rows.

    Raises:
        InputError: the models' parameters have other names or sizes.
    """
    changes: list[WeightChange] = []
    for part, ours, theirs in _parts_of_both(base, tuned):
        changes += _changes(part, ours, theirs)
    return changes


def require_comparable_weights(base: JudgeModel, tuned: JudgeModel) -> None:
    """Refuse two models whose weights `weight_changes` would refuse; reads no weights.

    Raises:
        InputError: the models' parameters have other names or sizes.
    """
    _parts_of_both(base, tuned)


def _parts_of_both(base: JudgeModel, tuned: JudgeModel) -> list[tuple[ParameterPart, Tensor, Tensor]]:
    """Every part of the models' parameters, with its values in both."""
    ours, theirs = (dict(judge.model.named_parameters(remove_duplicate=False)) for judge in (base, tuned))
    missing = sorted(
        {name for name, _ in base.model.named_parameters()} - set(theirs)
        | {name for name, _ in tuned.model.named_parameters()} - set(ours)
    )
    if missing:
        raise InputError(f"the weights of both models cannot be compared: only one of them has {missing[0]!r}")
    parts = list(parameter_parts(base))
    names = {part.name for part in parts}
    # What is tied in the base alone has a name of its own in the tuned model only.
    parts += [part for part in parameter_parts(tuned) if part.name not in names]
    return [(part, *_common(part, ours[part.name], theirs[part.name])) for part in parts]


def _common(part: ParameterPart, base: nn.Parameter, tuned: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Both parameters, cut to the rows that both have where they are embeddings."""
    if base.shape != tuned.shape:
        if part.part != "embedding" or base.shape[1:] != tuned.shape[1:]:
            sizes = f"{tuple(base.shape)} and {tuple(tuned.shape)}"
            raise InputError(f"the weights of both models cannot be compared: {part.name!r} has the sizes {sizes}")
        n_rows = min(len(base), len(tuned))
        return base.detach()[:n_rows], tuned.detach()[:n_rows]
    return base.detach(), tuned.detach()


def _changes(part: ParameterPart, base: Tensor, tuned: Tensor) -> Iterator[WeightChange]:
    is_shared = base.data_ptr() == tuned.data_ptr()
    of_base = _squares_along(part.axis, base)
    of_change = torch.zeros_like(of_base) if is_shared else _squares_along(part.axis, base, tuned)
    per_entry = base.numel() // max(1, len(of_base))

    def change(head: int | None, entries: Tensor) -> WeightChange:
        norm_base, norm_change = (float(squares[entries].sum().sqrt()) for squares in (of_base, of_change))
        n_values = len(entries) * per_entry
        return WeightChange(part.name, part.layer, head, part.part, n_values, norm_base, norm_change)

    yield change(None, torch.arange(len(of_base)) if part.entries is None else part.entries)
    for head, entries in enumerate(() if part.heads is None else part.heads):
        yield change(head, entries)


def _squares_along(axis: int, base: Tensor, tuned: Tensor | None = None) -> Float64[Tensor, " entry"]:
    """Sums of squares of `base`, or of `tuned - base`, over all dimensions but one; in float64, on the CPU."""
    if base.dim() < 2:
        base = base.reshape(-1, 1)
        tuned = None if tuned is None else tuned.reshape(-1, 1)
    n_rows = max(1, _VALUES_AT_ONCE // max(1, base[0].numel()))
    over = [dimension for dimension in range(base.dim()) if dimension != axis]
    chunks = []
    for first in range(0, len(base), n_rows):
        values = base[first : first + n_rows].float()
        if tuned is not None:
            values = tuned[first : first + n_rows].float() - values
        chunks.append(values.square().sum(over, dtype=torch.float64).cpu())
    return torch.cat(chunks) if axis == 0 else torch.stack(chunks).sum(0)
