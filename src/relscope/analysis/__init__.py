"""analysis room: numbers computed from rows, each with an interval over queries.

Nothing here imports torch.
"""

from relscope.analysis.effects import EFFECT_COLUMNS, TINY_GAP, site_effects
from relscope.analysis.heads import top_heads
from relscope.analysis.intervals import Estimate, bootstrap_weights, percentile_interval
from relscope.analysis.quality import JudgeQuality, judge_quality

__all__ = [
    "EFFECT_COLUMNS",
    "TINY_GAP",
    "Estimate",
    "JudgeQuality",
    "bootstrap_weights",
    "judge_quality",
    "percentile_interval",
    "site_effects",
    "top_heads",
]
