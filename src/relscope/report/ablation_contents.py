"""What does an ablation's evaluation say? Everything that is computed, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from relscope.analysis import (
    FIRST_STAGE,
    LEAST_QUERIES,
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
from relscope.report.findings import Finding, difference, estimate
from relscope.report.notices import REMEDY
from relscope.results import (
    FULL_MODEL,
    AblationHeader,
    read_ablation_header,
    read_ablation_qrels,
    read_ablation_rows,
)

MAIN_MEASURES = {"judging": "f1", "ranking": RANKING_MEASURE}
"""The paper's measure of each task."""
LEAST_DRAWS = 19
"""The fewest among which one more random set would be first by chance in one of twenty cases: 1 / (19 + 1)."""
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
    value = f"{what}, {measure} is {estimate(chosen.value, 2)}"
    if withheld := _withheld(contents, column, chosen):
        title, reason = withheld
        return Finding(f"{where}: {title}", f"{value}; the full model's is {words.number(chosen.full)}. {reason}")
    text = f"{value}, {_change(chosen)} the full model's {words.number(chosen.full)}."
    matched = contents.matched(column, name)
    if matched is not None:
        text += _beside(chosen, matched, measure)
    return Finding(f"{where}: {_title(chosen, matched, measure)}", text + _order(contents, column))


def _withheld(contents: AblationContents, column: Column, chosen: Outcome) -> tuple[str, str] | None:
    """Why nothing can be said of a column, in short and in a sentence; None where something can."""
    quality = contents.quality.get(column.prompt)
    if quality is not None and quality.at_chance:
        return (
            "nothing can be said, as the full model is not shown to judge better than chance",
            "Where there may be nothing to lose, neither a decrease nor its absence says which heads matter.",
        )
    if chosen.n_queries < LEAST_QUERIES:
        n = words.count(chosen.n_queries, "query", "queries")
        return (
            f"{n} cannot tell what {chosen.condition} does",
            f"At least {LEAST_QUERIES} queries are needed to tell a change from chance: {REMEDY}.",
        )
    return None


def _beside(chosen: Outcome, matched: Outcome, measure: str) -> str:
    """What the sets do that are matched to the chosen one."""
    theirs = -matched.difference.value
    sets = words.count(matched.n_draws, "random set")
    average = " on average" if matched.n_draws > 1 else ""
    if _nothing_changed(matched):
        text = f" By {sets} matched to it, {measure} does not change either" if _nothing_changed(chosen) else (
            f" By {sets} matched to it, {measure} does not change"
        )  # fmt: skip
    elif theirs > 0:
        text = f" By {sets} matched to it, {measure} falls by {_decrease(matched)}{average}"
    else:
        change = difference(matched.difference, 2)
        text = f" By {sets} matched to it, {measure} does not fall{average} (change {change})"
    if not chosen.difference.value < 0:  # there is no decrease to compare
        return f"{text}."
    if chosen.ratio is not None and np.isfinite(chosen.ratio.value) and theirs > 0:
        text += f": the set lowers it {difference(chosen.ratio, 1)} times as much"
        if np.isnan(chosen.ratio.low):
            text += " (no bounded interval: the random sets' decrease may be 0)"
    text += f"; {chosen.n_as_large or 0} of {words.count(matched.n_draws, 'draw')} lower it at least as much"
    text += f", and the intervals of the two decreases {'lie apart' if _apart(chosen, matched) else 'overlap'}."
    if matched.n_draws < LEAST_DRAWS:
        share = words.percent(1 / (matched.n_draws + 1))
        text += (
            f" One more random set would lower it most of all by chance in {share} of cases: at least {LEAST_DRAWS} "
            "draws are needed to say that the set does more than random ones (--draws, --rerank-draws)."
        )
    return text


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
    if _nothing_changed(chosen):
        return f"{chosen.condition} changes nothing: {measure} stays {words.number(chosen.full)}"
    if not chosen.difference.high < 0:
        return f"{chosen.condition} is not shown to lower {measure}"
    if matched is None:
        return f"{chosen.condition} lowers {measure}"
    if matched.n_draws < LEAST_DRAWS:
        draws = words.count(matched.n_draws, "random draw")
        verb = "is" if matched.n_draws == 1 else "are"
        return f"{chosen.condition} lowers {measure}; {draws} {verb} too few to say whether more than matched sets"
    if _apart(chosen, matched):
        return f"{chosen.condition} lowers {measure} more than matched random sets"
    return f"{chosen.condition} lowers {measure}, not shown to be more than matched random sets"


def _nothing_changed(outcome: Outcome) -> bool:
    """True if the measure is that of the full model, whichever queries are drawn."""
    return outcome.difference.value == 0 and outcome.difference.no_width


def _apart(chosen: Outcome, matched: Outcome) -> bool:
    """True if the set's decrease lies above that of its matched sets, interval beside interval."""
    return bool(chosen.difference.high < matched.difference.low)


def _change(outcome: Outcome) -> str:
    """How far it lies from the full model."""
    if outcome.difference.value == 0:
        return "as high as"
    if outcome.difference.value < 0:
        return f"{_decrease(outcome)} below"
    return f"{difference(outcome.difference, 2)} above"


def _decrease(outcome: Outcome) -> str:
    change = outcome.difference
    return difference(Estimate(-change.value, -change.high, -change.low), 2)


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
