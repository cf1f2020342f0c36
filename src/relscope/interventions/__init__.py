"""Sites of a model, what patching them does to the verdict, within one model and from another, and what moved."""

from relscope.interventions.changes import (
    HeadChanges,
    WeightChange,
    head_changes,
    require_comparable_weights,
    weight_changes,
)
from relscope.interventions.cost import PatchCost, patch_cost, too_little_memory, transfer_cost
from relscope.interventions.patching import (
    DEFAULT_MEMORY_BYTES,
    PatchedPair,
    check_precision,
    patch_pair,
    patch_pairs,
)
from relscope.interventions.sites import (
    COMPONENTS,
    Direction,
    Joint,
    Patch,
    Precision,
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
    "Precision",
    "PromptName",
    "Site",
    "Transfer",
    "WeightChange",
    "all_sites",
    "check_precision",
    "head_changes",
    "patch_cost",
    "patch_pair",
    "patch_pairs",
    "require_comparable_weights",
    "require_same_shape",
    "too_little_memory",
    "transfer_cost",
    "transfer_pair",
    "weight_changes",
]
