"""How do we stand inside a Hugging Face attention block without rewriting it?

transformers calls one function for the attention proper, chosen by name. We register one name whose function hands
over to whatever `attention_replaced` put in place; so a block's own projections, norms and rotary embedding run
unchanged, and we see queries, keys and values just before they meet. Used to record a run and to restart from one.

`SharedPrefixAttention` is the restart's attention: all items of a batch share the keys and values of the positions
that are not recomputed, which are read in place instead of being copied for each item.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "relscope"

# Attention scores that are held at once: 64 MB of float32.
MOST_SCORES = 1 << 24


class UnsupportedAttentionError(RuntimeError):
    """A block hands its attention something that our function does not model."""


@dataclass(frozen=True)
class AttentionCall:
    """What a block hands to its attention. `n_heads` is a multiple of `n_kv_heads`.

    `mask` is additive, None where we called the block ourselves.
    """

    layer: int
    q: Float[Tensor, "item head pos d_head"]
    k: Float[Tensor, "item kv_head src d_head"]
    v: Float[Tensor, "item kv_head src d_head"]
    mask: Float[Tensor, "item 1 pos src_or_more"] | None
    scaling: float
    softcap: float | None


AttentionFunction = Callable[[AttentionCall], Float[Tensor, "item pos head d_head"]]
"""Computes the heads' outputs `z`, before the output projection, from a call."""

_IN_PLACE: ContextVar[AttentionFunction] = ContextVar("relscope_attention")


def _dispatch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    for name in ("s_aux", "position_bias", "cache"):
        if options.get(name) is not None:
            raise UnsupportedAttentionError(f"attention with {name!r} is not supported")
    scaling = options.get("scaling")
    call = AttentionCall(
        layer=int(module.layer_idx),  # type: ignore[arg-type]
        q=query,
        k=key,
        v=value,
        mask=attention_mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap=options.get("softcap"),
    )
    return _IN_PLACE.get()(call), None


# A mask function of the same name is needed: without one, transformers hands over no mask, in silence.
AttentionInterface.register(NAME, _dispatch)
AttentionMaskInterface.register(NAME, eager_mask)


@contextlib.contextmanager
def attention_replaced(config: Any, function: AttentionFunction) -> Iterator[None]:
    """Within the context, every attention block that reads `config` calls `function`."""
    before = config._attn_implementation
    token = _IN_PLACE.set(function)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _IN_PLACE.reset(token)


def visible(call: AttentionCall) -> Bool[Tensor, "pos src"]:
    """Which source each position sees, from the model's own mask (causal, windowed...), or causal without one."""
    n_pos, n_src = call.q.shape[2], call.k.shape[2]
    if call.mask is None:
        return torch.ones(n_pos, n_src, dtype=torch.bool, device=call.q.device).tril(n_src - n_pos)
    mask = call.mask[0, 0, :, :n_src]
    return mask if mask.dtype == torch.bool else mask == 0


@runtime_checkable
class EditFunction(Protocol):
    """Is given each component of attention as it is computed (q, k, v, k_view, v_view, scores, pattern, z), by name."""

    def __call__(self, component: str, values: Tensor, n_behind: int = 0, /) -> Tensor:
        """What goes on in its place. Scores and patterns come in blocks of destinations, `n_behind` behind each."""


def unchanged(_component: str, values: Tensor, _n_behind: int = 0, /) -> Tensor:
    """The edit function that replaces nothing."""
    return values


def attention_scores(
    q: Float[Tensor, "*batch pos d_head"], k: Float[Tensor, "*batch src d_head"], scaling: float, softcap: float | None
) -> Float[Tensor, "*batch pos src"]:
    """Scores in float32, scaled and soft-capped; masking follows."""
    return _capped(torch.matmul(q, k.transpose(-1, -2)).float() * scaling, softcap)


def masked_softmax(scores: Float[Tensor, "*batch pos src"], mask: Bool[Tensor, "pos src"]) -> Tensor:
    """Attention weights: the softmax of the scores that a position may see, as `mask` says."""
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)


def attend(
    call: AttentionCall, mask: Bool[Tensor, "pos src"], edit: EditFunction = unchanged
) -> Float[Tensor, "item pos head d_head"]:
    """Plain attention over the call's own keys and values, step by step; `edit` may replace what each step gives.

    Block by block of destinations, so that few scores are held at once.
    """
    groups = call.q.shape[1] // call.k.shape[1]
    q, k, v = edit("q", call.q), edit("k", call.k), edit("v", call.v)
    k = edit("k_view", k.repeat_interleave(groups, dim=1))
    v = edit("v_view", v.repeat_interleave(groups, dim=1))
    n_items, n_heads, n_dest, _ = q.shape
    at_once = max(1, MOST_SCORES // (n_items * n_heads * k.shape[2]))
    blocks = []
    for first in range(0, n_dest, at_once):
        n_behind = max(0, n_dest - first - at_once)
        of_block = slice(first, n_dest - n_behind)
        scores = edit("scores", attention_scores(q[:, :, of_block], k, call.scaling, call.softcap), n_behind)
        pattern = edit("pattern", masked_softmax(scores, mask[of_block]), n_behind)
        blocks.append(torch.matmul(pattern.to(v.dtype), v))
    return edit("z", torch.cat(blocks, dim=2).transpose(1, 2))


@dataclass(frozen=True)
class SharedPrefixAttention:
    """Attention of recomputed suffixes to a prefix that all items share, and to themselves.

    `prefix_k` and `prefix_v` hold the positions before the suffix; `mask` says which of prefix and suffix each
    destination, one of the last positions of the suffix, may see (True: sees; never what stands behind it).
    """

    prefix_k: Float[Tensor, "kv_head prefix d_head"]
    prefix_v: Float[Tensor, "kv_head prefix d_head"]
    mask: Bool[Tensor, "pos src"]

    def __call__(self, call: AttentionCall, /) -> Float[Tensor, "item pos head d_head"]:
        """Heads' outputs of every item's suffix; block by block, so that few scores are held at once."""
        n_items, n_heads, n_dest, _ = call.q.shape
        rows_at_once = max(1, MOST_SCORES // (n_heads * self.mask.shape[1]))
        if n_items * n_dest <= rows_at_once:
            return self._block(call, self.mask)
        if n_items > 1:
            items_at_once = max(1, rows_at_once // n_dest)
            parts = zip(*(of.split(items_at_once) for of in (call.q, call.k, call.v)), strict=True)
            return torch.cat([self(replace(call, q=q, k=k, v=v, mask=None)) for q, k, v in parts])
        blocks = []
        for first in range(0, n_dest, rows_at_once):
            dest = slice(first, first + rows_at_once)
            n_behind = max(0, n_dest - dest.stop)  # sources behind the block, which it does not see
            n_suffix, n_src = call.k.shape[2] - n_behind, self.mask.shape[1] - n_behind
            k, v = call.k[:, :, :n_suffix], call.v[:, :, :n_suffix]
            part = replace(call, q=call.q[:, :, dest], k=k, v=v, mask=None)
            blocks.append(self._block(part, self.mask[dest, :n_src]))
        return torch.cat(blocks, dim=1)

    def _block(self, call: AttentionCall, mask: Tensor) -> Float[Tensor, "item pos head d_head"]:
        """Attention with all scores at once.

        The query heads of a key/value head are folded into the position axis, so that grouped-query attention needs
        no copies of keys; prefix scores of all items are then one matrix product for each key/value head.
        """
        n_items, n_heads, n_dest, d_head = call.q.shape
        n_kv_heads, n_prefix, _ = self.prefix_k.shape
        n_rows = n_heads // n_kv_heads * n_dest
        q = call.q.reshape(n_items, n_kv_heads, n_rows, d_head).transpose(0, 1) * call.scaling
        q = q.contiguous()
        k = call.k.transpose(0, 1)
        v = call.v.transpose(0, 1)

        scores = q.new_empty(n_kv_heads, n_items, n_rows, n_prefix + k.shape[2])
        of_prefix = torch.bmm(q.view(n_kv_heads, n_items * n_rows, d_head), self.prefix_k.transpose(1, 2))
        scores[..., :n_prefix] = of_prefix.view(n_kv_heads, n_items, n_rows, n_prefix)
        scores[..., n_prefix:] = torch.matmul(q, k.transpose(-1, -2))
        if call.softcap is not None:
            scores = _capped(scores, call.softcap)
        scores.masked_fill_(~mask.repeat(n_heads // n_kv_heads, 1), -torch.inf)
        pattern = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)

        from_prefix = pattern[..., :n_prefix].reshape(n_kv_heads, n_items * n_rows, n_prefix)
        z = torch.bmm(from_prefix, self.prefix_v).view(n_kv_heads, n_items, n_rows, d_head)
        z = z + torch.matmul(pattern[..., n_prefix:], v)
        return z.transpose(0, 1).reshape(n_items, n_heads, n_dest, d_head).transpose(1, 2)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
