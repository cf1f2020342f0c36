"""The slow reference for readouts: norms written out family by family, heads cut from weights by column, in loops.

Activations come from plain hooks on the Hugging Face model; nothing of `relscope.models` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reference import Reference

_FINAL_NORM = {
    "gemma3": "model.language_model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox parallel": "gpt_neox.final_layer_norm",
    "gpt_neox sequential": "gpt_neox.final_layer_norm",
}
_NORM_AFTER_ATTENTION = ("gemma2", "gemma3_text", "gemma3", "olmo2")


class ReadoutReference(Reference):
    """What parts of one run come to, one vector at a time, in float64."""

    def __init__(self, model: Any, family: str) -> None:
        super().__init__(model, family)
        self.family = family
        self.n_layers = int(model.config.get_text_config().num_hidden_layers)
        self.final_norm = self.model.get_submodule(_FINAL_NORM.get(family, "model.norm"))
        self.lm_head = self.model.get_output_embeddings()

    def norm_part(self, norm: Any, whole: Tensor, part: Tensor) -> Tensor:
        """The part's share of the normed whole, without the norm's bias."""
        whole, part, weight = whole.double(), part.double(), norm.weight.double()
        if self.family.startswith("gpt"):
            deviation = torch.sqrt(((whole - whole.mean()) ** 2).mean() + norm.eps)
            return weight * (part - part.mean()) / deviation
        epsilon = norm.eps if self.family.startswith("gemma") else norm.variance_epsilon
        if self.family.startswith("gemma"):
            weight = 1 + weight
        return weight * part / torch.sqrt((whole**2).mean() + epsilon)

    def final_part(self, ids: Sequence[int], position: int, part: Tensor) -> Tensor:
        """The part's share of the final norm's output at a position."""
        return self.norm_part(self.final_norm, self._kept(ids, "resid_post", self.n_layers - 1)[position], part)

    def head_part(self, ids: Sequence[int], layer: int, head: int, position: int) -> Tensor:
        """What a head adds to the residual stream at a position."""
        z = self._kept(ids, "z", layer)[position].double()
        width = len(z) // self.n_heads
        columns = slice(head * width, (head + 1) * width)
        written = self._out_weight(layer)[:, columns].double() @ z[columns]
        return self._after_attention(ids, layer, position, written)

    def bias_part(self, ids: Sequence[int], layer: int, position: int) -> Tensor:
        """What the output projection's bias adds to the residual stream at a position."""
        bias = self._out_bias(layer)
        return self._after_attention(ids, layer, position, bias.double())

    def lens_logits(self, ids: Sequence[int], layer: int) -> Tensor:
        """All logits at all positions, with the last layer's output replaced by that of another layer."""
        resid = self._kept(ids, "resid_post", layer)
        handle = self.hook("resid_post", self.n_layers - 1, None, range(len(ids)), resid)
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double()
        handle.remove()
        return logits

    def patterns(self, ids: Sequence[int]) -> list[Tensor]:
        """The pattern [head, dest, src] of every layer, as the model itself gives it out."""
        with torch.no_grad():
            output = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False, output_attentions=True)
        return [pattern[0] for pattern in output.attentions]

    def _after_attention(self, ids: Sequence[int], layer: int, position: int, part: Tensor) -> Tensor:
        if self.family not in _NORM_AFTER_ATTENTION:
            return part
        z = self._kept(ids, "z", layer)[position].double()
        whole = self._out_weight(layer).double() @ z + self._out_bias(layer).double()
        norm = self.model.get_submodule(self.names.layer.format(l=layer)).post_attention_layernorm
        return self.norm_part(norm, whole, part)

    def _out_weight(self, layer: int) -> Tensor:
        weight: Tensor = self.model.get_submodule(self.names.z.format(l=layer)).weight
        return weight.T if self.family == "gpt2" else weight

    def _out_bias(self, layer: int) -> Tensor:
        bias = self.model.get_submodule(self.names.z.format(l=layer)).bias
        return torch.zeros(len(self._out_weight(layer))) if bias is None else bias

    def _kept(self, ids: Sequence[int], component: str, layer: int) -> Tensor:
        cache = self.__dict__.setdefault("_cache", {})
        key = tuple(ids), component, layer
        if key not in cache:
            cache[key] = self.activations(ids, component, layer)
        return cache[key]
