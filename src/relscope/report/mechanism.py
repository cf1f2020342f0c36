"""What do heads read, write and pass on? The readouts, edges and sets of heads of a run, in the paper's order.

A section is on the page only where its data are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from relscope.report import edges, facts, joint, paths, scores, views, written
from relscope.report.findings import Finding
from relscope.report.maps import Quantity
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, Run, read_readout

SECTIONS: Final = {
    "written": "What heads write",
    "edges": "Edges",
    "scores": "Interaction score",
    "joint": "Joint patches",
    "paths": "Paths",
}
_TABLES: Final = {"interaction": INTERACTION, "contributions": CONTRIBUTIONS, "lens": LENS, "vocabulary": VOCABULARY}


@dataclass(frozen=True)
class Mechanism:
    """What was measured of each section; `read` names the readouts that are stored."""

    read: frozenset[str]
    written: written.Written | None
    edges: edges.Edges | None
    scores: scores.Scores | None
    joint: tuple[joint.JointSets, ...]
    paths: tuple[paths.Paths, ...]
    order: str

    @property
    def findings(self) -> list[Finding]:
        """Of every section, in the order of the page."""
        found = [*self.written.findings] if self.written else []
        found += [section.found for section in (self.edges, self.scores) if section]
        for of_directions in (self.joint, self.paths):
            several = len(of_directions) > 1
            found += [
                Finding(f"{s.found.title} ({s.direction})", s.found.text) if several else s.found for s in of_directions
            ]
        return found

    @property
    def tables(self) -> dict[str, tuple[pd.DataFrame, str]]:
        """What a reader can take out beside the effects: the CSV file of each table, and what one row is."""
        found: dict[str, tuple[pd.DataFrame, str]] = {}
        if self.scores:
            named = self.scores.heads.rename(columns={"mean": "interaction_score"})
            found["interaction_scores.csv"] = named, "head"
        if self.written:
            found["direct_contributions.csv"] = self.written.parts, "part"
        if self.joint:
            found["joint_interactions.csv"] = pd.concat([of.sets for of in self.joint]), "set"
        if self.paths:
            found["direct_and_mediated.csv"] = pd.concat([of.splits for of in self.paths]), "module"
            between = pd.concat([of.paths for of in self.paths])
            found |= {"paths.csv": (between, "path")} if len(between) else {}
        return found


def read_mechanism(
    run: Run, rows: pd.DataFrame, effects: pd.DataFrame, quantity: Quantity, confidence: float
) -> Mechanism:
    """Compute it from the rows, their effects and the readouts of a run.

    Raises:
        RunError: the table of a readout is damaged.
    """
    query_of = run.manifest.query_of
    tables = {name: read_readout(run.directory, schema) for name, schema in _TABLES.items()}
    answers = facts.lookup(run.manifest.identity, "prompt.answers")
    shown = [str(answer) for answer in answers] if isinstance(answers, list) else []
    return Mechanism(
        read=frozenset(name for name in facts.READOUTS if len(tables[name])),
        written=written.read_written(tables, effects, query_of, shown, confidence),
        edges=edges.read_edges(rows, effects, query_of, quantity, confidence),
        scores=scores.read_scores(tables["interaction"], rows, effects, query_of, confidence),
        joint=joint.read_joint(rows, run.manifest.joint_heads, query_of, confidence),
        paths=paths.read_paths(rows, effects, query_of, confidence),
        order=str(facts.lookup(run.manifest.identity, "prompt.order") or "dqi"),
    )


def mechanism_values(
    mechanism: Mechanism, quantity: Quantity, most_cells: int
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What the template shows of each section (None: it is not on the page), and what the script draws.

    Args:
        mechanism: of the run.
        quantity: that the colours show.
        most_cells: so many cells of tables are left of those that a page may have.
    """
    shown: dict[str, Any] = dict.fromkeys(SECTIONS)
    maps: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    if mechanism.written:
        shown["written"], of_parts, of_lens = written.written_view(mechanism.written)
        maps += of_parts
        lines += of_lens
    if mechanism.edges:
        n_cells = views.n_table_cells(mechanism.edges.maps)
        shown["edges"], of_edges = edges.edges_view(mechanism.edges, quantity, table=n_cells <= most_cells)
        most_cells -= n_cells
        maps += of_edges
    if mechanism.scores:
        shown["scores"], points = scores.scores_view(mechanism.scores)
    if mechanism.joint:
        shown["joint"], matrices, curves = joint.joint_view(
            mechanism.joint, table=views.n_table_cells([of.matrix for of in mechanism.joint]) <= most_cells
        )
        maps += matrices
        lines += curves
    if mechanism.paths:
        shown["paths"] = paths.paths_view(mechanism.paths, mechanism.order)
    return shown, {"maps": maps, "lines": lines, "points": points}
