"""How does the table of an ablation look in a paper? As Table 1 of Liu, Mao and Wen (arXiv 2504.07898).

One row a condition, one column a task and prompt: the value, its interval over queries (for random sets over draws too,
with the draws' standard deviation), and in parentheses the change relative to the full model with its paired interval.
A star marks rankings that differ from the full model's. The paper's measures, F1 and nDCG@10, make up the main table;
a second one has the others of judging.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from relscope.analysis import FIRST_STAGE, MOST_P, Estimate, Outcome, interval_method
from relscope.report import words
from relscope.report.ablation_contents import AblationContents, Column
from relscope.results import FULL_MODEL

STAR = "*"
_MOST_DECIMALS = 2
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip
_LATEX_SIGNS = {words.MINUS: "$-$", "±": r"$\pm$", words.NO_WIDTH: r"$\dagger$", "\u00a0": "~", words.MISSING: "--"}


@dataclass(frozen=True)
class Cell:
    """A cell's texts: value (with its star), standard deviation of the draws, interval, relative change, its interval.

    `relative_interval` is the mark of one without width where all resamples are equal.
    """

    value: str
    spread: str = ""
    interval: str = ""
    relative: str = ""
    relative_interval: str = ""

    @property
    def change(self) -> str:
        """`(−19 % [−24, −13])`; empty where there is none."""
        return f"({self.relative}{_after(self.relative_interval)})" if self.relative else ""

    @property
    def text(self) -> str:
        """All that is there, in one line."""
        return " ".join(part for part in (self.value, self.spread, self.interval, self.change) if part)


NO_CELL = Cell(words.MISSING)


def cells(contents: AblationContents, columns: Sequence[Column] | None = None) -> list[tuple[str, list[Cell]]]:
    """Each row of a table: the condition, and a cell for each column; conditions without any value are left out.

    Args:
        columns: None: those of the main table.
    """
    columns = contents.columns if columns is None else columns
    rows = {name: [contents.of(column, name) for column in columns] for name in contents.conditions}
    decimals = [_decimals(contents, column) for column in columns]
    return [
        (name, [_cell(outcome, places) for outcome, places in zip(row, decimals, strict=True)])
        for name, row in rows.items()
        if any(outcome is not None for outcome in row)
    ]


def other_columns(contents: AblationContents) -> tuple[Column, ...]:
    """Those of the second table: measures of judging that the paper does not report."""
    return tuple(column for column in contents.judging_columns if column not in contents.columns)


def note(contents: AblationContents) -> str:
    """What the numbers of the main table are, in a few sentences."""
    settings = contents.header.settings
    how = " of all heads but these" if contents.keep_only else ""
    drawn = max(condition.draw for condition in contents.header.conditions)
    text = (
        f"{settings['kind'].capitalize()} ablation{how}; {_on(contents)}. {brackets(contents, contents.columns)} "
        f"Random sets: mean of {words.count(drawn, 'draw')}"
    )
    if contents.header.reranking is not None:
        text += f" (reranking: {contents.header.reranking.n_draws})"
    text += ", ± their standard deviation."
    if any(STAR in cell.value for _, row in cells(contents) for cell in row):
        text += (
            f" {STAR} differs from the full model's with p ≤ {MOST_P:g} (sign flips over queries, Holm's correction "
            "over all conditions and prompts)."
        )
    return text


def brackets(contents: AblationContents, columns: Sequence[Column]) -> str:
    """What the brackets and parentheses of a table are."""
    shown = [contents.of(column, name) for column in columns for name in contents.conditions]
    method = interval_method(outcome.value for outcome in shown if outcome is not None)
    text = (
        f"Brackets: 95 % intervals over queries ({method}), for random sets over draws too; behind a value, its own. "
        "Parentheses: change relative to the full model, with its paired interval (the ratio of the two values in each "
        "resample)."
    )
    if any(cell.relative_interval == words.NO_WIDTH for _, row in cells(contents, columns) for cell in row):
        text += f" {words.NO_WIDTH_NOTE}"
    return text


def markdown(contents: AblationContents) -> str:
    """The tables in Markdown."""
    lines = [*_markdown(contents, contents.columns), "", note(contents), ""]
    if others := other_columns(contents):
        lines += [*_markdown(contents, others), "", brackets(contents, others), ""]
    return "\n".join(lines)


def latex(contents: AblationContents) -> str:
    """The tables in LaTeX, for the package booktabs."""
    lines = ["% " + note(contents), *_latex(contents, contents.columns)]
    if others := other_columns(contents):
        lines += ["", "% " + brackets(contents, others), *_latex(contents, others)]
    return "\n".join([*lines, ""])


def relative(share: float, decimals: int = 0) -> str:
    """`−12 %`, with a sign."""
    text = words.number(100 * share, decimals)
    return f"{text if text.startswith(words.MINUS) or float(text) == 0 else '+' + text}\u00a0%"


def _on(contents: AblationContents) -> str:
    """On what the numbers rest: one side of the split, or that of each task where they differ."""
    header = contents.header
    data = {"judging": header.evaluation.data}
    if header.reranking is not None:
        data["ranking"] = header.reranking.side.data
    sides = {
        task: f"{name}, {_n_queries(o.n_queries for o in contents.outcomes if o.task == task)}"
        for task, name in data.items()
        if any(o.task == task for o in contents.outcomes)
    }
    if len(set(sides.values())) == 1:
        return f"{sides['judging']} by which no head was chosen"
    return f"judging: {sides['judging']}; reranking: {sides['ranking']}; none of them chose a head"


def _n_queries(counts: Iterable[int]) -> str:
    """`40 queries`, or `38 to 40 queries` where prompts differ in what could be asked."""
    numbers = set(counts)
    least, most = min(numbers), max(numbers)
    return words.count(most, "query", "queries") if least == most else f"{least:,} to {most:,} queries"


def _markdown(contents: AblationContents, columns: Sequence[Column]) -> list[str]:
    lines = ["| | " + " | ".join(_plain(column.title) for column in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    return lines + [
        f"| {name} | " + " | ".join(cell.text for cell in row) + " |" for name, row in cells(contents, columns)
    ]


def _latex(contents: AblationContents, columns: Sequence[Column]) -> list[str]:
    lines = [
        rf"\begin{{tabular}}{{l{'l' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(_tex(column.title) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for name, row in cells(contents, columns):
        lines.append(" & ".join([_tex(name), *(_tex_cell(cell) for cell in row)]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _tex_cell(cell: Cell) -> str:
    change = f"({_tex(cell.relative)}{_small(cell.relative_interval)})" if cell.relative else ""
    parts = (_tex(cell.value), _tex(cell.spread), _small(cell.interval).lstrip(), change)
    return " ".join(part for part in parts if part)


def _small(interval: str) -> str:
    """An interval in small print; its mark as it is."""
    small = rf"{{\scriptsize {_tex(interval)}}}"
    return _tex(interval) if interval in ("", words.NO_WIDTH) else f" {small}"


def _cell(outcome: Outcome | None, decimals: int) -> Cell:
    if outcome is None:
        return NO_CELL
    spread = outcome.as_row()["sd_of_draws"]
    star = STAR if outcome.p_flip <= MOST_P else ""
    cell = Cell(
        f"{words.number(outcome.value.value)}{star}",
        "" if math.isnan(spread) else f"± {words.number(spread)}",
        "" if math.isnan(outcome.value.low) else words.interval(outcome.value.low, outcome.value.high),
    )
    if not _has_change(outcome):
        return cell
    share = outcome.relative
    return replace(cell, relative=relative(share.value, decimals), relative_interval=_ends(share, decimals))


def _has_change(outcome: Outcome) -> bool:
    return outcome.condition not in (FULL_MODEL, FIRST_STAGE) and not math.isnan(outcome.relative.value)


def _ends(share: Estimate, decimals: int) -> str:
    """`[−24, −13]`, in percent; a mark where it has no width, nothing where there is none."""
    if math.isnan(share.low):
        return ""
    return words.NO_WIDTH if share.no_width else words.interval(100 * share.low, 100 * share.high, decimals)


def _decimals(contents: AblationContents, column: Column) -> int:
    """As many decimals of a column's percentages as show that its intervals are no points."""
    found = (contents.of(column, name) for name in contents.conditions)
    shares = [one.relative for one in found if one is not None and _has_change(one)]
    wide = [share for share in shares if not share.no_width and not math.isnan(share.low)]
    for decimals in range(_MOST_DECIMALS):
        if all(words.number(100 * share.low, decimals) != words.number(100 * share.high, decimals) for share in wide):
            return decimals
    return _MOST_DECIMALS


def _after(text: str) -> str:
    """Text behind other text: a mark follows at once."""
    return text if text in ("", words.NO_WIDTH) else f" {text}"


def _plain(text: str) -> str:
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in escaped)
