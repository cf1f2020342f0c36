"""What can be ablated, and how is it named?"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from relscope.errors import InputError
from relscope.interventions.patching import check_patches
from relscope.interventions.sites import Site
from relscope.models import JudgeModel

ABLATED_COMPONENTS = ("z", "attn_out", "mlp_out")
"""Components that can be ablated: a head's output, and what attention or MLP adds to the residual stream."""

Ablatable = Site | tuple[int, int, str]
"""A site of these components; or a head as layer, head and region, as head sets hold them."""


@runtime_checkable
class ChosenHeads(Protocol):
    """Heads that know in which model they were chosen, as a head set and a circuit do."""

    def check_use(self, identity: Mapping[str, Any], n_layers: int, n_heads: int) -> str | None:
        """Refuse a model of other shape; say where it is another one of the same."""
        ...


def check_chosen(judge: JudgeModel, given: Iterable[Ablatable]) -> None:
    """Refuse heads that were chosen in a model of other shape, and warn where it was another one of the same.

    Raises:
        InputError: names both models.
    """
    if isinstance(given, ChosenHeads):
        shape = judge.shape
        if doubt := given.check_use(dataclasses.asdict(judge.identity), shape.n_layers, shape.n_heads):
            warnings.warn(doubt, stacklevel=4)  # where the context is entered


def ablatable_sites(judge: JudgeModel, given: Iterable[Ablatable]) -> list[Site]:
    """The sites that are named, each once.

    Raises:
        InputError: a site is none of the model's, or cannot be ablated.
    """
    sites = [of if isinstance(of, Site) else Site("z", of[0], of[2], of[1]) for of in given]
    for site in sites:
        if site.component not in ABLATED_COMPONENTS:
            raise InputError(
                f"component {site.component!r} cannot be ablated; choose from {', '.join(ABLATED_COMPONENTS)}"
            )
    check_patches(judge, sites)
    return list(dict.fromkeys(sites))
