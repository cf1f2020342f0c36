"""What can be patched: a component of a layer (and of a head) at a region of the prompt, or several together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from relscope.choices import EDGE_COMPONENTS, HEAD_COMPONENTS, KV_HEAD_COMPONENTS, RESIDUAL_COMPONENTS
from relscope.errors import InputError

Direction = Literal["denoise", "noise"]
Precision = Literal["exact", "delta"]
"""exact: as the model computes. delta: a restart's matrix products in bfloat16, of differences from the base run."""

COMPONENTS = (*RESIDUAL_COMPONENTS, *HEAD_COMPONENTS, *KV_HEAD_COMPONENTS, *EDGE_COMPONENTS)


@dataclass(frozen=True, order=True)
class Site:
    """One place to patch.

    Attributes:
        component: of a whole layer, `resid_pre`, `attn_out`, `mlp_out` (what is added to the residual stream, after any
            post-norm) or `resid_post`; of a query head, `z` (its output before the output projection), `q`, and
            `k_view` and `v_view` (keys and values as this one head sees them); of a key/value head, `k` and `v` (for
            all query heads of its group); of a query head's attention edges, `scores` (before the softmax, which
            follows), `pattern` (after it) and `pattern_renormalised` (each destination's row then sums to 1 again).
        layer: counted from 0.
        region: where in the prompt; of an edge, its destination.
        head: a query head or, of `k` and `v`, a key/value head; None for what belongs to a whole layer.
        src: of an edge, the region it comes from; else None.

    Raises:
        InputError: there is no such component, or it has no head or no source, or lacks one.
    """

    component: str
    layer: int
    region: str
    head: int | None = None
    src: str | None = None

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise InputError(f"component {self.component!r} cannot be patched; choose from {', '.join(COMPONENTS)}")
        if (self.head is None) != (self.component in RESIDUAL_COMPONENTS):
            wanted = "needs a head" if self.head is None else "belongs to a whole layer and takes no head"
            raise InputError(f"component {self.component!r} {wanted}")
        if (self.src is None) == (self.component in EDGE_COMPONENTS):
            wanted = "is an edge and needs a source region, src" if self.src is None else "is no edge and takes no src"
            raise InputError(f"component {self.component!r} {wanted}")


@dataclass(frozen=True)
class Joint:
    """Sites that are patched together, as one patch; in each layer, what comes later sees what was replaced before.

    Raises:
        InputError: there is no site, or one stands twice.
    """

    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        if not self.sites:
            raise InputError("a joint patch needs at least one site")
        if len(set(self.sites)) != len(self.sites):
            twice = next(site for n, site in enumerate(self.sites) if site in self.sites[:n])
            raise InputError(f"a joint patch has a site twice: {twice}")


Patch = Site | Joint


def sites_of(patch: Patch) -> tuple[Site, ...]:
    """The sites of a patch, be it one or several."""
    return patch.sites if isinstance(patch, Joint) else (patch,)


def all_sites(
    components: Iterable[str],
    regions: Sequence[str],
    n_layers: int,
    n_heads: int,
    n_kv_heads: int | None = None,
    sources: Sequence[str] = (),
) -> list[Site]:
    """Every site of the components at the regions, in the order component, region, (source,) layer, head.

    Args:
        components: see `Site`.
        regions: of the prompt; the destinations of edges.
        n_layers: of the model.
        n_heads: query heads of a layer.
        n_kv_heads: key/value heads of a layer, which `k` and `v` need.
        sources: regions that edges come from, which edges need.

    Raises:
        InputError: a component does not exist, or what it needs is missing.
    """
    sites = []
    for component in components:
        heads: Sequence[int | None] = range(n_heads)
        if component in RESIDUAL_COMPONENTS:
            heads = (None,)
        elif component in KV_HEAD_COMPONENTS:
            if n_kv_heads is None:
                raise InputError(f"component {component!r} belongs to key/value heads: give n_kv_heads")
            heads = range(n_kv_heads)
        of_edges = component in EDGE_COMPONENTS
        if of_edges and not sources:
            raise InputError(f"component {component!r} is an edge: give the source regions, sources")
        sites += [
            Site(component, layer, region, head, src)
            for region in regions
            for src in (sources if of_edges else (None,))
            for layer in range(n_layers)
            for head in heads
        ]
    return sites
