"""How does a circuit become one HTML file that needs no network?"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any, Final

from relscope.analysis import LEAST_QUERIES, Estimate
from relscope.report import assets, downloads, plots, words
from relscope.report.circuit_contents import METRIC_WORDS, CircuitContents
from relscope.report.findings import Finding, difference
from relscope.report.notices import EMBEDDED_MODEL, REMEDY, Notice, few_queries
from relscope.version import __version__

_SECTIONS: Final = (
    ("glance", "At a glance"),
    ("circuit", "The circuit"),
    ("curves", "Faithfulness over size"),
    ("members", "Its members"),
    ("complete", "Minimality and completeness"),
    ("reading", "How to read"),
    ("data", "Data"),
)
_MODES: Final = (("keep", "kept alone"), ("knock_out", "knocked out"))


def render(contents: CircuitContents) -> str:
    """The report as HTML text."""
    return assets.template("circuit.html.j2").render(_values(contents))


def notices(contents: CircuitContents) -> list[Notice]:
    """What a reader must know before trusting anything below, the gravest first."""
    found, gap = [], contents.ld_gap
    if math.isnan(gap.f_kept.low):
        text = "f divides by their difference, so that none of the shares below has a bounded interval."
        found.append(Notice("alarm", "The full model may be no better than the empty one here", text))
    if (ranking := contents.ranking) is not None and math.isnan(ranking.f_kept.low):
        text = (
            f"{ranking.metric} is {difference(ranking.full, 2)} of the full model and {difference(ranking.empty, 2)} "
            "with every site ablated. f divides by their difference, whose interval includes 0: read the values of "
            f"{ranking.metric}, and not its f."
        )
        found.append(Notice("warn", "The full model is not shown to rank better than the empty one here", text))
    if contents.circuit.model.get("kind") == "embedded":
        found.append(Notice("warn", "This is a model to learn and test with", EMBEDDED_MODEL))
    threshold = contents.circuit.settings.get("threshold")
    if threshold is not None and gap.f_kept.value < threshold:
        text = (
            f"It was searched until f reached {words.number(threshold)} on the queries of the selection; on those of "
            f"the evaluation, which it has not seen, f is {difference(gap.f_kept, 2)}."
        )
        found.append(Notice("warn", "The circuit keeps less than what was searched for", text))
    if "other" not in contents.circuit.regions:
        text = (
            f"Only {words.listing(contents.circuit.regions)} were candidates. At the other positions (the template's "
            "own words) heads work as in the full model, in the empty circuit too, and may hand on what members write."
        )
        found.append(Notice("warn", "Heads at the template's own words are never ablated", text))
    if (pruned := contents.manifest.get("pruned")) and pruned["n_untried"]:
        text = (
            f"{words.count(pruned['n_untried'], 'member')} were not tried alone; a larger --prune-sets may leave fewer."
        )
        found.append(Notice("warn", "Pruning was cut short", text))
    return found + few_queries("The numbers rest", contents.metrics.n_queries)


def findings(contents: CircuitContents) -> list[Finding]:
    """What was found, a sentence each; computed, never canned."""
    circuit, gap = contents.circuit, contents.ld_gap
    n, of = len(circuit), len(circuit.all_sites)
    found = [
        Finding(
            f"{words.count(n, 'site')} of {of:,} keep f = {words.number(gap.f_kept.value)} of the difference of LD",
            f"Kept alone, they leave relevant and other documents {difference(gap.kept, 2)} logits apart; the full "
            f"model {difference(gap.full, 2)}, and with every site ablated {difference(gap.empty, 2)}. f is "
            f"{difference(gap.f_kept, 2)}.",
        ),
        Finding(
            f"Without them f = {words.number(gap.f_knocked_out.value)} of the difference of LD is left",
            f"Knocked out of the full model, they leave {difference(gap.knocked_out, 2)} logits; f is "
            f"{difference(gap.f_knocked_out, 2)}.",
        ),
    ]
    if (ranking := contents.ranking) is not None:
        found.append(
            Finding(
                f"{ranking.metric} is {words.number(ranking.kept.value)} with the circuit alone, "
                f"{words.number(ranking.full.value)} with the full model",
                f"Over {words.count(contents.n_ranked, 'reranked query', 'reranked queries')}: "
                f"{difference(ranking.kept, 2)} alone, {difference(ranking.knocked_out, 2)} knocked out, "
                f"{difference(ranking.full, 2)} of the full model and {difference(ranking.empty, 2)} with every site "
                f"ablated. f is {difference(ranking.f_kept, 2)} alone and {difference(ranking.f_knocked_out, 2)} "
                "knocked out.",
            )
        )
    if gap.randoms:
        low, high = words.number(min(gap.randoms)), words.number(max(gap.randoms))
        f_kept = low if low == high else f"{low} to {high}"
        found.append(
            Finding(
                f"Random sets of this size keep f = {f_kept} of the difference of LD",
                f"{words.count(len(gap.randoms), 'set')} drawn at random, as many at each region, kept alone. By other "
                "metrics they may keep more: the table has them.",
            )
        )
    if contents.losses and 1 < contents.metrics.n_queries < LEAST_QUERIES:
        found.append(
            Finding(
                f"{contents.metrics.n_queries} queries cannot tell which members are needed",
                f"At least {LEAST_QUERIES} queries are needed to tell a loss from chance: {REMEDY}.",
            )
        )
    elif contents.losses:
        needed = [name for name, loss in contents.losses if loss.low > 0]
        found.append(
            Finding(
                f"Of {words.count(len(contents.losses), 'member')} left out one by one, {len(needed)} are needed",
                "Needed are those whose loss of f has an interval above 0"
                + (f": {words.listing(needed[:8])}{' and others' if len(needed) > 8 else ''}." if needed else "."),
            )
        )
    if contents.incompleteness:
        values = [one.value for one in contents.incompleteness]
        found.append(
            Finding(
                f"Random parts taken out of circuit and model leave them up to {words.number(max(values))} apart",
                f"The mean over {words.count(len(values), 'part')} is {words.number(sum(values) / len(values))} of the "
                "full model less the empty one; 0 is a circuit that is complete.",
            )
        )
    return found


def title(contents: CircuitContents) -> str:
    """How large the circuit is."""
    return f"A circuit of {words.count(len(contents.circuit), 'site')}: heads at regions"


def lead(contents: CircuitContents) -> str:
    """What is asked, of which model, with which prompt, on which data."""
    circuit = contents.circuit
    adapter = f" with {circuit.model['adapter']}" if circuit.model.get("adapter") else ""
    return (
        f"{circuit.model.get('name')}{adapter}, {circuit.faithfulness['prompt']}, {circuit.faithfulness['data']} "
        f"({circuit.faithfulness['negatives']} negatives): what is left of the verdicts when all other heads are "
        "ablated?"
    )


def _values(contents: CircuitContents) -> dict[str, Any]:
    circuit, manifest = contents.circuit, contents.manifest
    file = downloads.embedded_table("curves.csv", contents.curves) if len(contents.curves) else None
    enough = contents.metrics.n_queries >= LEAST_QUERIES
    shown = {"curves": bool(len(contents.curves)), "complete": bool(contents.losses or contents.incompleteness)}
    by_region = groupby(sorted(circuit, key=lambda m: (words.region_key(m.region), m)), key=lambda m: m.region)
    return {
        "title": title(contents),
        "lead": lead(contents),
        "sections": [section for section in _SECTIONS if shown.get(section[0], True)],
        "notices": notices(contents),
        "findings": findings(contents),
        "facts": _facts(contents),
        "measured": [
            {"name": one.words} | {column: _cell(getattr(one, column)) for column in
             ("full", "empty", "kept", "knocked_out", "f_kept", "f_knocked_out")}
            | {"randoms": ", ".join(words.number(value) for value in one.randoms) or words.MISSING}
            for one in contents.measured
        ],
        "areas": [
            {"name": METRIC_WORDS.get(one.metric, one.metric), "cpr": _cell(one.cpr), "cmd": _cell(one.cmd)}
            for one in contents.areas
        ],
        "from_share": f"{100 * contents.areas[0].from_share:.2g}\u00a0%" if contents.areas else "",
        "plots": (drawn := curves(contents, "curve")),
        "regions": [(region, [words.head_name(m.layer, m.head) for m in members]) for region, members in by_region],
        "losses": [(name, _cell(loss), enough and loss.low > 0) for name, loss in contents.losses],
        "n_members": len(circuit),
        "parts": [_cell(one) for one in contents.incompleteness],
        "footnotes": _footnotes(contents),
        "method": contents.method,
        "embedded": file,
        "embedded_words": f"{words.count(file.n_rows, 'row')}, {words.size(file.n_bytes)}" if file else "",
        "n_queries": words.count(_n_queries(manifest), "query", "queries"),
        "ranked": contents.ranking and contents.ranking.metric,
        "n_ranked": words.count(contents.n_ranked, "query", "queries"),
        "version": __version__,
        "plot_data": {"maps": [], "limits": {}, "quantities": {}, "zoom": False, "verdicts": None, "lines": drawn},
        "css": assets.own("report.css"),
        "js": assets.own("report.js"),
        "plotly": assets.plotly(),
    }  # fmt: skip


def _n_queries(manifest: dict[str, Any]) -> int:
    """How many queries the evaluation has."""
    return len(set(manifest["query_of"].values()))


def _facts(contents: CircuitContents) -> list[tuple[str, str]]:
    circuit, manifest = contents.circuit, contents.manifest
    facts = [
        ("Model", f"{circuit.model.get('name')}, weights {str(circuit.model['fingerprint'])[:12]}"),
        ("Found on", f"{circuit.data['source']}, {circuit.prompt['format']}-{circuit.prompt['order']}"),
        ("Evaluated on", f"{circuit.faithfulness['data']}, {circuit.faithfulness['prompt']}"),
        ("Ablation", f"{circuit.ablation['kind']}, means by {circuit.ablation['positions']}"
         if circuit.ablation["kind"] == "mean" else str(circuit.ablation["kind"])),
        ("Queries", f"{manifest['n_selection_queries']} of the selection, {manifest['n_reference_queries']} that give "
                    f"the ablation's values, {_n_queries(manifest)} of the evaluation"),
        ("Pairs evaluated", f"{len(manifest['query_of'])}; {manifest['n_excluded']} could not be asked about"),
    ]  # fmt: skip
    if contents.n_ranked:
        options = manifest["identity"]["options"]
        ranked = words.count(contents.n_ranked, "query", "queries")
        facts.append(("Reranked", f"{options['rerank']}, the first stage's best {options['depth']} of {ranked}"))
    if grown := manifest.get("grown"):
        pruned = manifest["pruned"]
        facts.append(
            (
                "Search",
                f"grown to {grown['n_sites']:,} sites (f = {words.number(grown['faithfulness'], 3)} on the selection's "
                f"queries), pruned to {pruned['n_sites']:,} (f = {words.number(pruned['faithfulness'], 3)}) in "
                f"{words.count(pruned['n_tried'], 'set')}",
            )
        )
    return facts


def curves(contents: CircuitContents, identifier: str) -> list[dict[str, Any]]:
    """A plot over size for each metric, as the macro `curve_figures` and the script want them.

    Of verdicts f is drawn. Of a reranking the measure itself: every site ablated leaves the first stage, and not a
    ranking without any sense, so that f divides by a small difference.

    Args:
        contents: of the circuit.
        identifier: what the elements' ids begin with; no other plots of the page have it.
    """
    drawn = []
    for number, metric in enumerate(dict.fromkeys(contents.curves["metric"])):
        is_ranking = metric not in METRIC_WORDS
        column = "value" if is_ranking else "faithfulness"
        ends = {column: "mean", f"{column}_low": "low", f"{column}_high": "high"}
        of_metric = contents.curves[(contents.curves["metric"] == metric) & (contents.curves["n_sites"] > 0)]
        lines = [(name, of_metric[of_metric["mode"] == mode].rename(columns=ends)) for mode, name in _MODES]
        label = METRIC_WORDS.get(metric, metric)
        y_title = label if is_ranking else "f"
        plot = plots.lines(f"{identifier}-{number}", "sites in the circuit (log scale)", y_title, lines, x="n_sites")
        what, note = (label, _ranking_note(contents)) if is_ranking else (f"f of {label}", "")
        drawn.append(plot | {"log_x": True, "title": label, "label": f"{what} over the number of sites.", "note": note})
    return drawn


def _footnotes(contents: CircuitContents) -> dict[str, str]:
    """Of each table what its marks mean, where it has any."""
    tables = {
        "circuit": [value for one in contents.measured for value in vars(one).values() if isinstance(value, Estimate)],
        "areas": [area for one in contents.areas for area in (one.cpr, one.cmd)],
        "losses": [loss for _, loss in contents.losses],
        "parts": list(contents.incompleteness),
    }
    return {name: words.NO_WIDTH_NOTE if any(one.no_width for one in of) else "" for name, of in tables.items()}


def _ranking_note(contents: CircuitContents) -> str:
    """How the curve of a reranking is to be read."""
    ranking = contents.ranking
    assert ranking is not None  # it has a curve
    return (
        f"{ranking.metric} itself, and not f, over {words.count(contents.n_ranked, 'query', 'queries')}: "
        f"{words.number(ranking.full.value)} with the full model, {words.number(ranking.empty.value)} with every site "
        "ablated."
    )


def _cell(value: Estimate) -> dict[str, str]:
    places = 2
    if value.no_width:
        return {"value": words.number(value.value, places) + words.NO_WIDTH, "interval": ""}
    interval = "" if math.isnan(value.low) else words.interval(value.low, value.high, places)
    return {"value": words.number(value.value, places), "interval": interval}
