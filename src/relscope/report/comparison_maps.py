"""Which maps does a comparison show side by side, and on which colour scales?

A family is one component's (or one head region's) map in each of its panels, on the same axes: base, tuned and their
difference; or the transfer into base and into tuned. Colours mean the same in every map of one scale: base and
tuned share one, the difference has its own, and so has the residual stream, which reaches 1 wherever it holds
everything. Every map can be shown in logits or, where the gap allows it, as a share of the gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from relscope.report.map_kinds import FLOW, HEADS, MapKind
from relscope.report.maps import EffectMap, Quantity, limit_of

CELLS: Final = (
    *(f"{name}{end}" for name in ("effect", "ie") for end in ("", "_low", "_high")),
    "n_pairs",
    "n_queries",
)
MODEL_KINDS: Final = (FLOW, HEADS)
"""What a comparison of two models measures."""
_RENAMED: Final = {
    "base": ("effect_base", "ie_base"),
    "tuned": ("effect_tuned", "ie_tuned"),
    "difference": ("difference", "ie_difference"),
}


@dataclass(frozen=True)
class Family:
    """Maps of the same sites, one for each panel. `limits[panel][quantity]` ends the panel's colour scale."""

    group: str  # "effects" or "transfer", or "runs" where whole runs stand beside each other
    kind: MapKind
    name: str  # that of its maps: the component, the heads' region, or component and edge
    direction: str
    panels: Mapping[str, EffectMap]
    limits: Mapping[str, Mapping[Quantity, float]]


def difference_families(differences: pd.DataFrame) -> list[Family]:
    """Base, tuned and difference of each component and each head region."""
    panels = {}
    for panel, (effect, ie) in _RENAMED.items():
        renamed = {f"{old}{end}": f"{new}{end}" for old, new in ((effect, "effect"), (ie, "ie")) for end in _ENDS}
        kept = differences[["experiment", "component", "layer", "head", "region", "direction", "n_pairs", "n_queries"]]
        panels[panel] = kept.join(differences[list(renamed)].rename(columns=renamed))
    return families_of("effects", panels, MODEL_KINDS)


def transfer_families(effects: Mapping[str, pd.DataFrame]) -> list[Family]:
    """The transfer maps of each component and each head region; `effects` by folder, from `transfer_effects`."""
    panels = {
        panel: frame.assign(experiment=frame["experiment"].str.removeprefix("transfer_"))
        for panel, frame in effects.items()
    }
    return families_of("transfer", panels, MODEL_KINDS)


_ENDS = ("", "_low", "_high")


def families_of(group: str, panels: Mapping[str, pd.DataFrame], kinds: Sequence[MapKind]) -> list[Family]:
    """The maps of these kinds, a panel of each for every one of `panels`, which are tables with CELLS."""
    families = []
    for kind in kinds:
        of_panel = {
            panel: {(m.name, m.direction): m for m in kind.maps(frame, CELLS)} for panel, frame in panels.items()
        }
        limits = _limits(kind, of_panel)
        for name, direction in dict.fromkeys(key for maps in of_panel.values() for key in maps):
            found = {panel: maps[name, direction] for panel, maps in of_panel.items() if (name, direction) in maps}
            of_scale = {panel: limits[panel, kind.scale(name)] for panel in found}
            families.append(Family(group, kind, name, direction, found, of_scale))
    return families


def _limits(
    kind: MapKind, of_panel: Mapping[str, Mapping[tuple[str, str], EffectMap]]
) -> dict[tuple[str, str], dict[Quantity, float]]:
    """The ends of each panel's scales, by panel and scale: of the difference apart, of all other panels together."""
    quantities: Sequence[Quantity] = ("effect", "ie")
    scales = [(panel, kind.scale(name)) for panel, maps in of_panel.items() for name, _ in maps]
    found = {}
    for panel, scale in dict.fromkeys(scales):
        shown = [
            effect_map
            for other, maps in of_panel.items()
            if (other == "difference") == (panel == "difference")
            for (name, _), effect_map in maps.items()
            if kind.scale(name) == scale
        ]
        found[panel, scale] = {quantity: limit_of(m.values(quantity) for m in shown) for quantity in quantities}
    return found
