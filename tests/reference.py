"""The independent slow reference: what does a patch do, computed as simply as it can be?

A copy of the Hugging Face model in eager attention and float32; for each patch one full forward pass of the whole
model, its own head included, with a plain hook. Modules are named here family by family; nothing of
`relscope.models` is used, so a mistake in its table or its arithmetic cannot hide here as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Names:
    """Names of the modules of layer `{l}` whose outputs (for `z`: whose input) a component is."""

    layer: str
    attn_out: str
    mlp_out: str
    z: str


def _names(layer: str, attn_out: str, mlp_out: str, z: str) -> Names:
    return Names(layer, f"{layer}.{attn_out}", f"{layer}.{mlp_out}", f"{layer}.{z}")


_LLAMA = _names("model.layers.{l}", "self_attn", "mlp", "self_attn.o_proj")
_FOUR_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj")
_NEOX = _names("gpt_neox.layers.{l}", "attention", "mlp", "attention.dense")

NAMES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2 sliding": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": _names("model.layers.{l}", *_FOUR_NORMS),
    "gemma3_text": _names("model.layers.{l}", *_FOUR_NORMS),
    "gemma3": _names("model.language_model.layers.{l}", *_FOUR_NORMS),
    "olmo2": _names("model.layers.{l}", *_FOUR_NORMS),
    "gpt2": _names("transformer.h.{l}", "attn", "mlp", "attn.c_proj"),
    "gpt_neox parallel": _NEOX,
    "gpt_neox sequential": _NEOX,
    "gpt_oss": _LLAMA,
    "qwen3_moe": _LLAMA,
    "mixtral": _LLAMA,
}


def _main(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


class Reference:
    """Full forward passes of one model, patched one activation at a time."""

    def __init__(self, model: Any, family: str) -> None:
        self.model = copy.deepcopy(model).float().eval()
        self.model.set_attn_implementation("eager")
        self.names = NAMES[family]
        self.n_heads = int(model.config.get_text_config().num_attention_heads)

    @torch.no_grad()
    def logit_diff(self, ids: Sequence[int], answer_ids: tuple[int, int]) -> float:
        """LD of one prompt, from all logits of the model's own head."""
        logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1].double()
        return float(logits[answer_ids[0]] - logits[answer_ids[1]])

    def activations(self, ids: Sequence[int], component: str, layer: int) -> Tensor:
        """What a component computes on a prompt, [pos, width]."""
        seen: list[Tensor] = []

        def keep_input(_module: Any, args: Any, kwargs: Any) -> None:
            seen.append((args[0] if args else kwargs["hidden_states"])[0].clone())

        def keep_output(_module: Any, _args: Any, output: Any) -> None:
            seen.append(_main(output)[0].clone())

        module = self._module(component, layer)
        if component in ("z", "resid_pre"):
            handle = module.register_forward_pre_hook(keep_input, with_kwargs=True)
        else:
            handle = module.register_forward_hook(keep_output)
        self.logit_diff(ids, (0, 1))
        handle.remove()
        return seen[0]

    def patched(
        self,
        ids: Sequence[int],
        answer_ids: tuple[int, int],
        component: str,
        layer: int,
        head: int | None,
        positions: Iterable[int],
        values: Tensor,
    ) -> float:
        """LD of a prompt in which a component has `values` [pos, width] at the positions."""
        handle = self.hook(component, layer, head, positions, values)
        value = self.logit_diff(ids, answer_ids)
        handle.remove()
        return value

    def hook(
        self, component: str, layer: int, head: int | None, positions: Iterable[int], values: Tensor
    ) -> torch.utils.hooks.RemovableHandle:
        """Replace a component until the handle is removed."""
        module = self._module(component, layer)

        def replace(activation: Tensor) -> Tensor:
            changed = activation.clone()
            width = changed.shape[-1] // self.n_heads
            columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
            for position in positions:
                changed[0, position, columns] = values[position, columns]
            return changed

        def replace_input(_module: Any, args: Any) -> Any:
            return (replace(args[0]), *args[1:])

        def replace_output(_module: Any, _args: Any, output: Any) -> Any:
            changed = replace(_main(output))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        def replace_read(_module: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (replace(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": replace(kwargs["hidden_states"])}

        if component == "z":
            return module.register_forward_pre_hook(replace_input)
        if component == "resid_pre":
            return module.register_forward_pre_hook(replace_read, with_kwargs=True)
        return module.register_forward_hook(replace_output)

    def sweep(self, pair: Any, sites: Sequence[Any], direction: str) -> Tensor:
        """LD of a pair's base run for each site patched alone, float64; regions are the base prompt's."""
        base, source = (pair.corrupted, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupted)
        kept: dict[tuple[str, int], Tensor] = {}
        values = []
        for site in sites:
            key = site.component, site.layer
            if key not in kept:
                kept[key] = self.activations(source.ids, *key)
            positions = base.region(site.region)
            values.append(self.patched(base.ids, pair.answer_ids, *key, site.head, positions, kept[key]))
        return torch.tensor(values, dtype=torch.float64)

    def _module(self, component: str, layer: int) -> torch.nn.Module:
        names = {
            "attn_out": self.names.attn_out,
            "mlp_out": self.names.mlp_out,
            "resid_pre": self.names.layer,
            "resid_post": self.names.layer,
            "z": self.names.z,
        }
        return self.model.get_submodule(names[component].format(l=layer))
