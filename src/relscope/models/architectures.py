"""Where is each part of a decoder layer, in each family of models?

One table: a family is named by the `model_type` of its Hugging Face config, and described by attribute paths. The
two halves of a layer are the same everywhere:

    attn_out   = norm_after_attention(out_proj(z)),         z from attention over norm_before_attention(resid_pre)
    resid_mid  = resid_pre + attn_out
    mlp_out    = norm_after_mlp(mlp(norm_before_mlp(resid_mid)))      (of resid_pre where the two halves are parallel)
    resid_post = resid_pre + attn_out + mlp_out

A model whose type is not in the table is tried against each layout, by structure; whether the layout is *right* is
decided by the load-time contract (`relscope.models.contract`), which compares numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relscope.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """Attribute paths of one family, relative to its decoder (`layers`, `final_norm`) or to a layer (the rest).

    A norm that the family does not have is None.
    """

    name: str
    layers: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    out_proj: str = "self_attn.o_proj"
    mlp: str = "mlp"
    norm_before_attention: str | None = "input_layernorm"
    norm_after_attention: str | None = None
    norm_before_mlp: str | None = "post_attention_layernorm"
    norm_after_mlp: str | None = None
    parallel_option: str | None = None  # name of the config's switch for parallel halves

    def parallel(self, config: Any) -> bool:
        """Whether attention and MLP of a layer both read `resid_pre`."""
        return self.parallel_option is not None and bool(getattr(config, self.parallel_option))


LLAMA = Architecture("llama")
# `gemma2` also stands for `gemma3_text`: the same four norms.
GEMMA_2 = Architecture(
    "gemma2",
    norm_after_attention="post_attention_layernorm",
    norm_before_mlp="pre_feedforward_layernorm",
    norm_after_mlp="post_feedforward_layernorm",
)
OLMO_2 = Architecture(
    "olmo2",
    norm_before_attention=None,
    norm_after_attention="post_attention_layernorm",
    norm_before_mlp=None,
    norm_after_mlp="post_feedforward_layernorm",
)
GPT_2 = Architecture(
    "gpt2",
    layers="h",
    final_norm="ln_f",
    attention="attn",
    out_proj="attn.c_proj",
    norm_before_attention="ln_1",
    norm_before_mlp="ln_2",
)
GPT_NEOX = Architecture(
    "gpt_neox",
    final_norm="final_layer_norm",
    attention="attention",
    out_proj="attention.dense",
    parallel_option="use_parallel_residual",
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": LLAMA,
    "gemma2": GEMMA_2,
    "gemma3": GEMMA_2,
    "gemma3_text": GEMMA_2,
    "olmo2": OLMO_2,
    "gpt2": GPT_2,
    "gpt_neox": GPT_NEOX,
}


@dataclass(frozen=True)
class DecoderLayer:
    """The modules of one decoder layer, found through the table; a norm that is absent is the identity."""

    index: int
    module: nn.Module
    attention: nn.Module
    out_proj: nn.Module
    mlp: nn.Module
    norm_before_attention: nn.Module
    norm_after_attention: nn.Module
    norm_before_mlp: nn.Module
    norm_after_mlp: nn.Module
    parallel: bool
    attn_out_module: nn.Module  # the module whose output is added to the residual stream, after any post-norm
    mlp_out_module: nn.Module

    def attn_out(self, z: Float[Tensor, "*row d_heads"]) -> Float[Tensor, "*row d_model"]:
        """What the attention half adds to the residual stream, given its heads' outputs side by side."""
        return self.norm_after_attention(self.out_proj(z))

    def out_proj_by_head(self, z: Float[Tensor, "*row head d_head"]) -> Float[Tensor, "*row head d_model"]:
        """Each head's share of `out_proj(z)`, less what the projection adds of its own (its bias).

        The module computes it, with the other heads' outputs at zero: transposed and quantised weights and adapters are
        then as they are. Cost: a row for each head of each row.
        """
        n_heads = z.shape[-2]
        alone = torch.eye(n_heads, dtype=z.dtype, device=z.device)[..., None] * z.unsqueeze(-3)
        return self.out_proj(alone.flatten(-2)) - self.out_proj_bias(z)

    def out_proj_bias(self, z: Float[Tensor, "*row head d_head"]) -> Float[Tensor, " d_model"]:
        """What the output projection adds of its own; `z` says how wide its input is, and its number format."""
        return self.out_proj(z.new_zeros(z.shape[-2] * z.shape[-1]))

    def mlp_out(self, resid: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """What the MLP half adds, given the residual it reads (`resid_mid`, or `resid_pre` where parallel)."""
        if resid.dim() == 2:  # a mixture of experts takes batches of prompts only
            return self.mlp_out(resid[None])[0]
        return self.norm_after_mlp(first_tensor(self.mlp(self.norm_before_mlp(resid))))

    def after_attention(
        self, resid_pre: Float[Tensor, "*row d_model"], attn_out: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]:
        """`resid_post`, given what the layer reads and what its attention half adds."""
        resid_mid = resid_pre + attn_out
        return resid_mid + self.mlp_out(resid_pre if self.parallel else resid_mid)


def find_architecture(model_type: str, decoder: nn.Module) -> tuple[Architecture, bool]:
    """The layout of a model, and whether its type is in the table (False: recognised by structure alone).

    Raises:
        InputError: no layout of the table fits; the message lists the families that are known.
    """
    if model_type in ARCHITECTURES and _fits(ARCHITECTURES[model_type], decoder):
        return ARCHITECTURES[model_type], True
    # The layouts with more norms first: a Gemma-like layer also has all the names that a Llama-like layer has.
    for architecture in (GEMMA_2, LLAMA, OLMO_2, GPT_NEOX, GPT_2):
        if _fits(architecture, decoder):
            return architecture, False
    known = ", ".join(sorted(ARCHITECTURES))
    raise InputError(
        f"the layers of model type {model_type!r} fit no layout of the architecture table; known types: {known}"
    )


def resolve_layers(architecture: Architecture, decoder: nn.Module, config: Any) -> tuple[DecoderLayer, ...]:
    """Look up every layer's modules by the table's paths."""
    parallel = architecture.parallel(config)
    resolved = []
    for index, module in enumerate(decoder.get_submodule(architecture.layers).children()):

        def at(path: str | None, module: nn.Module = module) -> nn.Module:
            return nn.Identity() if path is None else module.get_submodule(path)

        resolved.append(
            DecoderLayer(
                index=index,
                module=module,
                attention=at(architecture.attention),
                out_proj=at(architecture.out_proj),
                mlp=at(architecture.mlp),
                norm_before_attention=at(architecture.norm_before_attention),
                norm_after_attention=at(architecture.norm_after_attention),
                norm_before_mlp=at(architecture.norm_before_mlp),
                norm_after_mlp=at(architecture.norm_after_mlp),
                parallel=parallel,
                attn_out_module=at(architecture.norm_after_attention or architecture.attention),
                mlp_out_module=at(architecture.norm_after_mlp or architecture.mlp),
            )
        )
    return tuple(resolved)


def _fits(architecture: Architecture, decoder: nn.Module) -> bool:
    try:
        decoder.get_submodule(architecture.final_norm)
        layers = list(decoder.get_submodule(architecture.layers).children())
        for layer in layers:
            for path in (
                architecture.attention,
                architecture.out_proj,
                architecture.mlp,
                architecture.norm_before_attention,
                architecture.norm_after_attention,
                architecture.norm_before_mlp,
                architecture.norm_after_mlp,
            ):
                if path is not None:
                    layer.get_submodule(path)
    except AttributeError:
        return False
    return bool(layers)


def first_tensor(output: Tensor | tuple[Any, ...]) -> Tensor:
    """A module's main output, whether it returns a tensor or a tuple that begins with it."""
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first
