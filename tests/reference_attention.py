"""The slow reference for what lies inside attention, and for several activations patched together.

Attention written out head by head, in loops, given to the Hugging Face model as its attention function; nothing of
`relscope.models` is used.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from reference import Reference

NAME = "relscope_slow_reference"
OF_EDGES = ("scores", "pattern", "pattern_renormalised")


@dataclass(frozen=True)
class Edit:
    """Values of one component of one head, of a whole run, and where they go."""

    component: str
    head: int
    positions: Sequence[int]
    src: Sequence[int]
    values: Tensor


@dataclass
class _InForce:
    edits: dict[int, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[tuple[str, int], Tensor] = field(default_factory=dict)


_IN_FORCE = _InForce()


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    layer, state = int(module.layer_idx), _IN_FORCE
    edits = state.edits.get(layer, [])
    q, k, v = query[0].clone(), key[0].clone(), value[0].clone()
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        state.seen[name, layer] = tensor.clone()
        for edit in edits:
            if edit.component == name:
                for position in edit.positions:
                    tensor[edit.head, position] = edit.values[edit.head, position]
    n_heads, n_pos, d_head = q.shape
    group = n_heads // k.shape[0]
    scaling = options.get("scaling") or d_head**-0.5
    all_scores, all_patterns, outputs = [], [], []
    for head in range(n_heads):
        k_seen, v_seen = k[head // group].clone(), v[head // group].clone()
        for edit in edits:
            if edit.head == head and edit.component in ("k_view", "v_view"):
                seen = k_seen if edit.component == "k_view" else v_seen
                for position in edit.positions:
                    seen[position] = edit.values[head // group, position]
        scores = (q[head] @ k_seen.T) * scaling
        if options.get("softcap") is not None:
            scores = options["softcap"] * torch.tanh(scores / options["softcap"])
        all_scores.append(scores.clone())
        _put(scores, [e for e in edits if e.component == "scores" and e.head == head])
        if attention_mask is None:
            hidden = torch.ones(n_pos, n_pos).triu(1).bool()
        else:
            hidden = attention_mask[0, 0, :, :n_pos] != 0
        pattern = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
        all_patterns.append(pattern.clone())
        _put(pattern, [e for e in edits if e.component in OF_EDGES[1:] and e.head == head])
        for edit in edits:
            if edit.head == head and edit.component == "pattern_renormalised":
                for position in edit.positions:
                    pattern[position] /= pattern[position].sum()
        outputs.append(pattern @ v_seen)
    state.seen["scores", layer], state.seen["pattern", layer] = torch.stack(all_scores), torch.stack(all_patterns)
    return torch.stack(outputs, dim=1)[None], None


def _put(of_head: Tensor, edits: list[Edit]) -> None:
    for edit in edits:
        for dest in edit.positions:
            for src in edit.src:
                of_head[dest, src] = edit.values[edit.head, dest, src]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


class AttentionReference(Reference):
    """Full forward passes in which anything may be replaced, any number of activations at once."""

    def __init__(self, model: Any, family: str) -> None:
        super().__init__(model, family)
        self.model.set_attn_implementation(NAME)

    def inside(self, ids: Sequence[int], component: str, layer: int) -> Tensor:
        """q, k or v [head, pos, d_head], scores or pattern [head, dest, src] of a run."""
        name = component.partition("_")[0]
        self.logit_diff(ids, (0, 1))
        return _IN_FORCE.seen[name, layer]

    def sweep_patches(self, pair: Any, patches: Sequence[Sequence[Any]], direction: str) -> Tensor:
        """LD of a pair's base run for each patch, a list of sites, alone; float64."""
        base, source = (pair.corrupted, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupted)
        kept: dict[tuple[str, int], Tensor] = {}
        values = []
        for sites in patches:
            for site in sites:
                key = site.component, site.layer
                if key not in kept:
                    of_modules = site.component in ("resid_pre", "attn_out", "mlp_out", "resid_post", "z")
                    kept[key] = self.activations(source.ids, *key) if of_modules else self.inside(source.ids, *key)
            with contextlib.ExitStack() as stack:
                stack.callback(_IN_FORCE.edits.clear)
                for site in sites:
                    positions, of = base.region(site.region), kept[site.component, site.layer]
                    if site.component in ("resid_pre", "attn_out", "mlp_out", "resid_post", "z"):
                        handle = self.hook(site.component, site.layer, site.head, positions, of)
                        stack.callback(handle.remove)
                    else:
                        src = () if site.src is None else base.region(site.src)
                        _IN_FORCE.edits[site.layer].append(Edit(site.component, site.head, positions, src, of))
                values.append(self.logit_diff(base.ids, pair.answer_ids))
        return torch.tensor(values, dtype=torch.float64)
