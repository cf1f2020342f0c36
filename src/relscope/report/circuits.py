"""How does a circuit's folder become a page? It is read, and one page and one table are written beside its rows.

circuit.json      the circuit, with its faithfulness (written when it was measured)
curves.csv        metric and faithfulness over size, with intervals
report.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relscope.analysis import Estimate
from relscope.report.assets import REPORT_NAME
from relscope.report.circuit_contents import CircuitContents, read_circuit
from relscope.report.circuit_page import findings, notices, render
from relscope.results import holds_circuit
from relscope.results.files import write_whole

CURVES_NAME = "curves.csv"


@dataclass(frozen=True)
class CircuitSummary:
    """What was found of a circuit, in short.

    Attributes:
        report: the path of `report.html`.
        contents: the circuit with all that was measured of it.
        findings: one title for each finding.
        caveats: titles of what a reader must know first.
    """

    report: Path
    contents: CircuitContents
    findings: tuple[str, ...]
    caveats: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The circuit and its numbers for JSON; NaN becomes null."""
        of = self.contents
        return {
            "n_members": len(of.circuit), "n_sites": len(of.circuit.all_sites),
            "members": [list(member) for member in of.circuit],
            **of.circuit.faithfulness,
            "randoms": {one.metric: [_plain(value) for value in one.randoms] for one in of.measured},
            "areas": {one.metric: {"cpr": one.cpr.as_dict(), "cmd": one.cmd.as_dict(), "from_share": one.from_share}
                      for one in of.areas},
            "minimality": {name: loss.as_dict() for name, loss in of.losses},
            "incompleteness": [one.as_dict() for one in of.incompleteness],
            "report": str(self.report),
        }  # fmt: skip


def build_circuit_report(folder: str | Path) -> CircuitSummary:
    """Write report and curves of a circuit's folder, from its rows alone. The same rows give the same bytes.

    Raises:
        InputError: the folder is none of `relscope circuit`, or is not complete.
        RunError: a part of the rows is damaged, or the folder cannot be written.
    """
    directory = Path(folder)
    contents = read_circuit(directory)
    write_whole(directory / CURVES_NAME, contents.curves.to_csv(index=False, float_format="%.7g").encode())
    write_whole(directory / REPORT_NAME, render(contents).encode("utf-8", errors="replace"))
    return CircuitSummary(
        directory / REPORT_NAME,
        contents,
        tuple(finding.title for finding in findings(contents)),
        tuple(notice.title for notice in notices(contents)),
    )


def is_circuit(folder: str | Path) -> bool:
    """Whether a folder is one of `relscope circuit`."""
    return holds_circuit(Path(folder))


def _plain(value: float) -> float | None:
    return Estimate(value, value, value).as_dict()["value"]
