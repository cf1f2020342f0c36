"""report room: one HTML file and paper-ready figures from a run's rows, or a comparison's. Nothing imports torch."""

from relscope.report.build import build_report
from relscope.report.comparison import Carrier, ComparisonSummary, build_comparison_report, summarize_comparison
from relscope.report.comparison_folder import is_comparison

__all__ = [
    "Carrier",
    "ComparisonSummary",
    "build_comparison_report",
    "build_report",
    "is_comparison",
    "summarize_comparison",
]
