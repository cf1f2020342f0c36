"""Sites of a model, what patching them does to the verdict, within one model and from another, and what moved."""

from relscope.interventions.changes import (
    HeadChanges,
    WeightChange,
    head_changes,
    require_comparable_weights,
    weight_changes,
)
from relscope.interventions.cost import PatchCost, patch_cost, transfer_cost
from relscope.interventions.patching import DEFAULT_MEMORY_BYTES, PatchedPair, patch_pair
from relscope.interventions.sites import (
    COMPONENTS,
    Direction,
    Joint,
    Patch,
    Site,
    all_sites,
)
from relscope.interventions.transfer import PromptName, Transfer, require_same_shape, transfer_pair

__all__ = [
    "COMPONENTS",
    "DEFAULT_MEMORY_BYTES",
    "Direction",
    "HeadChanges",
    "Joint",
    "Patch",
    "PatchCost",
    "PatchedPair",
    "PromptName",
    "Site",
    "Transfer",
    "WeightChange",
    "all_sites",
    "head_changes",
    "patch_cost",
    "patch_pair",
    "require_comparable_weights",
    "require_same_shape",
    "transfer_cost",
    "transfer_pair",
    "weight_changes",
]
