"""What does each patch do to the verdict, exactly, at a fraction of a forward pass for each?

A patch at layer l and positions P changes nothing in earlier layers, and nothing at positions before the first of P:
attention is causal. So the patched runs are recomputed only from layer l and that first position on, all together: of
every component, region and prompt. For each layer, from the lowest patched one to the last:

1. **enter**: patches that begin with what the layer reads, or that replace several activations, join the batch with
   the base run's residual;
2. **advance**: all runs in the batch go through the layer; the keys and values of the prefix are the base run's, shared
   by all; what a patch replaces in this layer is replaced on the way;
3. **join**: patches of one activation of this layer come in with only their patched rows computed: attention as the
   base run computed it, but for the patch, then the output projection and the MLP.

Steps 2 and 3 share chunks of about `ROWS_PER_CHUNK` rows, so that each layer's weights are read once for the whole
batch (a "wavefront"). In the last layer only the last position counts, and the verdict is read from there.

Runs whose residual before some layer is known already (`Resumed`) need step 2 alone. `sweep_to` is a sweep that hands
out what the patched runs have come to, at some layers on its way.

Cost of n patches whose suffix is s of t tokens long: about n * s / (2 t) forward passes, less what is trimmed,
instead of n.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.interventions.placing import PlacedPatch
from relscope.models import (
    ATTENTION_COMPONENTS,
    KV_HEAD_COMPONENTS,
    BaseRows,
    Joining,
    JudgeModel,
    LayerEdits,
    Piece,
    RecordedRun,
    Replacement,
)

# Rows (item x position) that go through a layer at once: fewer do not fill the cores, more do not fit their caches.
ROWS_PER_CHUNK = 1024


@dataclass(frozen=True)
class Job:
    """Patches of one prompt that start at one position.

    Attributes:
        base: the run that is patched.
        source: the run that the values come from; same number of positions.
        placed: the patches.
        read_out: maps the final residual at the last position, [item, d_model], to a value for each item.
    """

    base: RecordedRun
    source: RecordedRun
    placed: Sequence[PlacedPatch]
    read_out: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Resumed:
    """Runs of one prompt that go on from a layer, given what it reads.

    Attributes:
        base: the run that they share all positions with before the given ones.
        layer: the first layer that is recomputed; the model's number of layers if none is.
        resid_pre: what it reads, at the last positions of the prompt; overwritten.
        read_out: as of `Job`.
    """

    base: RecordedRun
    layer: int
    resid_pre: Float[Tensor, "item suffix d_model"]
    read_out: Callable[[Tensor], Tensor]


@torch.no_grad()
def sweep(judge: JudgeModel, jobs: Sequence[Job | Resumed]) -> list[Float[Tensor, "patch"]]:
    """Apply each patch of each job alone and read out the verdict: a value for each of a job's patches, in order."""
    waves = [_Wave(judge, job) if isinstance(job, Job) else _ResumedWave(job) for job in jobs]
    for layer in range(min(wave.first_layer for wave in waves), judge.shape.n_layers):
        for wave in waves:
            wave.enter(layer)
        _advance(judge, waves, layer)
    return [wave.read_out() for wave in waves]


ResidOf = Callable[[Sequence[int], int], Float[Tensor, "item suffix d_model"]]
"""Residuals of some runs, given by their numbers, from a position on: a copy."""


@torch.no_grad()
def sweep_to(judge: JudgeModel, job: Job, layers: Collection[int]) -> Iterator[tuple[int, ResidOf]]:
    """Apply each patch of a job alone, and stop on the way: at each of `layers`, in order, what it reads is handed out.

    The model's number of layers stands for the final residual, of which there is the last position alone. Runs are
    numbered as the job's patches; those that begin at a later layer, or in this one, cannot be asked for.
    """
    wave = _Wave(judge, job)
    for layer in range(wave.first_layer, max(layers) + 1):
        wave.enter(layer)
        if layer in layers:
            yield layer, wave.resid_of
        if layer < max(layers):
            _advance(judge, [wave], layer)


def _advance(judge: JudgeModel, waves: Sequence[_Wave | _ResumedWave], layer: int) -> None:
    """All runs in flight through one layer, where those of this layer join them."""
    at_end = layer == judge.shape.n_layers - 1
    for chunk in _chunks(unit for wave in waves for unit in wave.units(layer, at_end)):
        pieces = [unit for unit in chunk if isinstance(unit.rows, Piece)]
        joining = [unit for unit in chunk if isinstance(unit.rows, Joining)]
        results = judge.advance(
            layer,
            [unit.rows for unit in pieces],  # type: ignore[misc]
            [unit.rows for unit in joining],  # type: ignore[misc]
            only_last=at_end,
        )
        for unit, result in zip((*pieces, *joining), (*results[0], *results[1]), strict=True):
            unit.store(result)


@dataclass(frozen=True)
class _Unit:
    """Rows that go through a layer together, and what is done with them after it."""

    rows: Piece | Joining
    n_rows: int
    store: Callable[[Tensor], object]


def _chunks(units: Iterable[_Unit]) -> Iterator[list[_Unit]]:
    """Units in their order, as many at once as have `ROWS_PER_CHUNK` rows together; at least one."""
    chunk: list[_Unit] = []
    for unit in units:
        if chunk and sum(other.n_rows for other in chunk) + unit.n_rows > ROWS_PER_CHUNK:
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk


class _Wave:
    """The runs of one job that are in flight: slots of one buffer, filled in the order in which patches come in.

    `_number_of` maps a slot back to its place in the job.
    """

    def __init__(self, judge: JudgeModel, job: Job) -> None:
        self._judge, self._job, self._base = judge, job, job.base
        self._start = job.placed[0].start
        self.first_layer = min(item.layer for item in job.placed)
        self._n_suffix = job.base.n_positions - self._start
        first = job.base.resid_pre[self.first_layer]
        self._in_flight = first.new_empty(len(job.placed), self._n_suffix, judge.shape.d_model)
        self._entering: dict[int, list[int]] = defaultdict(list)
        # What whole patches replace: of what a layer reads, and of what it computes; by layer, then by patch.
        self._read: dict[int, dict[int, list[Replacement]]] = defaultdict(lambda: defaultdict(list))
        self._computed: dict[int, dict[int, list[Replacement]]] = defaultdict(lambda: defaultdict(list))
        self._joining: dict[int, dict[Replacement, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, item in enumerate(job.placed):
            if (only := item.alone) is None:
                self._entering[item.layer].append(number)
                for replacement in item.replacements:
                    of = self._read if replacement.component == "resid_pre" else self._computed
                    of[replacement.layer][number].append(replacement)
            else:
                # Patches of one component at the same positions are computed together, whatever their heads.
                self._joining[item.layer][dataclasses.replace(only, head=None)].append(number)
        self._number_of: list[int] = []

    def enter(self, layer: int) -> None:
        """Step 1: whole patches begin with what the base run has before the layer; then `resid_pre` is replaced."""
        resid_pre = self._base.resid_before(layer)
        self._in_flight = self._in_flight.to(resid_pre.device)  # the layers may be on several
        self._take_slots(self._entering[layer], resid_pre)
        for number, replacements in self._read[layer].items():
            slot = self._number_of.index(number)
            for replacement in replacements:
                rows = [p - self._start for p in replacement.positions]
                self._in_flight[slot, rows] = self._job.source.resid_pre[layer, list(replacement.positions)]

    def units(self, layer: int, at_end: bool) -> Iterator[_Unit]:
        """Steps 2 and 3: what goes through the layer, in units of at most `ROWS_PER_CHUNK` rows (or of one item)."""
        in_flight = self._in_flight[: len(self._number_of)]
        yield from _piece_units(in_flight, self._base, at_end, lambda part: self._edits(layer, self._number_of[part]))
        for what, numbers in self._joining[layer].items():
            positions = changed_rows(what, self._base.n_positions)
            if at_end:
                positions = [p for p in positions if p == self._base.n_positions - 1]
            at_once = max(1, ROWS_PER_CHUNK // max(1, len(positions)))
            for first in range(0, len(numbers), at_once):
                unit = self._join(layer, what.component, numbers[first : first + at_once], positions)
                if unit is not None:
                    yield unit

    def resid_of(self, numbers: Sequence[int], first: int) -> Float[Tensor, "item suffix d_model"]:
        """Where some of the runs have come to, from position `first` on, which is not before the job's first one."""
        slot_of = {number: slot for slot, number in enumerate(self._number_of)}
        return self._in_flight[[slot_of[number] for number in numbers], first - self._start :]

    def read_out(self) -> Float[Tensor, "patch"]:
        """The verdicts, in the order of the job's patches."""
        values = self._job.read_out(self._in_flight[:, -1])
        result = torch.empty_like(values)
        result[self._number_of] = values
        return result

    def _take_slots(self, numbers: Sequence[int], begin: Float[Tensor, "pos d_model"]) -> Tensor:
        """Slots for patches, filled with the base run's residual `begin`."""
        n_before = len(self._number_of)
        self._number_of += numbers
        return self._in_flight[n_before : len(self._number_of)].copy_(begin[self._start :])

    def _edits(self, layer: int, numbers: Iterable[int]) -> LayerEdits | None:
        """What the patches in flight replace within this layer, if anything."""
        of_run = [self._computed[layer].get(number, ()) for number in numbers]
        return LayerEdits(self._job.source, of_run) if any(of_run) else None

    def _join(self, layer: int, component: str, numbers: Sequence[int], positions: Sequence[int]) -> _Unit | None:
        """Patches of one component begin with what the base run has after the layer, but for the changed rows."""
        base, source, at = self._base, self._job.source, list(positions)
        slots = self._take_slots(numbers, base.resid_post[layer])
        rows = [p - self._start for p in positions]
        if not rows:
            return None
        block, resid_pre = self._judge.layers[layer], base.resid_pre[layer, at]
        if component == "resid_post":
            slots[:, rows] = source.resid_post[layer, at]
            return None
        if component == "mlp_out":
            slots[:, rows] = resid_pre + base.attn_out[layer, at] + source.mlp_out[layer, at]
            return None
        if component == "attn_out":
            attn_out = source.attn_out[layer, at]
        else:
            z = self._edited_z(layer, component, numbers, positions).flatten(-2)
            if not block.parallel:
                resid_pre = resid_pre.expand(len(numbers), *resid_pre.shape)

                def store(result: Tensor) -> None:
                    slots[:, rows] = result.view(len(numbers), len(rows), -1)

                base_rows = BaseRows(base, len(numbers), at)
                joining = Joining(resid_pre.flatten(0, 1), z.flatten(0, 1), base_rows)
                return _Unit(joining, len(joining.z), store)
            attn_out = block.attn_out(z)
        if block.parallel:  # the MLP reads what no patch of attention changes
            slots[:, rows] = resid_pre + attn_out + base.mlp_out[layer, at]
        else:
            slots[:, rows] = block.after_attention(resid_pre, attn_out)
        return None

    def _edited_z(
        self, layer: int, component: str, numbers: Sequence[int], positions: Sequence[int]
    ) -> Float[Tensor, "item position head d_head"]:
        """Heads' outputs at the positions: the base run's, but for one replacement in each item."""
        base, source, at = self._base, self._job.source, list(positions)
        replacements = [self._job.placed[number].replacements[0] for number in numbers]
        if component in ATTENTION_COMPONENTS:
            # A replacement changes its own head (those of its key/value head), so that one pass serves all of them.
            changed = base.attend_again(layer, at[0], 1, LayerEdits(source, [replacements]))[0, [p - at[0] for p in at]]
        else:
            changed = source.z[layer, at]
        z = base.z[layer, at].repeat(len(numbers), 1, 1, 1)
        items, heads = zip(*((i, head) for i, of in enumerate(replacements) for head in self._heads(of)), strict=True)
        z[list(items), :, list(heads)] = changed[:, list(heads)].transpose(0, 1)
        return z

    def _heads(self, replacement: Replacement) -> Sequence[int]:
        """Heads whose outputs change when one activation within attention is replaced."""
        assert replacement.head is not None
        if replacement.component not in KV_HEAD_COMPONENTS:
            return (replacement.head,)
        group = self._judge.shape.n_heads // self._judge.shape.n_kv_heads
        return range(replacement.head * group, (replacement.head + 1) * group)


class _ResumedWave:
    """The runs of one `Resumed`: nothing is replaced on the way."""

    def __init__(self, job: Resumed) -> None:
        self._base, self._in_flight, self._read_out = job.base, job.resid_pre, job.read_out
        self.first_layer = job.layer

    def enter(self, layer: int) -> None:
        """All runs are there from the first layer on."""
        if layer >= self.first_layer:
            self._in_flight = self._in_flight.to(self._base.resid_pre[layer].device)

    def units(self, layer: int, at_end: bool) -> Iterator[_Unit]:
        """What goes through the layer, in units of at most `ROWS_PER_CHUNK` rows (or of one item)."""
        if layer >= self.first_layer:
            yield from _piece_units(self._in_flight, self._base, at_end, lambda _: None)

    def read_out(self) -> Float[Tensor, "patch"]:
        """The verdicts, in the order of the items."""
        return self._read_out(self._in_flight[:, -1])


def _piece_units(
    in_flight: Float[Tensor, "item suffix d_model"],
    base: RecordedRun,
    at_end: bool,
    edits_of: Callable[[slice], LayerEdits | None],
) -> Iterator[_Unit]:
    """Runs in flight, in units of at most `ROWS_PER_CHUNK` rows (or of one item); the results overwrite them."""
    n_items, n_suffix = in_flight.shape[:2]
    per_unit = max(1, ROWS_PER_CHUNK // n_suffix)
    for first in range(0, n_items, per_unit):
        of_unit = slice(first, min(first + per_unit, n_items))
        part = in_flight[of_unit]
        rows = Piece(part, base, edits_of(of_unit))
        yield _Unit(rows, len(part) * n_suffix, part[:, -1:].copy_ if at_end else part.copy_)


def changed_rows(replacement: Replacement, n_positions: int) -> Sequence[int]:
    """Positions at which a layer's output changes when one of its activations is replaced."""
    if replacement.component in ("k", "v", "k_view", "v_view"):
        return range(replacement.positions[0], n_positions)  # all that may attend to them
    return replacement.positions
