"""What does an ablation's evaluation say? Everything that is computed, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from relscope.analysis import (
    FIRST_STAGE,
    RANKING_MEASURE,
    JudgeQuality,
    Outcome,
    Resampling,
    judge_quality,
    judging_outcomes,
    ranking_outcomes,
)
from relscope.errors import InputError
from relscope.report import words
from relscope.report.contents import CONFIDENCE
from relscope.results import (
    FULL_MODEL,
    AblationHeader,
    read_ablation_header,
    read_ablation_qrels,
    read_ablation_rows,
)

MAIN_MEASURES = {"judging": "f1", "ranking": RANKING_MEASURE}
"""The paper's measure of each task."""
MEASURE_NAMES = {"accuracy": "accuracy", "f1": "F1", "roc_auc": "ROC AUC", "paired_accuracy": "paired accuracy"}
TASK_NAMES = {"judging": "Judging", "ranking": "Reranking"}


@dataclass(frozen=True)
class Column:
    """One column of the table: a task, a prompt and a measure."""

    task: str
    prompt: str
    measure: str

    @property
    def title(self) -> str:
        """`Judging, pointwise-dqi: F1`."""
        return f"{TASK_NAMES[self.task]}, {self.prompt}: {measure_name(self.measure)}"


@dataclass(frozen=True)
class AblationContents:
    """An ablation, read and measured.

    Attributes:
        outcomes: every measure of every condition with every prompt.
        quality: of the full model, by prompt.
        columns: of the table, the paper's measures.
    """

    header: AblationHeader
    outcomes: tuple[Outcome, ...]
    quality: dict[str, JudgeQuality]
    columns: tuple[Column, ...]

    @property
    def conditions(self) -> list[str]:
        """The rows of the table, the first stage before the model where something is ranked again."""
        named = dict.fromkeys(condition.name for condition in self.header.conditions)
        there = {outcome.condition for outcome in self.outcomes}
        return [name for name in (FIRST_STAGE, *named) if name in there]

    @property
    def largest(self) -> str:
        """The largest head set: all regions' together, or the only one."""
        sets = [condition.name for condition in self.header.conditions if condition.kind in ("set", "mixed")]
        return sets[-1]

    @property
    def keep_only(self) -> bool:
        """True where the sets were kept alone, all other heads ablated."""
        return bool(self.header.settings["keep_only"])

    @property
    def judging_columns(self) -> tuple[Column, ...]:
        """Every measure of judging, prompt by prompt."""
        return tuple(dict.fromkeys(Column(o.task, o.prompt, o.measure) for o in self.outcomes if o.task == "judging"))

    @property
    def complete(self) -> bool:
        """True once whoever writes the folder has said so."""
        return self.header.status == "complete"

    @property
    def n_queries(self) -> int:
        """Queries that the poorest column rests on."""
        return min(outcome.n_queries for outcome in self.outcomes)

    def of(self, column: Column, condition: str) -> Outcome | None:
        """The outcome in one cell of the table; None where there is none."""
        wanted = (column.task, column.prompt, column.measure, condition)
        found = (o for o in self.outcomes if (o.task, o.prompt, o.measure, o.condition) == wanted)
        return next(found, None)

    def matched(self, column: Column, condition: str) -> Outcome | None:
        """The random sets that are matched to a condition; None where none were drawn."""
        names = (one.name for one in self.header.conditions if one.of == condition)
        return self.of(column, next(names, ""))


def read_ablation(directory: Path, n_resamples: int = 2000) -> AblationContents:
    """Read a folder of `relscope ablate` and compute everything that is told of it; it may still be growing.

    Raises:
        InputError: it is no such folder, or nothing of the full model is stored yet.
        RunError: a part is damaged.
    """
    header = read_ablation_header(directory)
    resampling = Resampling(n_resamples, int(header.settings["seed"]), CONFIDENCE)
    judged = read_ablation_rows(directory, "judging")
    keep_only = bool(header.settings["keep_only"])
    outcomes = judging_outcomes(judged, header.query_of, header.conditions, resampling, keep_only=keep_only)
    if not outcomes:
        raise InputError(f"{directory}: no verdict of the full model is stored yet; give its relscope ablate again")
    ranked = read_ablation_rows(directory, "ranking")
    if header.reranking is not None and len(ranked):
        qrels = read_ablation_qrels(directory)
        rankings = header.reranking.rankings
        outcomes += ranking_outcomes(ranked, rankings, qrels, header.conditions, resampling, keep_only=keep_only)
    full = judged[judged["condition"] == FULL_MODEL]
    quality = {
        str(prompt): judge_quality(rows, header.query_of, confidence=CONFIDENCE)
        for prompt, rows in full.groupby("prompt", sort=False)
    }
    columns = tuple(dict.fromkeys(
        Column(o.task, o.prompt, o.measure) for o in outcomes if o.measure == MAIN_MEASURES[o.task]
    ))  # fmt: skip
    return AblationContents(header, tuple(outcomes), quality, columns)


def outcome_table(contents: AblationContents) -> pd.DataFrame:
    """One row for each task, prompt, measure and condition; the content of table.csv."""
    return pd.DataFrame([outcome.as_row() for outcome in contents.outcomes])


def measure_name(measure: str) -> str:
    """As a reader knows it."""
    return MEASURE_NAMES.get(measure, measure)


def members_by_region(contents: AblationContents, names: Sequence[str]) -> list[tuple[str, str]]:
    """Each condition's heads by region, in words."""
    shown = []
    for condition in contents.header.conditions:
        if condition.name not in names or not condition.members:
            continue
        by_region: dict[str, list[str]] = {}
        for layer, head, region in condition.members:
            by_region.setdefault(region, []).append(words.head_name(layer, head))
        text = "; ".join(f"{region}: {', '.join(heads)}" for region, heads in by_region.items())
        shown.append((condition.name + (f", draw {condition.draw}" if condition.draw else ""), text))
    return shown
