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

from relscope.report.maps import MODULES, EffectMap, Quantity, flow_maps, head_maps, limit_of

CELLS: Final = (
    *(f"{name}{end}" for name in ("effect", "ie") for end in ("", "_low", "_high")),
    "n_pairs",
    "n_queries",
)
_RENAMED: Final = {
    "base": ("effect_base", "ie_base"),
    "tuned": ("effect_tuned", "ie_tuned"),
    "difference": ("difference", "ie_difference"),
}


@dataclass(frozen=True)
class Family:
    """Maps of the same sites, one for each panel. `limits[panel][quantity]` ends the panel's colour scale."""

    group: str  # "effects" or "transfer", or "runs" where whole runs stand beside each other
    kind: str  # "flow" or "heads"
    name: str  # the component, or the heads' region
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
    return families_of("effects", panels)


def transfer_families(effects: Mapping[str, pd.DataFrame]) -> list[Family]:
    """The transfer maps of each component and each head region; `effects` by folder, from `transfer_effects`."""
    panels = {
        panel: frame.assign(experiment=frame["experiment"].str.removeprefix("transfer_"))
        for panel, frame in effects.items()
    }
    return families_of("transfer", panels)


_ENDS = ("", "_low", "_high")


def families_of(group: str, panels: Mapping[str, pd.DataFrame]) -> list[Family]:
    """The maps of each component and each head region, one for each panel; `panels` are tables with CELLS."""
    families = []
    for kind, make in (("flow", flow_maps), ("heads", head_maps)):
        of_panel = {panel: {(m.name, m.direction): m for m in make(frame, CELLS)} for panel, frame in panels.items()}
        keys = dict.fromkeys(key for maps in of_panel.values() for key in maps)
        limits = _limits(kind, of_panel)
        for name, direction in keys:
            found = {panel: maps[name, direction] for panel, maps in of_panel.items() if (name, direction) in maps}
            chosen = limits["modules" if kind == "heads" or name in MODULES else "others"]
            families.append(Family(group, kind, name, direction, found, {panel: chosen[panel] for panel in found}))
    return families


def _limits(
    kind: str, of_panel: Mapping[str, Mapping[tuple[str, str], EffectMap]]
) -> dict[str, dict[str, dict[Quantity, float]]]:
    """The ends of the scales: of modules (or heads) and of the residual stream; the difference apart from the rest."""
    quantities: Sequence[Quantity] = ("effect", "ie")
    found: dict[str, dict[str, dict[Quantity, float]]] = {}
    for scale in ("modules", "others"):
        found[scale] = {}
        for panel in of_panel:
            sharing = [p for p in of_panel if (p == "difference") == (panel == "difference")]
            shown = [
                m
                for p in sharing
                for m in of_panel[p].values()
                if kind == "heads" or (m.name in MODULES) == (scale == "modules")
            ]
            found[scale][panel] = {q: limit_of(m.values(q) for m in shown) for q in quantities}
    return found
