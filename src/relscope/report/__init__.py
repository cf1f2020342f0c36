"""report room: one HTML file and paper-ready figures from rows on disk. Nothing imports torch."""

from relscope.report.ablation import AblationSummary, build_ablation_report
from relscope.report.build import RunSummary, build_report, report_run
from relscope.report.circuits import CircuitSummary, build_circuit_report, is_circuit
from relscope.report.comparison import Carrier, ComparisonSummary, build_comparison_report, summarize_comparison
from relscope.report.comparison_folder import is_comparison
from relscope.report.similarity import SimilaritySummary, build_similarity_report
from relscope.report.strongest import Strongest
from relscope.results import is_ablation

__all__ = [
    "AblationSummary",
    "Carrier",
    "CircuitSummary",
    "ComparisonSummary",
    "RunSummary",
    "SimilaritySummary",
    "Strongest",
    "build_ablation_report",
    "build_circuit_report",
    "build_comparison_report",
    "build_report",
    "build_similarity_report",
    "is_ablation",
    "is_circuit",
    "is_comparison",
    "report_run",
    "summarize_comparison",
]
