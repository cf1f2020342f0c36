"""The plain way to patch attention edges: the model's own attention, and one head's new output worked out by hand.

transformers calls one function for the attention proper, by name. Ours calls the model's (SDPA), and in the layer of
the edge puts one head's output at the destination positions in the place of what SDPA gave:

    scores = q k^T * scaling       of the source positions, the clean run's
    pattern = softmax(scores)      or here, of the source positions, the clean run's, and not made to sum to 1 again
    z = pattern v

For Llama-like families with causal attention over all positions. Uses nothing of relscope's engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from relscope.interventions import Site

NAME = "plain_edges"
AttentionMaskInterface.register(NAME, sdpa_mask)

SeenAttention = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Queries and keys of each layer, [head, pos, d_head], after rotary embedding."""


@contextlib.contextmanager
def seeing_attention(model: Any) -> Iterator[SeenAttention]:
    """Within the context, keep the queries and keys of every layer; key/value heads repeated for their groups."""
    seen: SeenAttention = {}

    def keep(module: Any, q: torch.Tensor, k: torch.Tensor, _v: torch.Tensor, _z: torch.Tensor) -> None:
        seen[module.layer_idx] = q[0], k[0].repeat_interleave(module.num_key_value_groups, 0)

    with _after_attention(model, keep):
        yield seen


@contextlib.contextmanager
def edge_replaced(
    model: Any, site: Site, dest: list[int], src: list[int], clean: tuple[torch.Tensor, torch.Tensor]
) -> Iterator[None]:
    """Within the context, one head attends from `dest` to `src` as it does in the clean run, given its q and k."""
    assert site.head is not None
    head = site.head
    if site.component not in ("scores", "pattern"):
        raise ValueError(f"plain edges are 'scores' and 'pattern', not {site.component!r}")
    cells = torch.tensor(dest)[:, None], torch.tensor(src)[None, :]

    def replace(module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, z: torch.Tensor) -> None:
        if module.layer_idx != site.layer:
            return
        group = head // module.num_key_value_groups
        scores = (q[0, head] @ k[0, group].T).float() * module.scaling
        of_clean = (clean[0][head] @ clean[1][head].T).float() * module.scaling
        if site.component == "scores":
            scores[cells] = of_clean[cells]
        pattern = _causal_softmax(scores)
        if site.component == "pattern":
            pattern[cells] = _causal_softmax(of_clean)[cells]
        z[0, dest, head] = (pattern.to(v.dtype) @ v[0, group])[dest]

    with _after_attention(model, replace):
        yield


def _causal_softmax(scores: torch.Tensor) -> torch.Tensor:
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)


@contextlib.contextmanager
def _after_attention(model: Any, act: Callable[..., None]) -> Iterator[None]:
    """Within the context, `act(module, q, k, v, z)` follows every layer's attention and may change z in place."""

    def attention(
        module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> tuple[torch.Tensor, None]:
        z, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
        act(module, q, k, v, z)
        return z, None

    before = model.config._attn_implementation
    AttentionInterface.register(NAME, attention)
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
