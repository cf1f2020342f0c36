"""The plain way to patch: one full forward pass for each cell, with a hook on the one module that is concerned.

The Hugging Face model as it is (of a Llama-like family), batch 1, no cache of keys and values, the logits of the last
position only. Attention edges, which no hook reaches, are in `plain_edges`. Uses nothing of relscope's engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from clock import timed
from plain_edges import SeenAttention, edge_replaced, seeing_attention
from relscope.interventions import Site
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair


@dataclass
class CleanRun:
    """What the hooks saw in the clean run: by component, then by layer, [pos, ...]; and what attention was given."""

    values: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    attention: SeenAttention = field(default_factory=dict)


@dataclass(frozen=True)
class PlainPatcher:
    """The plain way, for one pair."""

    judge: JudgeModel
    pair: AlignedPair
    clean: CleanRun

    @torch.no_grad()
    def patch(self, sites: Sequence[Site]) -> tuple[list[float], list[float]]:
        """LD and seconds of each site."""
        measured = [timed(self.judge.device, lambda site=site: self._patched(site)) for site in sites]
        return [ld for ld, _ in measured], [seconds for _, seconds in measured]

    def _patched(self, site: Site) -> float:
        with self._replaced(site):
            return _logit_diff(self.judge, self.pair.corrupted.ids, self.pair.answer_ids)

    @contextlib.contextmanager
    def _replaced(self, site: Site) -> Iterator[None]:
        positions = list(self.pair.clean.region(site.region))
        if site.src is not None:
            src = list(self.pair.clean.region(site.src))
            with edge_replaced(self.judge.model, site, positions, src, self.clean.attention[site.layer]):
                yield
            return
        clean = self.clean.values[site.component][site.layer]
        d_head = self.judge.shape.d_head
        columns = slice(None) if site.head is None else slice(site.head * d_head, (site.head + 1) * d_head)

        def with_clean(values: torch.Tensor) -> torch.Tensor:
            values = values.clone()
            values[0, positions, columns] = clean[positions, columns]
            return values

        handle = _hook(self.judge.model.model.layers[site.layer], site.component, with_clean)
        try:
            yield
        finally:
            handle.remove()


@torch.no_grad()
def plain_patcher(judge: JudgeModel, pair: AlignedPair) -> PlainPatcher:
    """Record the clean run of a pair by plain hooks."""
    clean = CleanRun()
    handles = []
    for component in ("attn_out", "mlp_out", "resid_post", "z"):
        kept = clean.values[component] = []
        for layer in judge.model.model.layers:
            handles.append(_hook(layer, component, lambda values, kept=kept: kept.append(values[0])))
    with seeing_attention(judge.model) as seen:
        _logit_diff(judge, pair.clean.ids, pair.answer_ids)
    clean.attention = seen
    for handle in handles:
        handle.remove()
    return PlainPatcher(judge, pair, clean)


def _hook(layer: Any, component: str, see: Any) -> Any:
    """Give a component's values, as the model computes them, to `see`; what it returns, if anything, takes their place.

    Heads' outputs `z` are what the output projection reads, side by side.
    """
    if component == "z":
        return layer.self_attn.o_proj.register_forward_pre_hook(lambda _module, args: see(args[0]))
    if component == "attn_out":

        def first_output(_module: Any, _args: Any, output: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = see(output[0])
            return None if changed is None else (changed, *output[1:])

        return layer.self_attn.register_forward_hook(first_output)
    module = {"mlp_out": layer.mlp, "resid_post": layer}[component]
    return module.register_forward_hook(lambda _module, _args, output: see(output))


def _logit_diff(judge: JudgeModel, ids: Sequence[int], answer_ids: tuple[int, int]) -> float:
    on_device = torch.tensor([ids], device=judge.device)
    logits: torch.Tensor = judge.model(input_ids=on_device, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return float(logits[answer_ids[0]] - logits[answer_ids[1]])
