"""How does a folder of ablation rows become a table in four formats and a page?

report.html   table.csv   table.tex   table.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relscope.report import ablation_table as tables
from relscope.report.ablation_contents import outcome_table, read_ablation
from relscope.report.ablation_findings import findings
from relscope.report.ablation_page import TOLD, notices, render
from relscope.report.assets import REPORT_NAME
from relscope.results.files import write_whole


@dataclass(frozen=True)
class AblationSummary:
    """What an ablation showed, in short.

    Attributes:
        report: the path of `report.html`; the tables stand beside it.
        columns: titles of the table's columns.
        rows: each condition with the texts of its cells.
        note: what the numbers are.
        findings: one sentence or two for each column, with its title before it.
        caveats: what a reader must know first.
    """

    report: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    note: str
    findings: tuple[str, ...]
    caveats: tuple[str, ...]


def build_ablation_report(directory: str | Path, n_resamples: int = 2000) -> AblationSummary:
    """Measure what is stored in a folder of `relscope ablate`, and write its page and tables there.

    The same rows give the same bytes.

    Raises:
        InputError: the folder is none, or holds nothing of the full model yet.
        RunError: a part is damaged, or the folder cannot be written.
    """
    folder = Path(directory)
    contents = read_ablation(folder, n_resamples)
    write_whole(folder / "table.csv", outcome_table(contents).to_csv(index=False).encode("utf-8", errors="replace"))
    for name, text in (
        ("table.md", tables.markdown(contents)),
        ("table.tex", tables.latex(contents)),
        (REPORT_NAME, render(contents)),
    ):
        write_whole(folder / name, text.encode("utf-8", errors="replace"))
    return AblationSummary(
        folder / REPORT_NAME,
        tuple(column.title for column in contents.columns),
        tuple((name, tuple(cell.text for cell in row)) for name, row in tables.cells(contents)),
        tables.note(contents),
        tuple(f"{finding.title}. {finding.text}" for finding in findings(contents)),
        # what was told while it was measured need not be told again
        tuple(f"{one.title}: {one.text}" for one in notices(contents) if one.title != TOLD),
    )
