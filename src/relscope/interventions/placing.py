"""Which positions of one prompt does a patch replace, and from where on can it change anything?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from relscope.interventions.sites import Patch, sites_of
from relscope.models import Replacement
from relscope.prompts import Prompt


@dataclass(frozen=True)
class PlacedPatch:
    """A patch with the replacements it makes in one prompt; without any, it cannot change anything."""

    patch: Patch
    replacements: tuple[Replacement, ...]

    @property
    def start(self) -> int:
        """The first position that it can change: attention is causal."""
        return min(replacement.positions[0] for replacement in self.replacements)

    @property
    def layer(self) -> int:
        """The first layer that it can change."""
        return min(replacement.layer for replacement in self.replacements)

    @property
    def alone(self) -> Replacement | None:
        """The only replacement, of what a layer computes; None for several, and for what a layer reads."""
        only = self.replacements[0]
        return only if len(self.replacements) == 1 and only.component != "resid_pre" else None


def place_patches(prompt: Prompt, patches: Sequence[Patch], first: int) -> list[PlacedPatch]:
    """The replacements of each patch: at its regions' positions from `first` on, where the two runs part.

    Args:
        prompt: has the regions; both runs have them at the same positions.
        patches: to place.
        first: the first position whose token differs between the runs; 0 if the runs differ everywhere.

    Raises:
        InputError: the prompt has no such region.
    """

    @cache
    def of(region: str) -> tuple[int, ...]:
        return tuple(prompt.region(region))

    @cache
    def changed_in(region: str) -> tuple[int, ...]:
        return tuple(position for position in of(region) if position >= first)

    placed = []
    for patch in patches:
        replacements = []
        for site in sites_of(patch):
            changed = changed_in(site.region)
            # Edges from positions before `first` count: what a changed position attends to there changes with it.
            src = () if site.src is None else of(site.src)
            if changed and (src or site.src is None):
                replacements.append(Replacement(site.component, site.layer, site.head, changed, src))
        placed.append(PlacedPatch(patch, tuple(replacements)))
    return placed
