"""Sites of a model, and what patching them does to the verdict."""

from relscope.interventions.cost import PatchCost, patch_cost
from relscope.interventions.patching import DEFAULT_MEMORY_BYTES, PatchedPair, patch_pair
from relscope.interventions.sites import (
    COMPONENTS,
    HEAD_COMPONENTS,
    LAYER_COMPONENTS,
    Direction,
    Site,
    all_sites,
)

__all__ = [
    "COMPONENTS",
    "DEFAULT_MEMORY_BYTES",
    "HEAD_COMPONENTS",
    "LAYER_COMPONENTS",
    "Direction",
    "PatchCost",
    "PatchedPair",
    "Site",
    "all_sites",
    "patch_cost",
    "patch_pair",
]
