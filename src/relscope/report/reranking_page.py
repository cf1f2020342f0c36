"""How does the page show what rerankings are worth, and what they cost?

Of each a table of its measures with the differences of all queries; those that are of the same queries stand beside
each other first (`relscope.report.quality_cost`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from relscope.analysis import LEAST_QUERIES, RankingComparison
from relscope.report import words
from relscope.report.findings import Finding
from relscope.report.notices import REMEDY, Notice, few_queries
from relscope.report.quality_cost import PLACES, quality_cost_view, seconds, signed
from relscope.report.reranking_contents import RerankingContents, stand_together, together
from relscope.results import MEASURES_NAME, Spent

RERANKINGS: Final = "Does it rank better?"
MOST_BARS: Final = 400
"""More queries than these are drawn as so many of them, evenly over the sorted differences."""
MOST_P: Final = 0.05
_NO_TIME: Final = "not known: an earlier version judged, and kept no time"


def reranking_view(
    rerankings: Sequence[RerankingContents], run_dir: Path, told: Sequence[Notice]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """What the template shows (None: there is no such section), and the figures that the script draws.

    Args:
        rerankings: in the order in which they are shown.
        run_dir: of the report, which links their files.
        told: notices of the page, which are not told again.
    """
    known = {(notice.title, notice.text) for notice in told}
    shown, drawn = [], []
    for number, group in enumerate(stand_together(rerankings)):
        view: dict[str, Any] = {"together": None, "members": [_member(one, run_dir, known) for one in group]}
        if len(group) > 1:
            view["together"], figure = quality_cost_view(together(group), f"cost-{number}")
            drawn += [figure] if figure else []
        shown.append(view)
    if not shown:
        return None, []
    apart = "" if len(shown) < 2 else (
        "They are in groups, each of the same queries: rerankings of different groups have no query in common, or "
        "began there with other documents, and are not to be compared by their values."
    )  # fmt: skip
    return {"groups": shown, "apart": apart}, drawn


def finding(one: RerankingContents) -> Finding | None:
    """Does it rank better than the first stage, by its first measure? None where nothing is measured."""
    if not one.comparisons:
        return None
    main, first = one.comparisons[0], one.header.first_stage
    before, now = (words.number(value.value, PLACES) for value in (main.baseline_value, main.value))
    values = f"{main.measure} is {now} after {before} of {first}"
    if main.n_queries < LEAST_QUERIES:
        n = words.count(main.n_queries, "query", "queries")
        remedy = f"At least {LEAST_QUERIES} queries are needed to tell a difference from chance: {REMEDY}."
        return Finding(f"{n} cannot tell whether it ranks better than {first}", f"{values}. {remedy}")
    text = (
        f"{values}: {signed(main)}, p {words.probability(main.p_t_holm)} by the t-test and "
        f"{words.probability(main.p_flip_holm)} by sign flips."
    )
    if max(main.p_t_holm, main.p_flip_holm) <= MOST_P:
        how = "better" if main.difference.value > 0 else "worse"
        return Finding(f"By {main.measure} it ranks {how} than {first}", text)
    return Finding(f"By {main.measure} it is not shown to rank better or worse than {first}", text)


def _member(one: RerankingContents, run_dir: Path, known: set[tuple[str, str]]) -> dict[str, Any]:
    found = finding(one)
    notices = [Notice("warn", "Where its heads come from", doubt) for doubt in one.doubts]
    notices += [
        Notice("warn", "Told while it was measured", f"{text[0].upper()}{text[1:]}.") for text in one.header.notes
    ]
    if one.comparisons:
        notices += few_queries("The measures rest", one.comparisons[0].n_queries)
    span = _span(one)
    return {
        "title": f"{one.name[0].upper()}{one.name[1:]}",
        "lead": _lead(one),
        "links": [
            (one.run_file.name, _href(one.run_file, run_dir)),
            (MEASURES_NAME, _href(one.folder / MEASURES_NAME, run_dir)),
        ],
        "notices": [notice for notice in notices if (notice.title, notice.text) not in known],
        "findings": [found] if found else [],
        "rows": [_row(one, compared, span) for compared in one.comparisons],
        "low": words.number(span[0], 2),
        "high": words.number(span[1], 2),
        "note": _note(one),
        "facts": _facts(one),
    }


def _lead(one: RerankingContents) -> str:
    header = one.header
    return (
        f"The best {header.depth:,} documents of {header.first_stage} for "
        f"{words.count(header.n_queries, 'query', 'queries')} of {header.data}, ranked again by {header.asked}."
    )


def _row(one: RerankingContents, compared: RankingComparison, span: tuple[float, float]) -> dict[str, Any]:
    return {
        "measure": compared.measure,
        "first": words.number(compared.baseline_value.value, PLACES),
        "reranked": words.number(compared.value.value, PLACES),
        "difference": signed(compared),
        "p_t": words.probability(compared.p_t_holm),
        "p_flip": words.probability(compared.p_flip_holm),
        "bars": _bars(one, compared.measure, span),
    }


def _span(one: RerankingContents) -> tuple[float, float]:
    """The range that holds 0 and the differences of all measures."""
    found = np.concatenate([[0.0], *(one.differences(measure)["difference"] for measure in one.measures)])
    low, high = float(found.min()), float(found.max())
    return (low, high) if low < high else (-1.0, 1.0)


def _bars(one: RerankingContents, measure: str, span: tuple[float, float]) -> dict[str, Any]:
    """A bar a query, largest difference first, as heights and places on a drawing that is 40 high."""
    of = one.differences(measure)
    n = len(of)
    chosen = range(n) if n <= MOST_BARS else np.linspace(0, n - 1, MOST_BARS).round().astype(int)

    def at(value: float) -> float:
        return round(40 * (span[1] - value) / (span[1] - span[0]), 2)

    bars = []
    for place, i in enumerate(chosen):
        row = of.iloc[int(i)]
        value, zero = at(row["difference"]), at(0.0)
        before, now = (words.number(row[system], PLACES) for system in ("first", "reranked"))
        bars.append(
            {
                "x": place,
                "y": min(value, zero),
                "height": round(abs(value - zero), 2),
                "up": bool(row["difference"] > 0),
                "told": f"{row['query_id']}: {before} → {now}",
            }
        )
    up, down = int((of["difference"] > 0).sum()), int((of["difference"] < 0).sum())
    counts = f"{up:,} higher, {n - up - down:,} the same, {down:,} lower"
    return {
        "bars": [bar for bar in bars if bar["height"]],
        "n": len(bars),
        "zero": at(0.0),
        "counts": counts if n <= MOST_BARS else f"{counts}; {MOST_BARS} of {n:,} are drawn",
        "label": f"{measure} less the first stage's of {words.count(n, 'query', 'queries')}, sorted: {counts}.",
    }


def _note(one: RerankingContents) -> str:
    header = one.header
    if not one.comparisons:
        return "No query is judged: nothing is measured."
    n_measures = len(one.comparisons)
    holm = f", corrected by Holm's method over the {n_measures} measures of this reranking" if n_measures > 1 else (
        "; one measure, so that there is nothing to correct for"
    )  # fmt: skip
    judged = words.count(one.comparisons[0].n_queries, "judged query", "judged queries")
    n = header.n_not_judged
    return (
        f"Means over {judged}. Brackets: 95 % intervals over queries (bootstrap). p: paired t-test and sign flips, "
        f"two-sided{holm}. {words.count(n, 'document')} {'is' if n == 1 else 'are'} not judged and "
        f"{'counts' if n == 1 else 'count'} as not relevant."
    )


def _facts(one: RerankingContents) -> list[tuple[str, str]]:
    header, per_100 = one.header, one.per_100_documents
    model, heads = header.model, header.heads
    chosen_on = "not known"
    if heads and heads.n_chosen_on:
        chosen_on = f"{words.count(heads.n_chosen_on, 'query', 'queries')}, not ranked"
    rows = [
        ("Model", f"{header.asked}, weights {str(model['fingerprint'])[:12]}, {model['dtype']}"),
        ("Prompt and method", f"{header.prompt}, {header.method}"),
        ("Heads", heads and words.listing(dict.fromkeys(words.head_name(la, he) for la, he, _ in heads.members))),
        ("Read as", heads and f"{heads.reading}, {'' if heads.calibrated else 'not '}calibrated"),
        ("Heads were chosen by", heads and chosen_on),
        ("Last layer computed", f"{header.last_layer} (the model has 0 to {header.n_layers - 1})"),
        ("Prompts", f"{header.n_prompts:,} for {words.count(header.n_documents, 'document')}"),
        ("Left out", ", ".join(f"{n:,} {reason}" for reason, n in header.n_left_out.items())),
        ("Cost of 100 documents", _spent(per_100) if per_100 else _NO_TIME),
        ("Cost of all", per_100 and _time(one)),
        ("Seed", str(header.seed)),
        ("Measured", f"{header.created[:16].replace('T', ' ')}, relscope {header.relscope_version}"),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value]


def _spent(spent: Spent) -> str:
    return f"{seconds(spent.cpu_seconds)} CPU seconds, {seconds(spent.wall_seconds)} s by the clock ({spent.device})"


def _time(one: RerankingContents) -> str:
    cost, n = one.cost, one.header.n_prompts
    n_unknown = n - cost.n_prompts
    part = f"; {n_unknown:,} of {n:,} prompts were judged by a version that kept no time" if n_unknown > 0 else ""
    return (
        f"{seconds(cost.cpu_seconds)} CPU seconds, {seconds(cost.wall_seconds)} s by the clock, of "
        f"{words.count(cost.n_prompts, 'prompt')} in {words.count(cost.n_calls, 'call')}{part}"
    )


def _href(path: Path, run_dir: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), run_dir.resolve())).as_posix())
