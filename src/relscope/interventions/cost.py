"""What does exact patching cost, before it is done? Floating-point operations, positions recomputed, memory.

Counts matrix products only, two operations for each multiply and add:

    a position through one layer:  2 * (weights of the layer) + 4 * n_heads * d_head * (positions attended to)

A mixture of experts counts the weights of as many experts as a position is sent to. A patch at layer l whose suffix is
s positions long costs the suffix through the layers after l, and the patched rows through the rest of layer l. The full
forward pass, the unit to compare with, is every position through every layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from relscope.errors import InputError
from relscope.interventions.placing import PlacedPatch, place_patches
from relscope.interventions.routes import Path, find_routes
from relscope.interventions.sites import Patch, Precision
from relscope.interventions.wavefront import ROWS_PER_CHUNK, changed_rows
from relscope.models import (
    ATTENTION_COMPONENTS,
    MOST_SCORES,
    TOKENS_RECORDED_AT_ONCE,
    JudgeModel,
    Replacement,
    goes_by_rows,
    linear_modules,
)
from relscope.prompts import AlignedPair

# Copies of a chunk's residuals (read, normed, added...) and of attention's scores that are held at once.
_RESIDUALS_OF_CHUNK = 6
_SCORES_OF_CHUNK = 3
_SCORES_OF_EDITS = 5
# What is held of each path at once: what its sender does, the run that goes on from its receiver, and that run again
# while several are put together.
RUNS_OF_PATH = 3


@dataclass(frozen=True)
class PatchCost:
    """Cost of patching the sites of one pair, each alone.

    Attributes:
        n_tokens: positions of each of the two prompts.
        n_patches: sites whose patch is computed (the others cannot change anything).
        n_positions: positions that are recomputed, summed over patches and layers.
        flops: floating-point operations of the patches.
        recording_flops: operations of the two recorded runs.
        full_pass_flops: operations of one full forward pass a patch, for comparison.
        recorded_bytes: memory of the two recorded runs.
        chunk_bytes: memory of the temporaries of one chunk of rows (of one full pass, without restarts), whatever the
            number of pairs.
        patch_bytes: memory of the patched activations of one patch, at most.
        patches_bytes: memory of the patched activations of all patches at once.
    """

    n_tokens: int
    n_patches: int
    n_positions: int
    flops: float
    recording_flops: float
    full_pass_flops: float
    recorded_bytes: int
    chunk_bytes: int
    patch_bytes: int
    patches_bytes: int

    @property
    def least_bytes(self) -> int:
        """Memory beyond the weights without which the pair cannot be patched."""
        return self.recorded_bytes + self.chunk_bytes + self.patch_bytes


def patch_cost(
    judge: JudgeModel,
    pair: AlignedPair,
    patches: Sequence[Patch],
    *,
    restart: bool,
    precision: Precision = "exact",
) -> PatchCost:
    """Count what `patch_pair` will do for one pair; with delta, products weigh less than they count."""
    placed = place_patches(pair.clean, patches, pair.differing[0])
    with_products = restart and precision == "delta"
    return _cost(judge, placed, len(pair.clean.ids), restart=restart, with_products=with_products)


def transfer_cost(receiver: JudgeModel, pair: AlignedPair, patches: Sequence[Patch], *, restart: bool) -> PatchCost:
    """Count what `transfer_pair` will do for one prompt of one pair."""
    return _cost(receiver, place_patches(pair.clean, patches, 0), len(pair.clean.ids), restart=restart)


def path_cost(judge: JudgeModel, pair: AlignedPair, paths: Sequence[Path]) -> PatchCost:
    """Count what `patch_paths` will do for one pair: each path is a patch at its receiver, after the sender's share.

    That share is the projections of the receiver's layer and, of open paths, the layers in between.
    """
    routes = find_routes(pair.clean, paths, pair.differing[0], judge.shape.n_layers)
    n_tokens, per_layer = len(pair.clean.ids), _Layer(judge)
    at_receivers = [PlacedPatch(route.sender.patch, (route.receiver,)) for route in routes]
    cost = _cost(judge, at_receivers, n_tokens, restart=True)
    flops, n_between = 0.0, 0
    within = {
        (route.sender, route.variant, route.receiver.layer, route.reads_from)
        for route in routes
        if route.receiver.component != "resid_pre"
    }
    flops += sum(n_tokens - first for *_, first in within) * per_layer.projections
    # Attention of the one head, which a patch of its output does not compute.
    first_rows = [route.receiver.positions[0] for route in routes if route.receiver.component == "z"]
    flops += sum(n_tokens - first for first in first_rows) * per_layer.attended(n_tokens) / per_layer.n_heads
    last_reader: dict[PlacedPatch, int] = {}
    for route in routes:
        if route.variant == "open":
            last_reader[route.sender] = max(route.receiver.layer, last_reader.get(route.sender, 0))
    for sender, last in last_reader.items():
        n_layers = last - sender.layer
        if only := sender.alone:
            n_layers -= 1
            flops += _patched_layer(per_layer, only, n_tokens, at_end=False)
        n_between += n_layers * (n_tokens - sender.start)
    suffixes = [n_tokens - sender.start for sender in {route.sender for route in routes}]
    of_position = judge.shape.d_model * judge.dtype.itemsize
    patch_bytes = RUNS_OF_PATH * max(suffixes, default=0) * of_position
    return dataclasses.replace(
        cost,
        flops=cost.flops + flops + n_between * per_layer.row(n_tokens),
        n_positions=cost.n_positions + n_between,
        patch_bytes=patch_bytes,
        patches_bytes=max(patch_bytes, sum(suffixes) * of_position + (RUNS_OF_PATH - 1) * cost.patches_bytes),
    )


def fit_together(memory_bytes: int, costs: Sequence[PatchCost]) -> bool:
    """Whether a bound holds the recorded runs of several pairs at once, and one patch beside them.

    And beside them a copy of as many as are recorded at once: what prompts begin with may be run once, and put before
    each.
    """
    longest = max(costs, key=lambda of: of.n_tokens)
    copied = longest.recorded_bytes / (2 * longest.n_tokens) * max(TOKENS_RECORDED_AT_ONCE, longest.n_tokens)
    recorded = sum(of.recorded_bytes for of in costs)
    if len(costs) > 1 and memory_bytes < recorded + min(recorded, copied):
        return False
    return _memory_left(memory_bytes, costs) >= max(of.patch_bytes for of in costs)


def memory_for_patches(memory_bytes: int, costs: Sequence[PatchCost]) -> int:
    """What a bound leaves for patched activations when pairs are patched together.

    Raises:
        InputError: it is too little for one patch; says what would do for the first pair.
    """
    if not fit_together(memory_bytes, costs):
        raise InputError(too_little_memory(memory_bytes, costs[0]))
    return _memory_left(memory_bytes, costs)


def _memory_left(memory_bytes: int, costs: Sequence[PatchCost]) -> int:
    return memory_bytes - max(of.chunk_bytes for of in costs) - sum(of.recorded_bytes for of in costs)


def too_little_memory(memory_bytes: int, cost: PatchCost) -> str:
    """What a user is told about a bound that is too low for one pair."""
    mib = {name: f"{math.ceil(getattr(cost, f'{name}_bytes') / 2**20)} MiB" for name in ("recorded", "chunk", "least")}
    return (
        f"memory: {memory_bytes / 2**20:.3g} MiB are too little for a pair of {cost.n_tokens} tokens: its two recorded "
        f"runs take {mib['recorded']}, a chunk of rows {mib['chunk']}; give at least {mib['least']}, or cut documents "
        "(max_document_tokens)"
    )


def _cost(
    judge: JudgeModel, placed: Sequence[PlacedPatch], n_tokens: int, *, restart: bool, with_products: bool = False
) -> PatchCost:
    shape = judge.shape
    per_layer = _Layer(judge)
    row = per_layer.row(n_tokens)
    full_pass = n_tokens * shape.n_layers * row
    placed = [item for item in placed if item.replacements]
    flops, n_positions = 0.0, 0
    suffixes = [0]
    for item in placed:
        if not restart:
            flops += full_pass
            n_positions += n_tokens * shape.n_layers
            continue
        n_suffix = n_tokens - item.start
        n_after = shape.n_layers - item.layer
        if only := item.alone:
            n_after -= 1
            flops += _patched_layer(per_layer, only, n_tokens, at_end=n_after == 0)
        flops += n_after * n_suffix * row
        if n_after:
            is_edited = any(r.layer == shape.n_layers - 1 and r.component != "resid_pre" for r in item.replacements)
            flops -= (n_suffix - 1) * per_layer.saved_at_end(n_tokens, is_edited)
        n_positions += n_after * n_suffix
        suffixes.append(n_suffix)
    of_position = shape.d_model * judge.dtype.itemsize
    return PatchCost(
        n_tokens=n_tokens,
        n_patches=len(placed),
        n_positions=n_positions,
        flops=flops,
        recording_flops=2 * full_pass,
        full_pass_flops=len(placed) * full_pass,
        recorded_bytes=_recorded_bytes(judge, n_tokens, with_products),
        chunk_bytes=_chunk_bytes(
            judge,
            n_tokens,
            max(ROWS_PER_CHUNK, n_tokens) if restart else n_tokens,
            with_products=with_products,
            with_edits=any(of.component in ATTENTION_COMPONENTS for item in placed for of in item.replacements),
        ),
        patch_bytes=max(suffixes) * of_position,
        patches_bytes=sum(suffixes) * of_position,
    )


def _recorded_bytes(judge: JudgeModel, n_tokens: int, with_products: bool) -> int:
    """Of two recorded runs; with the products of one of them, which has been the base run."""
    shape = judge.shape
    of_heads = 2 * (shape.n_heads + shape.n_kv_heads) * shape.d_head  # z and q, k and v
    n_values = 2 * shape.n_layers * (3 * shape.d_model + of_heads)  # what a layer reads, and what its halves add
    if with_products:
        n_values += sum(sum(module.weight.shape) for module in _linear_modules(judge))  # type: ignore[arg-type, misc]
    return n_tokens * n_values * judge.dtype.itemsize


def _chunk_bytes(judge: JudgeModel, n_tokens: int, n_rows: int, *, with_products: bool, with_edits: bool) -> int:
    """Of the MLP's activations, of residuals and of attention's scores; with products, of weights in half the bytes.

    With edits within attention, also of keys and values of one item as each query head sees them.
    """
    shape = judge.shape
    n_values = n_rows * (_Layer(judge).mlp_width + _RESIDUALS_OF_CHUNK * shape.d_model)
    scores = min(MOST_SCORES, n_rows * shape.n_heads * n_tokens)
    n_values += (_SCORES_OF_EDITS if with_edits else _SCORES_OF_CHUNK) * scores
    if with_edits:
        n_values += 2 * shape.n_heads * n_tokens * shape.d_head
    # Matrices in bfloat16: a copy of each for products of differences; where they are stored so, one is widened.
    sizes = {True: [0], False: [0]}
    for module in _linear_modules(judge):
        sizes[module.weight.element_size() < judge.dtype.itemsize].append(_n_weights(module))  # type: ignore[operator]
    low = 2 * sum(sizes[False]) if with_products else 0
    return n_values * judge.dtype.itemsize + low + judge.dtype.itemsize * max(sizes[True])


def _linear_modules(judge: JudgeModel) -> list[nn.Module]:
    return [module for layer in judge.layers for module in linear_modules(layer).values()]


class _Layer:
    """Operations of one layer for one position."""

    def __init__(self, judge: JudgeModel) -> None:
        block = judge.layers[len(judge.layers) // 2]
        self.mlp = 2.0 * _n_weights(block.mlp, judge.config)
        # Activations that one position holds at once.
        self.mlp_width = _n_weights(block.mlp, judge.config) // judge.shape.d_model
        self.out_proj = 2.0 * _n_weights(block.out_proj)
        self.n_heads = judge.shape.n_heads
        self._attention = 2.0 * _n_weights(block.attention)
        self._for_each_source = 4.0 * judge.shape.n_heads * judge.shape.d_head
        by_rows = goes_by_rows(block)
        self._q_proj = 2.0 * _n_weights(block.attention.get_submodule("q_proj")) if by_rows else None

    def row(self, n_sources: int) -> float:
        """One position through the whole layer, attending to `n_sources` positions."""
        return self.mlp + self._attention + self.attended(n_sources)

    def saved_at_end(self, n_sources: int, is_edited: bool) -> float:
        """What a position but the last does not need in the last layer: the MLP, and of attention all but k and v."""
        if self._q_proj is None or is_edited:
            return self.mlp
        return self.mlp + self._q_proj + self.out_proj + self.attended(n_sources)

    @property
    def projections(self) -> float:
        """Queries, keys and values of one position."""
        return self._attention - self.out_proj

    def attended(self, n_sources: int) -> float:
        """Scores and weighted values of one position, over `n_sources` positions."""
        return self._for_each_source * n_sources


def _n_weights(module: nn.Module, config: Any = None) -> int:
    """Weights that a position is multiplied with, whatever they are stored in."""
    n_in, n_out = (getattr(module, f"{end}_features", None) for end in ("in", "out"))
    if isinstance(n_in, int) and isinstance(n_out, int):  # quantised, its parameters are packed
        return n_in * n_out
    n_weights = sum(_n_weights(part, config) for part in module.children())
    for weights in module.parameters(recurse=False):
        if weights.dim() == 3:  # a matrix for each expert
            n_weights += weights[0].numel() * int(getattr(config, "num_experts_per_tok", None) or len(weights))
        elif weights.dim() == 2:
            n_weights += weights.numel()
    return n_weights


def _patched_layer(layer: _Layer, only: Replacement, n_tokens: int, *, at_end: bool) -> float:
    rows = [row for row in changed_rows(only, n_tokens) if not at_end or row == n_tokens - 1]
    if only.component in ("resid_post", "mlp_out") or not rows:
        return 0.0
    n_rows = len(rows)
    attention = 0.0
    if only.component in ATTENTION_COMPONENTS:  # computed once for the patches of all heads
        attention = (n_tokens - rows[0]) * layer.attended(n_tokens) / layer.n_heads
    return attention + n_rows * (layer.mlp + (0.0 if only.component == "attn_out" else layer.out_proj))
