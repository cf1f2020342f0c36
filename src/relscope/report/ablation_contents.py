"""What does an ablation's evaluation say? Everything that is computed, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from relscope.analysis import (
    FIRST_STAGE,
    RANKING_MEASURE,
    Estimate,
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
from relscope.report.findings import Finding, estimate
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
        columns: of the table.
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
    outcomes = judging_outcomes(judged, header.query_of, header.conditions, resampling)
    if not outcomes:
        raise InputError(f"{directory}: no verdict of the full model is stored yet; give its relscope ablate again")
    ranked = read_ablation_rows(directory, "ranking")
    if header.reranking is not None and len(ranked):
        qrels = read_ablation_qrels(directory)
        outcomes += ranking_outcomes(ranked, header.reranking.rankings, qrels, header.conditions, resampling)
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


def findings(contents: AblationContents) -> list[Finding]:
    """Of each column: does the largest set lower the measure more than the random sets that are matched to it?"""
    found = (_finding(contents, column) for column in contents.columns)
    return [one for one in found if one is not None]


def measure_name(measure: str) -> str:
    """As a reader knows it."""
    return MEASURE_NAMES.get(measure, measure)


def _finding(contents: AblationContents, column: Column) -> Finding | None:
    chosen = contents.of(column, contents.largest)
    if chosen is None:
        return None
    keep_only = bool(contents.header.settings["keep_only"])
    measure, name = measure_name(column.measure), contents.largest
    what = f"With only {name} left" if keep_only else f"Without {name}"
    where = f"{TASK_NAMES[column.task]}, {column.prompt}"
    full = words.number(chosen.full)
    text = f"{what}, {measure} is {estimate(chosen.value, 2)}, {_change(chosen)} the full model's {full}."
    matched = contents.matched(column, name)
    if matched is None:
        return Finding(f"{where}: {_title(chosen, None, measure)}", text)
    theirs = -matched.difference.value
    sets = words.count(matched.n_draws, "random set")
    average = " on average" if matched.n_draws > 1 else ""
    if theirs > 0:
        text += f" By {sets} matched to it, {measure} falls by {_decrease(matched)}{average}"
    else:
        text += f" By {sets} matched to it, {measure} does not fall{average} (change {estimate(matched.difference, 2)})"
    if chosen.ratio is not None and np.isfinite(chosen.ratio.value) and theirs > 0:
        text += f": the set lowers it {estimate(chosen.ratio, 1)} times as much"
        if np.isnan(chosen.ratio.low):
            text += " (no bounded interval: the random sets' decrease may be 0)"
    text += f"; {chosen.n_as_large or 0} of {words.count(matched.n_draws, 'draw')} lower it at least as much"
    text += f", and the intervals of the two decreases {'lie apart' if _apart(chosen, matched) else 'overlap'}."
    text += _order(contents, column)
    return Finding(f"{where}: {_title(chosen, matched, measure)}", text)


def _order(contents: AblationContents, column: Column) -> str:
    """Whether verdicts are moved across LD = 0 or blurred: the order of prompts by LD tells the two apart."""
    order = contents.of(Column(column.task, column.prompt, "roc_auc"), contents.largest)
    chosen = contents.of(column, contents.largest)
    if order is None or chosen is None or not chosen.difference.high < 0:
        return ""
    text = f" ROC AUC is {estimate(order.value, 2)}, {_change(order)} the full model's {words.number(order.full)}"
    if order.difference.high < 0:
        return f"{text}: relevant and other documents are told apart less well."
    return f"{text}, which is not shown to be a decrease: verdicts move across LD = 0 more than their order is lost."


def _title(chosen: Outcome, matched: Outcome | None, measure: str) -> str:
    if not chosen.difference.high < 0:
        return f"{chosen.condition} is not shown to lower {measure}"
    if matched is None:
        return f"{chosen.condition} lowers {measure}"
    if _apart(chosen, matched):
        return f"{chosen.condition} lowers {measure} more than matched random sets"
    return f"{chosen.condition} lowers {measure}, not shown to be more than matched random sets"


def _apart(chosen: Outcome, matched: Outcome) -> bool:
    """True if the set's decrease lies above that of its matched sets, interval beside interval."""
    return bool(chosen.difference.high < matched.difference.low)


def _change(outcome: Outcome) -> str:
    """How far it lies from the full model."""
    if outcome.difference.value == 0:
        return "as high as"
    if outcome.difference.value < 0:
        return f"{_decrease(outcome)} below"
    return f"{estimate(outcome.difference, 2)} above"


def _decrease(outcome: Outcome) -> str:
    change = outcome.difference
    return estimate(Estimate(-change.value, -change.high, -change.low), 2)


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
