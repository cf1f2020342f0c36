"""How does the table of an ablation look in a paper? As Table 1 of Liu, Mao and Wen (arXiv 2504.07898).

One row a condition, one column a task and prompt: the value, its interval over queries (for random sets over draws too,
with the draws' standard deviation), and in parentheses the change relative to the full model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from relscope.analysis import FIRST_STAGE, Outcome, interval_method
from relscope.report import words
from relscope.report.ablation_contents import AblationContents
from relscope.results import FULL_MODEL

_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell's texts: value, standard deviation of the draws, interval, change relative to the full model."""

    value: str
    spread: str
    interval: str
    relative: str

    @property
    def text(self) -> str:
        """All that is there, in one line."""
        return " ".join(part for part in (self.value, self.spread, self.interval, self.relative) if part)


NO_CELL = Cell(words.MISSING, "", "", "")


def cells(contents: AblationContents) -> list[tuple[str, list[Cell]]]:
    """Each row of the table: the condition, and a cell for each of `contents.columns`."""
    return [(name, [_cell(contents.of(column, name)) for column in contents.columns]) for name in contents.conditions]


def note(contents: AblationContents) -> str:
    """What the numbers are, in a sentence or two."""
    settings = contents.header.settings
    how = " of all heads but these" if settings["keep_only"] else ""
    shown = [contents.of(column, name) for column in contents.columns for name in contents.conditions]
    method = interval_method(outcome.value for outcome in shown if outcome is not None)
    drawn = [condition.draw for condition in contents.header.conditions]
    text = (
        f"{settings['kind'].capitalize()} ablation{how}; {contents.header.evaluation.data}, "
        f"{words.count(len(contents.header.evaluation.queries), 'query', 'queries')} by which no head was chosen. "
        f"Brackets: 95 % intervals over queries ({method}), for random sets over draws too. Parentheses: change "
        f"relative to the full model. Random sets: mean of {max(drawn)} draws"
    )
    if contents.header.reranking is not None:
        text += f" (reranking: {contents.header.reranking.n_draws})"
    return text + ", ± their standard deviation."


def markdown(contents: AblationContents) -> str:
    """The table in Markdown."""
    lines = ["| | " + " | ".join(_plain(column.title) for column in contents.columns) + " |"]
    lines.append("| --- |" + " --- |" * len(contents.columns))
    lines += [f"| {name} | " + " | ".join(cell.text for cell in row) + " |" for name, row in cells(contents)]
    return "\n".join([*lines, "", note(contents), ""])


def latex(contents: AblationContents) -> str:
    """The table in LaTeX, for the package booktabs."""
    columns = contents.columns
    lines = [
        "% " + note(contents),
        rf"\begin{{tabular}}{{l{'l' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(_tex(f"{column.title}") for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for name, row in cells(contents):
        shown = [
            " ".join(
                part
                for part in (
                    _tex(cell.value),
                    _tex(cell.spread),
                    rf"{{\scriptsize {_tex(cell.interval)}}}" if cell.interval else "",
                    _tex(cell.relative),
                )
                if part
            )
            for cell in row
        ]
        lines.append(" & ".join([_tex(name), *shown]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(outcome: Outcome | None) -> Cell:
    if outcome is None:
        return NO_CELL
    spread = outcome.as_row()["sd_of_draws"]
    drawn = "" if math.isnan(spread) else f"± {words.number(spread)}"
    whole = outcome.condition in (FULL_MODEL, FIRST_STAGE)
    return Cell(
        words.number(outcome.value.value),
        drawn,
        "" if math.isnan(outcome.value.low) else words.interval(outcome.value.low, outcome.value.high),
        "" if whole or math.isnan(outcome.relative) else f"({relative(outcome.relative)})",
    )


def relative(share: float) -> str:
    """`−12 %`, with a sign."""
    text = words.number(100 * share, 0)
    return f"{text if text.startswith(words.MINUS) or text == '0' else '+' + text}\u00a0%"


def _plain(text: str) -> str:
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return (
        escaped.replace(words.MINUS, "$-$").replace("±", r"$\pm$").replace("\u00a0", "~").replace(words.MISSING, "--")
    )
