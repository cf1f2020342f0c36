"""How is a patched run recomputed with half-size numbers, and still measured to a percent of its effects?

A patched run differs little from the run that it was made from. So its matrix products are taken of that difference
only, in bfloat16, and added to what the base run had, in float32:

    W x  =  W x_base + W (x - x_base)  ~  y_base + bf16(W) bf16(x - x_base)

Where x is x_base, nothing is rounded; elsewhere the rounding error shrinks with the difference, while that of a run
that is bfloat16 throughout is as large as many an effect. Norms, softmax, attention's own products and activation
functions stay in float32, on the sum.

While `on_differences` is open, the linear modules of a layer compute so. The base run must have been recorded with its
products (see `record`).
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from relscope.models.mixed import LINEAR_TYPES

if TYPE_CHECKING:
    from relscope.models.architectures import DecoderLayer
    from relscope.models.recording import RecordedRun

LOW = torch.bfloat16
"""Number format of the products of differences."""

_LOW_WEIGHTS: weakref.WeakKeyDictionary[nn.Module, _LowWeights] = weakref.WeakKeyDictionary()
_N_TELLING = 64


@dataclass(frozen=True)
class Product:
    """What one linear module read and gave in a recorded run, at every position, and its weights then, in `LOW`."""

    x: Float[Tensor, "pos d_in"]
    y: Float[Tensor, "pos d_out"]
    weight: Float[Tensor, "d_in d_out"]


@dataclass(frozen=True)
class BaseRows:
    """Which rows of a recorded run a batch's rows are to be compared with: the same positions for each of its items."""

    run: RecordedRun
    n_items: int
    positions: slice | Sequence[int]

    def of(self, values: Float[Tensor, "pos d"]) -> Float[Tensor, "row d"]:
        """The rows of one item."""
        return values[self.positions if isinstance(self.positions, slice) else list(self.positions)]


def linear_modules(layer: DecoderLayer) -> dict[str, nn.Module]:
    """The dense linear modules of a layer, by their path in it. Quantised ones are none: they stay exact."""
    return {
        name: module
        for name, module in layer.module.named_modules()
        if type(module) in LINEAR_TYPES and type(module.weight) is nn.Parameter
    }


@contextlib.contextmanager
def on_differences(layer: DecoderLayer, parts: Sequence[BaseRows]) -> Iterator[None]:
    """Within the context, the layer's linear modules compute on differences from the base runs of `parts`.

    `parts` say where the rows that the modules are given come from, one part below the other. Runs without recorded
    products leave the modules as they are, and so does a module that the base run did not call once with all positions.
    """
    changed: list[tuple[nn.Module, Any]] = []
    try:
        if parts and all(part.run.products for part in parts):
            for name in set.intersection(*(set(part.run.products[layer.index]) for part in parts)):
                module: Any = layer.module.get_submodule(name)
                changed.append((module, module.__dict__.get("forward")))  # accelerate puts one of its own there
                module.forward = functools.partial(_product, (layer.index, name), parts)
        yield
    finally:
        for module, before in changed:
            module.__dict__.pop("forward", None)
            if before is not None:
                module.forward = before


def _product(
    key: tuple[int, str], parts: Sequence[BaseRows], x: Float[Tensor, "*row d_in"]
) -> Float[Tensor, "*row d_out"]:
    layer, name = key
    of_base = [(part, part.run.products[layer][name]) for part in parts]
    weight = of_base[0][1].weight
    sizes = [part.n_items * len(part.of(product.x)) for part, product in of_base]
    flat = x.reshape(-1, x.shape[-1])
    difference = torch.empty(flat.shape, dtype=weight.dtype, device=x.device)
    for (part, product), rows, out in zip(of_base, flat.split(sizes), difference.split(sizes), strict=True):
        out.view(part.n_items, -1, out.shape[-1]).copy_(_by_item(part, rows) - part.of(product.x))
    y = torch.mm(difference, weight).to(x.dtype)
    for (part, product), rows in zip(of_base, y.split(sizes), strict=True):
        _by_item(part, rows).add_(part.of(product.y))
    return y.view(*x.shape[:-1], -1)


def _by_item(part: BaseRows, rows: Tensor) -> Tensor:
    return rows.view(part.n_items, -1, rows.shape[-1])


@dataclass(frozen=True)
class _LowWeights:
    """A module's weights in `LOW`, and what they were made from."""

    values: Float[Tensor, "d_in d_out"]
    made_from: tuple[Any, ...]


def low_weights(module: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """The module's weights in `LOW`; made when first needed, and again when the weights have changed."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    # Written through `.data`, as adapters are merged, a tensor keeps its version: some of its values tell.
    flat = weight.reshape(-1)
    some = tuple(flat[:: max(1, flat.numel() // _N_TELLING)].tolist())
    made_from = (weight.data_ptr(), weight._version, weight.device, LOW, some)
    kept = _LOW_WEIGHTS.get(module)
    if kept is None or kept.made_from != made_from:
        kept = _LowWeights((weight if isinstance(module, Conv1D) else weight.T).to(LOW), made_from)
        _LOW_WEIGHTS[module] = kept
    return kept.values
