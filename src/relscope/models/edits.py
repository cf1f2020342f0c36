"""What is replaced inside one layer, for each run of a batch?

A `Replacement` puts a component's values in a source run in place of those a run has computed:

    resid_pre                 what the layer reads
    q, k, v                   of one head, as attention sees them (k and v: of one key/value head, for all its queries)
    k_view, v_view            k and v as one query head sees them; the other heads of its group see their own
    scores                    pre-softmax (scaled, soft-capped), of destination x source positions; softmax follows
    pattern                   post-softmax; the row's other weights stay, so that it no longer sums to 1
    pattern_renormalised      as `pattern`, and each destination's row is then divided by its sum
    z                         one head's output before the output projection
    attn_out, mlp_out         what is added to the residual stream, after any post-norm
    resid_post                what the layer hands on

Everything downstream, in the layer and after it, follows from the replaced values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relscope.choices import EDGE_COMPONENTS, KV_HEAD_COMPONENTS, RESIDUAL_COMPONENTS
from relscope.models.attention import (
    MOST_SCORES,
    AttentionCall,
    SharedPrefixAttention,
    attend,
    attention_scores,
    masked_softmax,
)
from relscope.models.recording import RecordedRun

ATTENTION_COMPONENTS = ("q", *KV_HEAD_COMPONENTS, "k_view", "v_view", *EDGE_COMPONENTS)
"""Components inside attention: they are seen, and replaced, by the function that computes it."""

# Where positions stand in a component's tensor, whose first dimension is the run.
_POSITION_AXIS = {"z": 1, **dict.fromkeys(RESIDUAL_COMPONENTS, 1)}
_EDGES_AT = {"scores": ("scores",), "pattern": ("pattern", "pattern_renormalised")}


@dataclass(frozen=True)
class Replacement:
    """One component at positions of the prompt; `positions` are the destinations of an edge, `src` its sources."""

    component: str
    layer: int
    head: int | None
    positions: tuple[int, ...]
    src: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerEdits:
    """The replacements of one layer in a batch of runs.

    Attributes:
        source: the run that values come from.
        of_run: for each run of the batch, its replacements in this layer.
    """

    source: RecordedRun
    of_run: Sequence[Sequence[Replacement]]

    def of(self, runs: slice) -> LayerEdits:
        """Those of some runs of the batch."""
        return replace(self, of_run=self.of_run[runs])

    @property
    def within_attention(self) -> bool:
        """Whether anything is replaced that attention is computed from."""
        return any(of.component in ATTENTION_COMPONENTS for run in self.of_run for of in run)

    def __call__(self, component: str, values: Tensor, n_behind: int = 0, /) -> Tensor:
        """The values of a component with the batch's replacements of it; a copy where there are any.

        Args:
            component: which one `values` is; "pattern" covers both of its variants.
            values: [run, pos, ...] for residual components; [run, pos, head, d_head] for z; [run, head, pos, d_head]
                for q, k, v and the views; [run, head, pos, src] for scores and pattern. The positions are the last
                ones of the prompt, as many as there are, but for `n_behind`; replacements elsewhere are passed over.
            n_behind: positions of the prompt behind the last of `values`.
        """
        wanted = _EDGES_AT.get(component, (component,))
        chosen = [(run, r) for run, of in enumerate(self.of_run) for r in of if r.component in wanted]
        if not chosen:
            return values
        values = values.clone()
        stop = self.source.n_positions - n_behind
        there = range(stop - values.shape[_POSITION_AXIS.get(component, 2)], stop)
        for run, replacement in chosen:
            self._replace(values[run], replacement, there)
        for run, replacement in chosen:  # after all of them: a row is made to sum to 1 once
            if replacement.component == "pattern_renormalised":
                rows, head = [p - there.start for p in replacement.positions if p in there], replacement.head
                values[run, head, rows] /= values[run, head, rows].sum(-1, keepdim=True)
        return values

    def _replace(self, values: Tensor, replacement: Replacement, there: range) -> None:
        """Put one replacement into one run's values, which are those of the positions `there`."""
        component, layer, head, source = replacement.component, replacement.layer, replacement.head, self.source
        positions = [p for p in replacement.positions if p in there]
        rows = [p - there.start for p in positions]
        if not rows:
            return
        if component in RESIDUAL_COMPONENTS:
            values[rows] = getattr(source, component)[layer, positions]
        elif component == "z":
            values[rows, head] = source.z[layer, positions, head]
        elif component in EDGE_COMPONENTS:
            self._replace_edges(values[head], replacement, positions, rows)
        elif component.endswith("_view"):
            values[head, rows] = _of_key(source, component[0], layer, head)[positions]
        else:
            values[head, rows] = getattr(source, component)[layer][head, positions]

    def _replace_edges(self, rows_of_head: Tensor, edge: Replacement, positions: list[int], rows: list[int]) -> None:
        assert edge.head is not None  # an edge always has one
        (wanted,) = source_edges(self.source, edge.component, edge.layer, [edge.head], positions)
        changed = rows_of_head[rows]
        changed[:, list(edge.src)] = wanted[:, list(edge.src)].to(changed.dtype)
        rows_of_head[rows] = changed


@dataclass(frozen=True)
class EditedAttention:
    """As `SharedPrefixAttention`, with replacements on the way."""

    prefix_k: Float[Tensor, "kv_head prefix d_head"]
    prefix_v: Float[Tensor, "kv_head prefix d_head"]
    mask: Bool[Tensor, "pos src"]
    edits: LayerEdits

    def __call__(self, call: AttentionCall, /) -> Float[Tensor, "item pos head d_head"]:
        """Heads' outputs of every item's suffix; where attention itself is edited, plainly and a few items at once."""
        if not self.edits.within_attention:
            return self.edits("z", SharedPrefixAttention(self.prefix_k, self.prefix_v, self.mask)(call))
        n_items, n_heads, n_dest, d_head = call.q.shape
        of_item = n_heads * self.mask.shape[1] * (n_dest + 2 * d_head)  # scores; keys and values, for each query head
        at_once = max(1, MOST_SCORES // of_item)
        parts = [slice(first, first + at_once) for first in range(0, n_items, at_once)]
        return torch.cat([self._plainly(call, items) for items in parts])

    def _plainly(self, call: AttentionCall, items: slice) -> Float[Tensor, "item pos head d_head"]:
        def whole(prefix: Tensor, suffix: Tensor) -> Tensor:
            return torch.cat([prefix.expand(len(suffix), *prefix.shape), suffix], dim=2)

        k, v = whole(self.prefix_k, call.k[items]), whole(self.prefix_v, call.v[items])
        return attend(replace(call, q=call.q[items], k=k, v=v), self.mask, self.edits.of(items))


def source_edges(
    run: RecordedRun, component: str, layer: int, heads: Sequence[int], positions: Sequence[int]
) -> Float[Tensor, "head dest src"]:
    """Scores, or the pattern, of heads of a recorded run at destination positions, over all sources; float32."""
    at = list(positions)
    q = run.q[layer][list(heads)][:, at]
    k = torch.stack([_of_key(run, "k", layer, head) for head in heads])
    scores = attention_scores(q, k, run.scaling[layer], run.softcap[layer])
    if component == "scores":
        return scores
    return masked_softmax(scores, run.mask[layer][at])


def _of_key(run: RecordedRun, component: str, layer: int, head: int | None) -> Float[Tensor, "pos d_head"]:
    """Keys or values that a query head sees."""
    assert head is not None  # a view always has a head
    of_heads = run.k[layer] if component == "k" else run.v[layer]
    return of_heads[head // (run.q[layer].shape[0] // of_heads.shape[0])]
