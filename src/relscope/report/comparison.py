"""How does the folder of a comparison become a report? It is read and computed, figures are drawn, one page written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relscope.analysis import Estimate, JudgeQuality
from relscope.report.assets import REPORT_NAME
from relscope.report.build import FIGURES_FOLDER
from relscope.report.comparison_contents import compare, compared_quality, compared_transfers, strongest_transfers
from relscope.report.comparison_figures import draw_comparison
from relscope.report.comparison_findings import of, site_name
from relscope.report.comparison_folder import TRANSFER_FOLDERS, read_comparison
from relscope.report.comparison_page import render
from relscope.results.files import write_whole


@dataclass(frozen=True)
class Carrier:
    """A module or head and what it alone carries from the donor into the receiver.

    `share` is that of the donor's extra separation; its interval is NaN where that separation may be 0.
    """

    name: str
    effect: Estimate
    share: Estimate


@dataclass(frozen=True)
class ComparisonSummary:
    """What a comparison found, in short.

    Attributes:
        base: the base model as the user named it; `tuned` the tuned one.
        quality: of both models, by "base" and "tuned", on the pairs that both judged; empty where one has no verdicts.
        quality_difference: tuned - base of each measure.
        carriers: by receiver ("base", "tuned"): what alone carries most, most first.
    """

    base: str
    tuned: str
    quality: Mapping[str, JudgeQuality]
    quality_difference: Mapping[str, Estimate]
    carriers: Mapping[str, tuple[Carrier, ...]]


def build_comparison_report(folder: str | Path) -> Path:
    """Write `report.html` and `figures/` into the folder of a comparison, from what it holds alone.

    Works while the comparison is still going, and then says so. The same folder gives the same bytes.

    Args:
        folder: a folder that `relscope compare-models` has written or is writing.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: `folder` is not a comparison, or a file in it is damaged.
        RunError: a part is damaged, or the folder cannot be written.
    """
    comparison = compare(read_comparison(folder))
    directory = comparison.stored.directory
    figures = draw_comparison(comparison, directory / FIGURES_FOLDER)
    path = directory / REPORT_NAME
    # half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark
    write_whole(path, render(comparison, figures).encode("utf-8", errors="replace"))
    return path


def summarize_comparison(folder: str | Path, n_carriers: int = 5) -> ComparisonSummary:
    """The quality of both models and the `n_carriers` strongest carriers each way.

    Raises:
        InputError: as `build_comparison_report`.
    """
    there = read_comparison(folder)
    quality, difference = compared_quality(there)
    carriers = {
        TRANSFER_FOLDERS[name].receiver: tuple(
            Carrier(site_name(site), of(site, "effect"), of(site, "ie"))
            for site in strongest_transfers(effects, n_carriers).to_dict("records")
        )
        for name, effects in compared_transfers(there).items()
    }
    return ComparisonSummary(there.base, there.tuned, quality, difference, carriers)
