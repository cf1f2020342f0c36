"""How does an ablation's evaluation become one HTML file that needs no network?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from relscope.analysis import FIRST_STAGE, Outcome
from relscope.report import ablation_table as tables
from relscope.report import assets, downloads, facts, views, words
from relscope.report.ablation_contents import (
    AblationContents,
    Column,
    measure_name,
    members_by_region,
    outcome_table,
)
from relscope.report.ablation_findings import findings, share_kept
from relscope.report.findings import difference
from relscope.report.notices import EMBEDDED_MODEL, Notice, few_queries
from relscope.results import FULL_MODEL, SideRecord
from relscope.version import __version__

TOLD: Final = "Told while it was measured"
SECTIONS: Final = (
    ("table", "The table"),
    ("chart", "Beside random sets"),
    ("measures", "All measures"),
    ("sets", "The heads"),
    ("split", "The split"),
    ("reading", "How to read"),
    ("data", "Data"),
)


def render(contents: AblationContents) -> str:
    """The report as HTML text."""
    return assets.template("ablation.html.j2").render(_values(contents))


def notices(contents: AblationContents) -> list[Notice]:
    """What a reader must know before trusting anything below, the gravest first."""
    found = []
    for prompt, quality in contents.quality.items():
        if quality.at_chance:
            title = f"{prompt}: the full model is not shown to judge better than chance"
            text = f"{quality.sentence} Where there is nothing to lose, no ablation can lower it."
            found.append(Notice("alarm", title, text))
    if facts.lookup(contents.header.identity, "model.kind") == "embedded":
        found.append(Notice("warn", "This is a model to learn and test with", EMBEDDED_MODEL))
    if not contents.complete:
        text = "What follows is computed from the conditions stored so far; the same command goes on."
        found.append(Notice("warn", "This ablation is not complete", text))
    lost = [
        one
        for one in contents.outcomes
        if one.task == "ranking" and one.condition == FIRST_STAGE and one.difference.value > 0
    ]
    for one in lost:
        text = (
            f"{one.measure} of the first stage is {words.number(one.value.value)}, that of the full model "
            f"{words.number(one.full)}: an ablation that ruins the verdicts may well raise it."
        )
        found.append(Notice("warn", f"{one.prompt}: the full model ranks worse than the first stage", text))
    for text in contents.header.notes:
        found.append(Notice("warn", TOLD, f"{text[0].upper()}{text[1:]}"))
    return found + few_queries("The table rests", contents.n_queries)


def title(contents: AblationContents) -> str:
    """What the page asks."""
    how = "with the heads found alone" if contents.keep_only else "without the heads found"
    return f"What is {facts.short_name(contents.header.model)} {how}?"


def table(contents: AblationContents) -> dict[str, Any]:
    """What the macro `condition_table` shows: the main table."""
    titles = [column.title for column in contents.columns]
    return {"titles": titles, "rows": _rows(contents, contents.columns), "note": tables.note(contents)}


def _values(contents: AblationContents) -> dict[str, Any]:
    header = contents.header
    file = downloads.embedded_table("table.csv", outcome_table(contents))
    drawn = [condition.name for condition in header.conditions if condition.draw]
    fixed = [condition.name for condition in header.conditions if not condition.draw]
    return {
        "title": title(contents),
        "lead": lead(contents),
        "sections": SECTIONS,
        "notices": notices(contents),
        "findings": findings(contents),
        "table": table(contents),
        "charts": [_chart(contents, column) for column in contents.columns],
        "keep_only": contents.keep_only,
        "measures": _measures(contents),
        "facts": _facts(contents),
        "sets": members_by_region(contents, fixed),
        "drawn": members_by_region(contents, drawn),
        "selection": header.selection,
        "held_out": SideRecord(data=header.selection.data, queries=header.held_out),
        "evaluation": header.evaluation,
        "reranked": header.reranking.side if header.reranking else None,
        "shared_queries": words.count(header.shared_queries, "query", "queries"),
        "left_out": Counter((one.prompt, one.reason) for one in header.left_out).most_common(),
        "embedded": file,
        "embedded_words": f"{words.count(file.n_rows, 'row')}, {words.size(file.n_bytes)}",
        "version": __version__,
        "plot_data": {"maps": [], "limits": {}, "verdicts": None},
        "css": assets.own("report.css"),
        "js": assets.own("report.js"),
    }


def lead(contents: AblationContents) -> str:
    """On whose queries heads were chosen and ablated, and how."""
    header, settings = contents.header, contents.header.settings
    doing = "all heads but the named ones are" if settings["keep_only"] else "the named heads are"
    chosen = words.count(len(header.selection.queries), "query", "queries")
    others = words.count(len(header.evaluation.queries), "other query", "other queries")
    n = len(header.held_out)
    more = (
        f"; {n:,} more, which the run judged and did not patch, {'is' if n == 1 else 'are'} held out too" if n else ""
    )
    return (
        f"Heads were chosen by their measured effect on {chosen} of {header.selection.data}{more}. On {others} of "
        f"{header.evaluation.data}, {doing} ablated ({_kind(settings)}), beside random sets of the same size."
    )


def _kind(settings: dict[str, Any]) -> str:
    return f"mean, by {settings['positions']}" if settings["kind"] == "mean" else str(settings["kind"])


def _facts(contents: AblationContents) -> list[tuple[str, str]]:
    header, settings = contents.header, contents.header.settings
    ranked = header.reranking
    rows = [
        ("Run", header.run),
        ("Model", header.model),
        ("Adapter", header.identity["model"]["adapter"]),
        ("Ablation", _kind(settings)),
        ("Reference values", "" if settings["kind"] == "zero" else "the prompts of the run's queries"),
        ("Heads a region", f"{settings['top']:g}" if settings["top"] >= 1 else words.percent(settings["top"])),
        ("Regions", words.listing(settings["regions"])),
        ("Random draws", str(settings["draws"])),
        ("Prompts", words.listing(header.prompts)),
        ("Negative documents", settings["negatives"] or "as in the run"),
        ("Reranked", ranked and f"{ranked.first_stage}, best {ranked.depth} of {ranked.side.data}"),
        ("Started", header.created),
        ("relscope", header.relscope_version),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value]


def _chart(contents: AblationContents, column: Column) -> dict[str, Any]:
    """Changes against the full model on one axis: each condition's interval, and each draw of the random ones."""
    outcomes = [contents.of(column, name) for name in contents.conditions if name not in (FULL_MODEL, FIRST_STAGE)]
    shown = [outcome for outcome in outcomes if outcome is not None]
    ends = [value for o in shown for value in (o.difference.value, o.difference.low, o.difference.high, *_changes(o))]
    span = views.padded(np.array(ends, dtype=np.float64))
    rows = []
    for outcome in shown:
        bar = views.bar(outcome.difference, span, 0.0)
        drawn = _changes(outcome) if outcome.n_draws > 1 else []
        ticks = [round(100 * (value - span[0]) / (span[1] - span[0]), 2) for value in drawn]
        rows.append(
            {
                "name": outcome.condition,
                "bar": bar,
                "ticks": ticks,
                "value": difference(outcome.difference, 2, footnote=True),
            }
            | {"beside": share_kept(outcome) if contents.keep_only else _ratio(outcome), "p": _p(outcome)}
        )
    ranking = column.task == "ranking"
    return {
        "title": column.title,
        "rows": rows,
        "ranking": ranking,
        "footnote": words.NO_WIDTH_NOTE
        if any(words.NO_WIDTH in f"{row['value']}{row['beside']}" for row in rows)
        else "",
        "low": words.number(span[0]),
        "high": words.number(span[1]),
    }


def _changes(outcome: Outcome) -> list[float]:
    return [value - outcome.full for value in outcome.draws]


def _ratio(outcome: Outcome) -> str:
    if outcome.ratio is None:
        return ""
    if np.isnan(outcome.ratio.value):
        return "matched sets lower nothing"
    return difference(outcome.ratio, 1, footnote=True) + ("" if np.isfinite(outcome.ratio.low) else " (no interval)")


def _p(outcome: Outcome) -> str:
    if outcome.task != "ranking":
        return ""
    return f"{words.probability(outcome.p_t)}; {words.probability(outcome.p_flip)}"


def _measures(contents: AblationContents) -> list[dict[str, Any]]:
    """Of each prompt all measures of judging, as tables."""
    shown = []
    for prompt in contents.header.prompts:
        columns = [column for column in contents.judging_columns if column.prompt == prompt]
        if columns:
            titles = [measure_name(column.measure) for column in columns]
            shown.append(
                {
                    "prompt": prompt,
                    "titles": titles,
                    "rows": _rows(contents, columns),
                    "note": tables.brackets(contents, columns),
                }
            )
    return shown


def _rows(contents: AblationContents, columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [
        {"name": name, "cells": row, "strong": name in (FULL_MODEL, contents.largest)}
        for name, row in tables.cells(contents, columns)
    ]
