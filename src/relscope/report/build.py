"""How does a run folder become a report? Rows are read, effects computed, figures drawn, one page written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relscope.report.assets import REPORT_NAME
from relscope.report.contents import read_contents
from relscope.report.downstream import read_downstream
from relscope.report.figures import draw_figures
from relscope.report.page import render
from relscope.report.strongest import Strongest, few_queries_caveat, strongest_sites
from relscope.results import open_run
from relscope.results.files import write_whole

FIGURES_FOLDER = "figures"


@dataclass(frozen=True)
class RunSummary:
    """A run in short.

    Attributes:
        report: the path of `report.html`.
        strongest: the strongest sites of each experiment of single sites.
        caveat: why none of them may have a small q: so few queries; empty where that is not so.
        joint: what heads that were patched together do, a text for each direction.
    """

    report: Path
    strongest: tuple[Strongest, ...]
    caveat: str
    joint: tuple[str, ...]


def build_report(run_dir: Path, downstream: Sequence[str | Path] = ()) -> Path:
    """Write `report.html` and `figures/*.png`, `*.pdf` into the run folder, from its rows and manifest alone.

    Works while the run is still going, and then says so. The same rows give the same bytes.

    Args:
        run_dir: a folder that `relscope run` has written or is writing.
        downstream: folders of `relscope ablate` and `relscope circuit`, and run files of `relscope rerank`, that are
            shown too, in this order. The run's folder does not remember them: built again without them, the report
            has no such sections.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: `run_dir` is not a run folder, or it is damaged; one of `downstream` cannot be shown, or is of
            another run or model.
        RunError: a part is damaged, or the folder cannot be written.
    """
    return report_run(run_dir, downstream).report


def report_run(run_dir: Path, downstream: Sequence[str | Path] = ()) -> RunSummary:
    """As `build_report`; returns also what to print of the run."""
    run = open_run(Path(run_dir))
    shown_too = read_downstream(run, downstream)
    contents = read_contents(run)
    figures = draw_figures(contents, run.directory / FIGURES_FOLDER)
    page = render(contents, run.directory, figures, shown_too)
    path = run.directory / REPORT_NAME
    # Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark.
    write_whole(path, page.encode("utf-8", errors="replace"))
    joint = contents.mechanism.joint
    return RunSummary(
        report=path,
        strongest=strongest_sites(contents.effects),
        caveat=few_queries_caveat(contents.effects),
        joint=tuple(f"joint ({of.direction}): {of.found.text}" for of in joint),
    )
