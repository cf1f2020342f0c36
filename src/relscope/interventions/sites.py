"""What can be patched: a component of a layer (and of a head) at a region of the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from relscope.errors import InputError

Direction = Literal["denoise", "noise"]

LAYER_COMPONENTS = ("attn_out", "mlp_out", "resid_post")
HEAD_COMPONENTS = ("z",)
COMPONENTS = LAYER_COMPONENTS + HEAD_COMPONENTS


@dataclass(frozen=True, order=True)
class Site:
    """One place to patch. `head` is None for components that belong to a whole layer.

    `component` is one of: `attn_out`, `mlp_out` (what is added to the residual stream, after any post-norm),
    `resid_post` (the residual stream after the layer), `z` (a head's output before the output projection).
    """

    component: str
    layer: int
    region: str
    head: int | None = None

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise InputError(f"component {self.component!r} cannot be patched; choose from {', '.join(COMPONENTS)}")
        if (self.head is None) == (self.component in HEAD_COMPONENTS):
            wanted = "needs a head" if self.head is None else "belongs to a whole layer and takes no head"
            raise InputError(f"component {self.component!r} {wanted}")


def all_sites(components: Iterable[str], regions: Sequence[str], n_layers: int, n_heads: int) -> list[Site]:
    """Every site of the components at the regions, in the order component, region, layer, head."""
    sites = []
    for component in components:
        heads: Sequence[int | None] = range(n_heads) if component in HEAD_COMPONENTS else (None,)
        sites += [
            Site(component, layer, region, head) for region in regions for layer in range(n_layers) for head in heads
        ]
    return sites
