"""How do run folders become a comparison of mechanisms? They are read, compared, and one page and two tables written.

similarity.csv    one row for each pair of runs, set of sites and measure
similarity.json   the same, with the runs, what was not compared, and why
report.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from relscope.analysis import RBO_P
from relscope.errors import InputError
from relscope.report.assets import REPORT_NAME
from relscope.report.contents import CONFIDENCE
from relscope.report.similarity_contents import Mechanisms, compare_runs, not_compared, similarity_table
from relscope.report.similarity_findings import findings, set_name
from relscope.report.similarity_page import notices, render
from relscope.report.similarity_runs import SIMILARITY_NAME, read_runs
from relscope.results.files import make_folder, write_whole
from relscope.version import __version__

TABLE_NAME = "similarity.csv"


@dataclass(frozen=True)
class SimilaritySummary:
    """What a comparison of runs found, in short.

    Attributes:
        report: the path of `report.html`.
        runs: each run's letter and label, in the order given.
        table: one row for each pair of runs and component (over all places that share no token, or at the only one):
            the column `sites`, and those of similarity.csv, each measure in columns of its own (`rbo`, `rbo_low`, ...).
        findings: one title for each row of the table.
        caveats: titles of what a reader must know first.
        n_not_compared: entries of what could not be compared.
    """

    report: Path
    runs: tuple[str, ...]
    table: pd.DataFrame
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    n_not_compared: int


def build_similarity_report(runs: Sequence[str | Path], out: str | Path, n_resamples: int = 1000) -> SimilaritySummary:
    """Compare what runs found, every run with every other, and write report and tables into the folder `out`.

    The runs may still be growing, and are only read. The same runs give the same bytes.

    Args:
        runs: two or more folders of `relscope run`.
        out: a new or empty folder, or one that holds an earlier comparison of runs, which is replaced.
        n_resamples: of the queries, for the intervals, and so many relabellings of the sites, for what chance gives.

    Raises:
        InputError: a folder is no run, or is given twice; no two runs have an experiment, direction and component in
            common; or `out` holds other things.
        RunError: a part of the rows is damaged, or `out` cannot be written.
    """
    directory = Path(out)
    _refuse_foreign_folder(directory)
    mechanisms = compare_runs(read_runs(runs), n_resamples)
    make_folder(directory)
    write_whole(directory / TABLE_NAME, similarity_table(mechanisms.pairs).to_csv(index=False).encode())
    text = json.dumps(_as_json(mechanisms), ensure_ascii=False, allow_nan=False, indent=1)
    write_whole(directory / SIMILARITY_NAME, (text + "\n").encode("utf-8", errors="replace"))
    # half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark
    write_whole(directory / REPORT_NAME, render(mechanisms).encode("utf-8", errors="replace"))
    return SimilaritySummary(
        directory / REPORT_NAME,
        tuple(run.name for run in mechanisms.runs),
        _headlines(mechanisms),
        tuple(finding.title for finding in findings(mechanisms)),
        tuple(notice.title for notice in notices(mechanisms)),
        len(not_compared(mechanisms.pairs)),
    )


def _headlines(mechanisms: Mechanisms) -> pd.DataFrame:
    rows = []
    for pair in mechanisms.pairs:
        for found in pair.headline:
            row: dict[str, Any] = {"run_one": pair.one.letter, "run_other": pair.other.letter, "sites": set_name(found)}
            for one in found.measures:
                row |= {
                    one.measure: one.value.value,
                    f"{one.measure}_low": one.value.low,
                    f"{one.measure}_high": one.value.high,
                    f"{one.measure}_by_chance": one.chance.mean,
                    f"{one.measure}_p_value": one.chance.p_value,
                    f"{one.measure}_ceiling": min(one.ceilings),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _as_json(mechanisms: Mechanisms) -> dict[str, Any]:
    table = similarity_table(mechanisms.pairs).astype(object)
    return {
        "relscope_version": __version__,
        "settings": {"rbo_p": RBO_P, "confidence": CONFIDENCE, "effects": "absolute"},
        "runs": [
            {
                "letter": run.letter,
                "label": run.label,
                "folder": str(run.directory),
                "identity_hash": run.manifest.identity_hash,
                "status": run.manifest.status,
            }
            for run in mechanisms.runs
        ],
        "similarities": table.where(table.notna(), None).to_dict("records"),
        "not_compared": not_compared(mechanisms.pairs),
        "caveats": [{"title": notice.title, "text": notice.text} for notice in notices(mechanisms)],
    }


def _refuse_foreign_folder(directory: Path) -> None:
    """Refuse a folder that holds other things: a run's report would be overwritten."""
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise InputError(f"{directory}: is a file; give a folder for the comparison")
    names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    if names and SIMILARITY_NAME not in names:
        raise InputError(
            f"{directory}: holds {names[0]!r} and no {SIMILARITY_NAME}, so it is no comparison of runs; give a new or "
            "empty folder"
        )
