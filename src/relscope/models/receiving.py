"""What does a head put out if it, and it alone, reads another residual? The receivers of path patching.

The layer's own norm and projections (and rotary embedding, and norms of q and k) make queries, keys and values of the
altered residual. A receiver takes its own of them, and everything else is as in the base run:

    q, k_view, v_view    of one query head, at given positions
    k, v                 of one key/value head, at given positions, for all query heads of its group
    z                    one query head's output at given positions, its q, k and v altered wherever the residual is

Cost: the projections of the altered positions, for all heads and receivers of a layer together, and the attention of
the receiver's heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.choices import KV_HEAD_COMPONENTS
from relscope.models.attention import SharedPrefixAttention
from relscope.models.edits import Replacement
from relscope.models.judge import JudgeModel
from relscope.models.recording import RecordedRun


class AlteredHeads:
    """The heads of one layer, given several altered residuals that it may read at the last positions of a prompt.

    Args:
        judge: the model.
        layer: which of its layers.
        resid_pre: the altered residuals.
        base: the run that all else is taken from.
    """

    def __init__(
        self, judge: JudgeModel, layer: int, resid_pre: Float[Tensor, "item suffix d_model"], base: RecordedRun
    ) -> None:
        self._base, self._layer = base, layer
        self._start = base.n_positions - resid_pre.shape[1]
        self._group = judge.shape.n_heads // judge.shape.n_kv_heads
        self._altered = judge.attention_call(layer, resid_pre, base)

    @torch.no_grad()
    def z(
        self, receiver: Replacement, items: Sequence[int], rows: Sequence[int]
    ) -> Float[Tensor, "item row head d_head"]:
        """All heads' outputs at some positions: the base run's, but for what the receiver changes.

        Args:
            receiver: a component inside attention or `z`, with the positions at which it is altered.
            items: which of the altered residuals.
            rows: positions of the outputs, ascending; those that the receiver changes.
        """
        assert receiver.head is not None  # receivers within attention have one
        base, layer, first = self._base, self._layer, rows[0]
        if receiver.component in KV_HEAD_COMPONENTS:
            of_key, heads = receiver.head, range(receiver.head * self._group, (receiver.head + 1) * self._group)
        else:
            of_key, heads = receiver.head // self._group, range(receiver.head, receiver.head + 1)
        keys, queries = slice(of_key, of_key + 1), slice(heads.start, heads.stop)
        q, k, v = (self._of(name, receiver, items, keys if name in "kv" else queries) for name in "qkv")
        prefix_k, prefix_v = (of[layer][keys, : self._start] for of in (base.k, base.v))
        call = dataclasses.replace(self._altered, q=q[:, :, first - self._start :], k=k, v=v)
        of_heads = SharedPrefixAttention(prefix_k, prefix_v, base.mask[layer][first:])(call)
        z = base.z[layer, list(rows)].repeat(len(items), 1, 1, 1)
        z[:, :, queries] = of_heads[:, [row - first for row in rows]]
        return z

    def _of(
        self, name: str, receiver: Replacement, items: Sequence[int], heads: slice
    ) -> Float[Tensor, "item head suffix d_head"]:
        """Queries, keys or values of the altered positions, as the receiver's heads see them."""
        altered = getattr(self._altered, name)[list(items)][:, heads]
        if receiver.component == "z":
            return altered
        of_base = getattr(self._base, name)[self._layer][heads, self._start :].repeat(len(items), 1, 1, 1)
        if receiver.component.startswith(name):
            at = [position - self._start for position in receiver.positions]
            of_base[:, :, at] = altered[:, :, at]
        return of_base
