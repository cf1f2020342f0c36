"""Do these heads carry relevance? Ablations and circuits of a run, as a section of the run's own report.

A run's folder says nothing of them. Which are shown is said where the report is built; each is taken only if it records
the run, by the hash of its identity, so that a table never stands beside maps that it does not belong to. A circuit
that was judged elsewhere records the file of the circuit instead, and is taken beside the folder where that was found.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from relscope.errors import InputError
from relscope.report import ablation_page, circuit_page
from relscope.report.ablation_contents import AblationContents, read_ablation
from relscope.report.ablation_findings import findings as ablation_findings
from relscope.report.assets import REPORT_NAME
from relscope.report.circuit_contents import CIRCUIT_NAME, CircuitContents, read_circuit
from relscope.report.notices import Notice
from relscope.results import Run, holds_circuit, is_ablation, open_circuit, read_ablation_header

DOWNSTREAM: Final = "Do these heads carry relevance?"


@dataclass(frozen=True)
class Evaluated:
    """An ablation or a circuit of a run; `href` is its own page, relative to the run's report."""

    contents: AblationContents | CircuitContents
    href: str


def read_downstream(run: Run, folders: Sequence[str | Path]) -> list[Evaluated]:
    """Read folders of `relscope ablate` and `relscope circuit`, in their order.

    Raises:
        InputError: a folder is neither, is of another run, stands twice, has no page of its own, or cannot be read.
        RunError: a part is damaged.
    """
    paths = [Path(folder) for folder in folders]
    found = _circuits_of(run, paths)
    evaluated = []
    for number, path in enumerate(paths):
        if path.resolve() in {earlier.resolve() for earlier in paths[:number]}:
            raise InputError(f"{path}: is given twice; give each folder once")
        if is_ablation(path):
            _require_run(run, path, read_ablation_header(path).identity.get("run"))
            contents: AblationContents | CircuitContents = read_ablation(path)
        elif holds_circuit(path):
            _require_run_of_circuit(run, path, found)
            contents = read_circuit(path)
        else:
            raise InputError(f"{path}: is no folder of relscope ablate or relscope circuit; give one of these")
        evaluated.append(Evaluated(contents, _href(path, run.directory)))
    return evaluated


def downstream_view(
    evaluated: Sequence[Evaluated], told: Sequence[Notice]
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]]:
    """What the template shows (None: there is no such section), and the curves that the script draws.

    Args:
        evaluated: ablations and circuits.
        told: notices of the page, which are not told again.
    """
    shown, drawn = [], []
    for number, one in enumerate(evaluated):
        if isinstance(one.contents, AblationContents):
            view = _ablation_view(one.contents)
        else:
            view = _circuit_view(one.contents, f"downstream-{number}")
        known = [(notice.title, notice.text) for notice in told]
        view["notices"] = [notice for notice in view["notices"] if (notice.title, notice.text) not in known]
        shown.append(view | {"href": one.href})
        drawn += view["plots"]
    return shown or None, drawn


def _ablation_view(contents: AblationContents) -> dict[str, Any]:
    return {
        "title": ablation_page.title(contents),
        "lead": ablation_page.lead(contents),
        "notices": ablation_page.notices(contents),
        "findings": ablation_findings(contents),
        "table": ablation_page.table(contents),
        "plots": [],
    }


def _circuit_view(contents: CircuitContents, identifier: str) -> dict[str, Any]:
    return {
        "title": circuit_page.title(contents),
        "lead": circuit_page.lead(contents),
        "notices": circuit_page.notices(contents),
        "findings": circuit_page.findings(contents),
        "table": None,
        "plots": circuit_page.curves(contents, identifier),
    }


def _require_run(run: Run, path: Path, recorded: Any) -> None:
    """Refuse what records another run."""
    if recorded != run.manifest.identity_hash:
        raise InputError(
            f"{path}: is not of {run.directory} but of another run (identity {str(recorded)[:12]}, this one has "
            f"{run.manifest.identity_hash[:12]}); give it with its own run"
        )


def _require_run_of_circuit(run: Run, path: Path, found: set[str]) -> None:
    """Refuse what was neither found in the run nor judges one of the circuits that were."""
    identity = open_circuit(path).manifest["identity"]
    if "circuit" not in identity:
        _require_run(run, path, identity.get("run"))
    elif identity["circuit"] not in found:
        raise InputError(
            f"{path}: judges a circuit that was saved, and none of the folders given is that in which {run.directory} "
            "found it; give that folder too"
        )


def _circuits_of(run: Run, paths: Sequence[Path]) -> set[str]:
    """SHA-256 of the file of each circuit that was found in the run."""
    own = [
        path / CIRCUIT_NAME
        for path in paths
        if holds_circuit(path) and open_circuit(path).manifest["identity"].get("run") == run.manifest.identity_hash
    ]
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in own if file.is_file()}


def _href(path: Path, run_dir: Path) -> str:
    """The page of a folder, as the run's report links it."""
    if not (path / REPORT_NAME).is_file():
        raise InputError(f"{path}: has no {REPORT_NAME} to link to; write it with: relscope report {path}")
    return quote(Path(os.path.relpath(path.resolve() / REPORT_NAME, run_dir.resolve())).as_posix())
