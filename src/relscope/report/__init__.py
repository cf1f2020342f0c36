"""report room: one HTML file and paper-ready figures from a run's rows. Nothing here imports torch."""

from relscope.report.build import build_report

__all__ = ["build_report"]
