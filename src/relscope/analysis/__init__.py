"""analysis room: numbers computed from rows, each with an interval over queries.

Nothing here imports torch.
"""

from relscope.analysis.changes import (
    HEAD_CHANGE_COLUMNS,
    WEIGHT_CHANGE_COLUMNS,
    MoveCorrelation,
    head_moves,
    move_correlations,
    moved_and_matters,
    part_moves,
    weight_moves,
)
from relscope.analysis.chosen_heads import BY_INTERACTION, chosen_heads
from relscope.analysis.differences import (
    DIFFERENCE_COLUMNS,
    effect_differences,
    quality_differences,
    transfer_effects,
    transfer_rows,
)
from relscope.analysis.effects import EFFECT_COLUMNS, TINY_GAP, site_effects
from relscope.analysis.head_sets import (
    Head,
    HeadSet,
    QuerySplit,
    bottom_set,
    matched_sets,
    mixed_set,
    random_sets,
    region_sets,
    set_size,
    split_queries,
    top_set,
)
from relscope.analysis.heads import top_heads
from relscope.analysis.interaction import ScoreCorrelation, interaction_score_means, score_correlations
from relscope.analysis.intervals import Estimate, bootstrap_weights, percentile_interval
from relscope.analysis.joint import JOINT_COLUMNS, joint_interactions
from relscope.analysis.matching import Matched, RunEffects, Unmatched, match_runs
from relscope.analysis.mechanisms import MeasuredSimilarity, MechanismSimilarity, mechanism_similarity
from relscope.analysis.paths import SPLIT_COLUMNS, effect_splits, path_effects
from relscope.analysis.precision import PrecisionError, precision_error
from relscope.analysis.quality import JudgeQuality, judge_quality
from relscope.analysis.ranking import RankingComparison, check_measures, compare_rankings, holm, ranking_values
from relscope.analysis.readouts import Remainder, clean_minus_corrupted, readout_means, remainder
from relscope.analysis.significance import (
    LEAST_IE,
    MOST_Q,
    N_FLIPS,
    SignificanceLimit,
    important_sites,
    q_values,
    sign_flip_p_values,
    significance_limits,
    smallest_p_value,
)
from relscope.analysis.similarity import MEASURES, RBO_P, Chance, Similarity, rank_similarity
from relscope.analysis.stability import Stability, split_half_stability

__all__ = [
    "BY_INTERACTION",
    "DIFFERENCE_COLUMNS",
    "EFFECT_COLUMNS",
    "HEAD_CHANGE_COLUMNS",
    "JOINT_COLUMNS",
    "LEAST_IE",
    "MEASURES",
    "MOST_Q",
    "N_FLIPS",
    "RBO_P",
    "SPLIT_COLUMNS",
    "TINY_GAP",
    "WEIGHT_CHANGE_COLUMNS",
    "Chance",
    "Estimate",
    "Head",
    "HeadSet",
    "JudgeQuality",
    "Matched",
    "MeasuredSimilarity",
    "MechanismSimilarity",
    "MoveCorrelation",
    "PrecisionError",
    "QuerySplit",
    "RankingComparison",
    "Remainder",
    "RunEffects",
    "ScoreCorrelation",
    "SignificanceLimit",
    "Similarity",
    "Stability",
    "Unmatched",
    "bootstrap_weights",
    "bottom_set",
    "check_measures",
    "chosen_heads",
    "clean_minus_corrupted",
    "compare_rankings",
    "effect_differences",
    "effect_splits",
    "head_moves",
    "holm",
    "important_sites",
    "interaction_score_means",
    "joint_interactions",
    "judge_quality",
    "match_runs",
    "matched_sets",
    "mechanism_similarity",
    "mixed_set",
    "move_correlations",
    "moved_and_matters",
    "part_moves",
    "path_effects",
    "percentile_interval",
    "precision_error",
    "q_values",
    "quality_differences",
    "random_sets",
    "rank_similarity",
    "ranking_values",
    "readout_means",
    "region_sets",
    "remainder",
    "score_correlations",
    "set_size",
    "sign_flip_p_values",
    "significance_limits",
    "site_effects",
    "smallest_p_value",
    "split_half_stability",
    "split_queries",
    "top_heads",
    "top_set",
    "transfer_effects",
    "transfer_rows",
    "weight_moves",
]
