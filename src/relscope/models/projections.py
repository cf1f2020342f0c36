"""Which part of the model is each parameter, and which of its rows or columns belong to which head?

Attention's input projections come separate (`q_proj`, `k_proj`, `v_proj`) or fused into one matrix, whose outputs lie
in one of two orders:

    blocks:   q of all heads, k of all heads, v of all heads          (Phi-3 `qkv_proj`, GPT-2 `c_attn`)
    by head:  q, k, v of head 0, q, k, v of head 1, ...               (GPT-NeoX `query_key_value`)

A head's output projection is its share of the inputs of `out_proj`. A projection of another size than the heads make
up (gates, latent attention) is one part of the model and has no shares of heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from relscope.models.architectures import DecoderLayer
from relscope.models.judge import JudgeModel, ModelShape

_SEPARATE = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
_BLOCKS = ("qkv_proj", "c_attn")
_BY_HEAD = ("query_key_value",)


@dataclass(frozen=True)
class ParameterPart:
    """A parameter, or the part of one that has one meaning.

    Attributes:
        name: the parameter's name in the model.
        part: "q", "k", "v", "o", "mlp", "norm", "embedding" or "other".
        layer: None outside the decoder layers.
        axis: the dimension that `entries` count along.
        entries: which entries of that dimension these are, None for all.
        heads: the entries of each head; for k and v of each key/value head. None where heads have no shares.
    """

    name: str
    part: str
    layer: int | None = None
    axis: int = 0
    entries: Int[Tensor, " part_entry"] | None = None
    heads: Int[Tensor, "head head_entry"] | None = None


def parameter_parts(judge: JudgeModel) -> Iterator[ParameterPart]:
    """Every parameter of the model, in its order; fused projections as one part each for q, k and v.

    A tensor that is used twice (a tied embedding) comes once.
    """
    in_layer: dict[int, ParameterPart] = {}  # by the parameter's id; the name is not known yet
    parts: dict[int, list[ParameterPart]] = {}
    for layer in judge.layers:
        for parameter in layer.module.parameters():
            in_layer[id(parameter)] = ParameterPart("", "other", layer.index)
        for parameter in layer.mlp.parameters():
            in_layer[id(parameter)] = ParameterPart("", "mlp", layer.index)
        for parameter, found in _projections(layer, judge.shape):
            parts[id(parameter)] = found
    norms = {
        id(p) for m in judge.model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)
    }
    embeddings = {id(p) for m in _embeddings(judge) for p in m.parameters()}
    for name, parameter in judge.model.named_parameters():
        number = id(parameter)
        known = in_layer.get(number, ParameterPart("", "embedding" if number in embeddings else "other"))
        if number in norms:
            known = ParameterPart("", "norm", known.layer)
        for part in parts.get(number, [known]):
            yield ParameterPart(name, part.part, part.layer, part.axis, part.entries, part.heads)


def _embeddings(judge: JudgeModel) -> Iterator[nn.Module]:
    """Embeddings of tokens and of positions, and the unembedding."""
    yield judge.unembedding
    yield from (m for m in judge.decoder.modules() if isinstance(m, nn.Embedding))


def _projections(layer: DecoderLayer, shape: ModelShape) -> Iterator[tuple[nn.Parameter, list[ParameterPart]]]:
    """The parameters of a layer's attention projections, biases included, with what they hold."""
    widths = {"q": shape.n_heads, "k": shape.n_kv_heads, "v": shape.n_kv_heads}
    for name, module in layer.attention.named_children():
        if name in _SEPARATE:
            part = _SEPARATE[name]
            indices = {part: torch.arange(widths[part] * shape.d_head).view(widths[part], shape.d_head)}
        elif name in _BLOCKS:
            blocks = torch.arange(sum(widths.values()) * shape.d_head).view(-1, shape.d_head)
            indices = dict(zip(widths, blocks.split(list(widths.values())), strict=True))
        elif name in _BY_HEAD:
            by_head = torch.arange(3 * shape.n_heads * shape.d_head).view(shape.n_heads, 3, shape.d_head)
            indices = dict(zip(widths, by_head.unbind(1), strict=True))
        else:
            continue
        yield from _of_module(module, layer.index, indices, outputs=True)
    heads = torch.arange(shape.n_heads * shape.d_head).view(shape.n_heads, shape.d_head)
    yield from _of_module(layer.out_proj, layer.index, {"o": heads}, outputs=False)


def _of_module(
    module: nn.Module, layer: int, indices: dict[str, Tensor], outputs: bool
) -> Iterator[tuple[nn.Parameter, list[ParameterPart]]]:
    """A linear module's parameters, whose outputs (or inputs) are the heads' entries."""
    transposed = type(module).__name__ == "Conv1D"  # GPT-2 keeps its weights as [in, out]
    n_entries = sum(entries.numel() for entries in indices.values())
    for parameter in module.parameters():
        is_matrix = parameter.dim() == 2
        axis = int(outputs == transposed) if is_matrix else 0
        has_entries = (is_matrix or outputs) and parameter.shape[axis] == n_entries
        if not has_entries:  # the bias of the output projection, or a projection with more in it
            yield parameter, [ParameterPart("", next(iter(indices)) if len(indices) == 1 else "other", layer)]
            continue
        yield (
            parameter,
            [
                ParameterPart("", part, layer, axis, heads.flatten(), heads if is_matrix else None)
                for part, heads in indices.items()
            ],
        )
