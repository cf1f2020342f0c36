"""What does an ablation say of the heads? One finding a column of the table, computed from its outcomes.

A set that is knocked out is to lower the measure more than the random sets matched to it; one that is kept alone is to
keep more of it than they do. Either is said only where both hold: the interval of its change lies beyond that of theirs
on the right side, and so few draws do as much that p <= 0.05 (`Outcome.p_draws`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from relscope.analysis import FIRST_STAGE, LEAST_DRAWS, LEAST_QUERIES, MOST_P, Estimate, Outcome
from relscope.report import words
from relscope.report.ablation_contents import TASK_NAMES, AblationContents, Column, measure_name
from relscope.report.findings import Finding, difference, estimate
from relscope.report.notices import REMEDY

_CHANCE = 0.5
"""ROC AUC of verdicts that know nothing."""


def findings(contents: AblationContents) -> list[Finding]:
    """Of each column: does the largest set do more than the random sets that are matched to it?"""
    found = (_finding(contents, column) for column in contents.columns)
    return [one for one in found if one is not None]


def share_kept(outcome: Outcome) -> str:
    """How much of the full model's value is left: `86 %`."""
    return words.percent(1 + outcome.relative.value)


def _finding(contents: AblationContents, column: Column) -> Finding | None:
    chosen = contents.of(column, contents.largest)
    if chosen is None:
        return None
    measure = measure_name(column.measure)
    where = f"{TASK_NAMES[column.task]}, {column.prompt}"
    what = f"With only {chosen.condition} left" if contents.keep_only else f"Without {chosen.condition}"
    value = f"{what}, {measure} is {estimate(chosen.value, 2)}"
    if withheld := _withheld(contents, column, chosen):
        title, reason = withheld
        return Finding(f"{where}: {title}", f"{value}; the full model's is {words.number(chosen.full)}. {reason}")
    text = f"{value}, {_change(chosen)} the full model's {words.number(chosen.full)}"
    tell = _kept if contents.keep_only else _lost
    title, more = tell(contents, column, chosen)
    return Finding(f"{where}: {title}", text + more)


def _withheld(contents: AblationContents, column: Column, chosen: Outcome) -> tuple[str, str] | None:
    """Why nothing can be said of a column, in short and in a sentence; None where something can."""
    quality = contents.quality.get(column.prompt)
    if quality is not None and quality.at_chance:
        little, says = (
            ("keep", "what is left does not say")
            if contents.keep_only
            else ("lose", "neither a decrease nor its absence says")
        )
        return (
            "nothing can be said, as the full model is not shown to judge better than chance",
            f"Where there may be nothing to {little}, {says} which heads matter.",
        )
    if chosen.full == 0:
        measure = measure_name(column.measure)
        return f"nothing can be said, as the full model's {measure} is 0", "There is no share of it to lose or to keep."
    if chosen.n_queries < LEAST_QUERIES:
        n = words.count(chosen.n_queries, "query", "queries")
        return (
            f"{n} cannot tell what {chosen.condition} does",
            f"At least {LEAST_QUERIES} queries are needed to tell a change from chance: {REMEDY}.",
        )
    first = contents.of(column, FIRST_STAGE)
    is_lower = chosen.difference.high < 0  # then something was lost, whatever the first stage has
    if first is not None and not first.difference.high < 0 and (contents.keep_only or not is_lower):
        return (
            "nothing can be said, as the full model is not shown to rank better than the first stage",
            f"The first stage has {estimate(first.value, 2)}: where the model adds little, little can be lost or kept. "
            "More queries or a larger --depth may show what it adds.",
        )
    return None


def _lost(contents: AblationContents, column: Column, chosen: Outcome) -> tuple[str, str]:
    """Of a set that is knocked out: title, and what follows its value."""
    measure, matched = measure_name(column.measure), contents.matched(column, chosen.condition)
    beside = "" if matched is None else _beside(chosen, matched, measure)
    return _title_of_lost(chosen, matched, measure), f".{beside}{_order(contents, column, chosen)}"


def _title_of_lost(chosen: Outcome, matched: Outcome | None, measure: str) -> str:
    if _nothing_changed(chosen):
        return f"{chosen.condition} changes nothing: {measure} stays {words.number(chosen.full)}"
    if not chosen.difference.high < 0:
        return f"{chosen.condition} is not shown to lower {measure}"
    title = f"{chosen.condition} lowers {measure}"
    if matched is None:
        return title
    if matched.n_draws < LEAST_DRAWS:
        return f"{title}; {_too_few(matched)}"
    standing = _standing(chosen, matched, upwards=False)
    if standing == "below":
        return f"{title}, but less than matched random sets on average"
    if standing == "overlapping":
        return f"{title}, not shown to be more than matched random sets"
    if chosen.p_draws <= MOST_P:
        return f"{title} more than matched random sets"
    return f"{title} more than matched random sets on average, but {_as_large(chosen, matched, 'lower')} it as much"


def _beside(chosen: Outcome, matched: Outcome, measure: str) -> str:
    """What the sets do that are matched to one that is knocked out."""
    theirs = -matched.difference.value
    sets = words.count(matched.n_draws, "random set")
    average = " on average" if matched.n_draws > 1 else ""
    if _nothing_changed(matched):
        either = " either" if _nothing_changed(chosen) else ""
        text = f" By {sets} matched to it, {measure} does not change{either}"
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
    text += f"; {_as_large(chosen, matched, 'lower')} it at least as much{_p(chosen, matched)}"
    standing = _standing(chosen, matched, upwards=False)
    if standing == "overlapping":
        text += ", and the intervals of the two decreases overlap."
    else:
        text += f", and the interval of its decrease lies {standing} that of theirs."
    return text + _why_too_few(matched, "lower it most", "does more than")


def _kept(contents: AblationContents, column: Column, chosen: Outcome) -> tuple[str, str]:
    """Of a set that is kept alone: title, and what follows its value."""
    measure, matched = measure_name(column.measure), contents.matched(column, chosen.condition)
    text = f": it keeps {share_kept(chosen)}."
    if matched is not None:
        sets = words.count(matched.n_draws, "random set")
        leaves, they = ("leaves", "it keeps") if matched.n_draws == 1 else ("leave", "on average they keep")
        text += f" {sets} matched to it {leaves} it {_change(matched)} the full model's: {they} {share_kept(matched)}."
        text += f" {_as_large(chosen, matched, 'keep')} at least as much{_p(chosen, matched)}"
        standing = _standing(chosen, matched, upwards=True)
        if standing == "overlapping":
            text += ", and the intervals of the two changes overlap."
        else:
            text += f", and the interval of the set's change lies {standing} that of theirs."
        text += _why_too_few(matched, "keep most", "keeps more than")
    first = contents.of(column, FIRST_STAGE)
    if first is not None:
        text += f" The first stage, without any model, has {words.number(first.value.value)}."
    order = contents.of(Column(column.task, column.prompt, "roc_auc"), chosen.condition)
    if order is not None and not order.value.low > _CHANCE:
        text += (
            f" ROC AUC is {estimate(order.value, 2)}, not shown to be above that of chance: what is left of {measure} "
            "may be that of verdicts which do not tell relevant documents from others."
        )
        return f"{chosen.condition} alone is not shown to judge better than chance", text
    return _title_of_kept(chosen, matched, measure), text + _order(contents, column, chosen)


def _title_of_kept(chosen: Outcome, matched: Outcome | None, measure: str) -> str:
    title = f"{chosen.condition} alone keeps {share_kept(chosen)} of {measure}"
    if matched is None:
        return title
    if matched.n_draws < LEAST_DRAWS:
        return f"{title}; {_too_few(matched)}"
    standing = _standing(chosen, matched, upwards=True)
    if standing == "below":
        return f"{title}, less than matched random sets on average"
    if standing == "overlapping":
        return f"{title}, not shown to be more than matched random sets"
    if chosen.p_draws <= MOST_P:
        return f"{title}, more than matched random sets"
    return f"{title}, more than matched random sets on average, but {_as_large(chosen, matched, 'keep')} as much"


def _order(contents: AblationContents, column: Column, chosen: Outcome) -> str:
    """Whether verdicts are moved across LD = 0 or blurred: the order of prompts by LD tells the two apart."""
    order = contents.of(Column(column.task, column.prompt, "roc_auc"), chosen.condition)
    if order is None or not chosen.difference.high < 0:
        return ""
    text = f" ROC AUC is {estimate(order.value, 2)}, {_change(order)} the full model's {words.number(order.full)}"
    if order.difference.high < 0:
        return f"{text}: relevant and other documents are told apart less well."
    return f"{text}, which is not shown to be a decrease: verdicts move across LD = 0 more than their order is lost."


def _standing(chosen: Outcome, matched: Outcome, *, upwards: bool) -> Literal["above", "below", "overlapping"]:
    """Where the interval of the set's change lies beside that of its matched sets; decreases unless `upwards`."""
    higher, lower = chosen.difference.low > matched.difference.high, chosen.difference.high < matched.difference.low
    above, below = (higher, lower) if upwards else (lower, higher)
    return "above" if above else "below" if below else "overlapping"


def _as_large(chosen: Outcome, matched: Outcome, do: str) -> str:
    """`5 of 20 draws lower`."""
    n = chosen.n_as_large or 0
    return f"{n} of {words.count(matched.n_draws, 'draw')} {do}{'s' if 1 in (n, matched.n_draws) else ''}"


def _p(chosen: Outcome, matched: Outcome) -> str:
    """The p of the draws, where they are enough for it to be small."""
    return "" if matched.n_draws < LEAST_DRAWS else f" (p = {words.probability(chosen.p_draws)})"


def _too_few(matched: Outcome) -> str:
    draws = words.count(matched.n_draws, "random draw")
    verb = "is" if matched.n_draws == 1 else "are"
    return f"{draws} {verb} too few to say whether more than matched sets"


def _why_too_few(matched: Outcome, most: str, more: str) -> str:
    if matched.n_draws >= LEAST_DRAWS:
        return ""
    share = words.percent(1 / (matched.n_draws + 1))
    return (
        f" One more random set would {most} of all by chance in {share} of cases: at least {LEAST_DRAWS} draws are "
        f"needed to say that the set {more} random ones (--draws, --rerank-draws)."
    )


def _nothing_changed(outcome: Outcome) -> bool:
    """True if the measure is that of the full model, whichever queries are drawn."""
    return outcome.difference.value == 0 and outcome.difference.no_width


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
