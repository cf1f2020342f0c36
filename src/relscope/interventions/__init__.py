"""Sites of a model, what patching them does to the verdict, also across models, what moved, and readouts."""

from relscope.choices import DEFAULT_MEMORY_BYTES, READINGS, VARIANTS, Kind, Positions
from relscope.interventions.ablatable import ABLATED_COMPONENTS, Ablatable
from relscope.interventions.ablation import ablated
from relscope.interventions.changes import (
    HeadChanges,
    WeightChange,
    head_changes,
    require_comparable_weights,
    weight_changes,
)
from relscope.interventions.contributions import DirectContributions, direct_contributions, head_writes
from relscope.interventions.cost import PatchCost, patch_cost, path_cost, too_little_memory, transfer_cost
from relscope.interventions.interaction import (
    InteractionScores,
    interaction_scores,
    mean_interaction,
    pair_interaction,
)
from relscope.interventions.patching import (
    PatchedPair,
    check_precision,
    patch_pair,
    patch_pairs,
)
from relscope.interventions.paths import direct_effects, patch_paths
from relscope.interventions.references import Reference, reference_of
from relscope.interventions.relevance_score import CONTENT_FREE_QUERY, relevance_scores
from relscope.interventions.routes import RECEIVERS, SENDERS, Path
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
from relscope.interventions.vocabulary import (
    HeadVocabulary,
    LogitLens,
    TokenLogits,
    head_vocabulary,
    logit_lens,
    top_tokens,
)

__all__ = [
    "ABLATED_COMPONENTS",
    "COMPONENTS",
    "CONTENT_FREE_QUERY",
    "DEFAULT_MEMORY_BYTES",
    "READINGS",
    "RECEIVERS",
    "SENDERS",
    "VARIANTS",
    "Ablatable",
    "DirectContributions",
    "Direction",
    "HeadChanges",
    "HeadVocabulary",
    "InteractionScores",
    "Joint",
    "Kind",
    "LogitLens",
    "Patch",
    "PatchCost",
    "PatchedPair",
    "Path",
    "Positions",
    "Precision",
    "PromptName",
    "Reference",
    "Site",
    "TokenLogits",
    "Transfer",
    "WeightChange",
    "ablated",
    "all_sites",
    "check_precision",
    "direct_contributions",
    "direct_effects",
    "head_changes",
    "head_vocabulary",
    "head_writes",
    "interaction_scores",
    "logit_lens",
    "mean_interaction",
    "pair_interaction",
    "patch_cost",
    "patch_pair",
    "patch_pairs",
    "patch_paths",
    "path_cost",
    "reference_of",
    "relevance_scores",
    "require_comparable_weights",
    "require_same_shape",
    "too_little_memory",
    "top_tokens",
    "transfer_cost",
    "transfer_pair",
    "weight_changes",
]
