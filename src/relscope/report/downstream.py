"""Do these heads carry relevance? Ablations, circuits and rerankings of a run, as sections of the run's own report.

A run's folder says nothing of them. Which are shown is said where the report is built; each is taken only if it records
the run, by the hash of its identity, so that a table never stands beside maps that it does not belong to. A circuit
that was judged elsewhere records the file of the circuit instead, and is taken beside the folder where that was found.
A reranking by the whole judge has no run: it is taken if its model is the run's.
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
from relscope.report.reranking_contents import RerankingContents, is_reranking, read_reranking, reranking_folder
from relscope.results import Run, holds_circuit, is_ablation, open_circuit, read_ablation_header

DOWNSTREAM: Final = "Do these heads carry relevance?"


@dataclass(frozen=True)
class Evaluated:
    """An ablation or a circuit of a run; `href` is its own page, relative to the run's report."""

    contents: AblationContents | CircuitContents
    href: str


@dataclass(frozen=True)
class Downstream:
    """What is shown of a run besides itself: ablations and circuits, and rerankings, both in their order."""

    evaluated: tuple[Evaluated, ...] = ()
    rerankings: tuple[RerankingContents, ...] = ()


def read_downstream(run: Run, given: Sequence[str | Path]) -> Downstream:
    """Read folders of `relscope ablate` and `relscope circuit`, and what `relscope rerank` left beside its run files.

    Args:
        run: in whose report they are shown.
        given: folders; of rerankings the run files, or the folders of their verdicts.

    Raises:
        InputError: one is none of these, is of another run or model, stands twice, has no page of its own, or cannot
            be read.
        RunError: a part is damaged.
    """
    paths = [Path(one) for one in given]
    paths = [reranking_folder(path) if is_reranking(path) else path for path in paths]
    found = _circuits_of(run, paths)
    evaluated: list[Evaluated] = []
    rerankings: list[RerankingContents] = []
    for number, path in enumerate(paths):
        if path.resolve() in {earlier.resolve() for earlier in paths[:number]}:
            raise InputError(f"{path}: is given twice; give each once")
        if is_reranking(path):
            rerankings.append(read_reranking(run, path))
        else:
            evaluated.append(Evaluated(_read_evaluated(run, path, found), _href(path, run.directory)))
    return Downstream(tuple(evaluated), tuple(rerankings))


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


def _read_evaluated(run: Run, path: Path, found: set[str]) -> AblationContents | CircuitContents:
    if is_ablation(path):
        _require_run(run, path, read_ablation_header(path).identity.get("run"))
        return read_ablation(path)
    if holds_circuit(path):
        _require_run_of_circuit(run, path, found)
        return read_circuit(path)
    raise InputError(
        f"{path}: is no folder of relscope ablate or relscope circuit, and no run file of relscope rerank with its "
        "verdicts beside it; give one of these"
    )


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
