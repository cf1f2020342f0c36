"""How does a comparison of runs become one HTML file that needs no network?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from relscope.analysis import LEAST_QUERIES, RBO_P
from relscope.report import assets, downloads, facts, views, words
from relscope.report import similarity_views as sv
from relscope.report.comparison_maps import Family
from relscope.report.comparison_views import LAYER_COLOURS, SHARE_WORDS
from relscope.report.map_kinds import EDGES, MapKind
from relscope.report.maps import COLOURS
from relscope.report.notices import EMBEDDED_MODEL, Notice, few_queries
from relscope.report.similarity_contents import MAP_KINDS, Mechanisms, PairOfRuns, not_compared, similarity_table
from relscope.report.similarity_findings import findings
from relscope.version import __version__

SECTIONS: Final = (
    ("runs", "The runs"),
    ("glance", "At a glance"),
    ("maps", "Maps side by side"),
    ("sites", "Site against site"),
    ("measures", "Measures"),
    ("left", "Not compared"),
    ("reading", "How to read"),
    ("data", "Data"),
)
MOST_RUNS_IN_SCATTERS: Final = 3
"""With more runs, each is drawn against the first only."""


def render(mechanisms: Mechanisms) -> str:
    """The report as HTML text."""
    return assets.template("similarity.html.j2").render(_values(mechanisms))


def _values(mechanisms: Mechanisms) -> dict[str, Any]:
    families = mechanisms.families
    tabled = _tabled(families)
    shown: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    for family in families:
        shown.append(sv.family_view(family, mechanisms, len(plots), table=family.kind in tabled))
        plots += sv.plot_maps(family, mechanisms, len(plots))
    drawn = [
        pair
        for pair in mechanisms.pairs
        if len(mechanisms.runs) <= MOST_RUNS_IN_SCATTERS or pair.one is mechanisms.runs[0]
    ]
    headlines = [(pair, found) for pair in drawn for found in pair.headline]
    scatters = [sv.site_scatter(pair, found, f"scatter-{i}") for i, (pair, found) in enumerate(headlines)]
    file = downloads.embedded_table("similarity.csv", similarity_table(mechanisms.pairs))
    return {
        "title": f"Do {len(mechanisms.runs)} runs find the same mechanism?",
        "lead": _lead(mechanisms),
        "sections": SECTIONS,
        "notices": notices(mechanisms),
        "run_facts": _facts(mechanisms),
        "runs": mechanisms.runs,
        "findings": findings(mechanisms),
        "families": shown,
        "map_notes": _map_notes(mechanisms),
        "has_edges": any(family.kind is EDGES for family in families),
        "many_directions": len({family.direction for family in families}) > 1,
        "quantity_words": sv.quantity_words(mechanisms.quantity),
        "shows_ie": mechanisms.quantity == "ie",
        "colours": COLOURS,
        "layer_colours": LAYER_COLOURS,
        "scatters": scatters,
        "scatters_of_first": len(drawn) < len(mechanisms.pairs),
        "pairs": [
            {"heading": f"{pair.one.name} and {pair.other.name}", "rows": sv.similarity_rows(pair)}
            for pair in mechanisms.pairs
            if pair.found
        ],
        "measures": sv.measure_names(),
        "rbo_p": RBO_P,
        "least_queries": LEAST_QUERIES,
        "matching": _matching(mechanisms),
        "not_compared": sv.left_rows(not_compared(mechanisms.pairs)),
        "embedded": file,
        "embedded_words": f"{words.count(file.n_rows, 'row')}, {words.size(file.n_bytes)}",
        "version": __version__,
        "plot_data": {
            "quantity": mechanisms.quantity,
            "quantities": {"runs": mechanisms.quantity},
            "share_words": {**SHARE_WORDS, "runs": "IE"},
            "colours": COLOURS,
            "layer_colours": LAYER_COLOURS,
            "limits": {},
            "limit_words": {},
            "zoom": False,
            "maps": plots,
            "site_scatters": scatters,
            "verdicts": None,
        },
        "css": assets.own("report.css"),
        "js": assets.own("report.js"),
        "plotly": assets.plotly(),
    }


def notices(mechanisms: Mechanisms) -> list[Notice]:
    """What a reader must know before trusting anything below, the gravest first."""
    found = []
    poor = [run for run in mechanisms.runs if run.letter in mechanisms.quality]
    poor = [run for run in poor if mechanisms.quality[run.letter].at_chance]
    if poor:
        title = f"Not shown to judge better than chance: {words.listing(run.name for run in poor)}"
        text = "Effects on such verdicts say little about relevance, and so does their likeness."
        points = tuple(f"{run.letter}: {mechanisms.quality[run.letter].sentence}" for run in poor)
        found.append(Notice("alarm", title, text, points))
    if any(facts.lookup(run.manifest.identity, "model.kind") == "embedded" for run in mechanisms.runs):
        found.append(Notice("warn", "This is a model to learn and test with", EMBEDDED_MODEL))
    growing = [run for run in mechanisms.runs if not run.complete]
    if growing:
        title = f"Not complete: {words.listing(run.name for run in growing)}"
        points = tuple(
            f"{run.letter}: {step.words}"
            for run in growing
            for step in facts.progress(run.manifest, run.rows, read=())
            if not step.readout  # which are not compared
        )
        found.append(Notice("warn", title, "What follows is computed from the rows stored so far.", points))
    if _heads_of_other_models(mechanisms):
        text = (
            "They have the same shape, so head 3 is compared with head 3. That means something for models of one "
            "origin (a base and its tuned version); between models that were trained apart, a head's number is chance."
        )
        found.append(Notice("warn", "Heads of different models are matched by their number", text))
    return found + few_queries("The comparison rests", mechanisms.n_queries)


def _tabled(families: Sequence[Family]) -> set[MapKind]:
    """The kinds of maps whose values are tables too, as far as a browser can bear them: in their order."""
    tabled: set[MapKind] = set()
    n_cells = 0
    for kind in MAP_KINDS:
        n_cells += views.n_table_cells([m for f in families if f.kind is kind for m in f.panels.values()])
        tabled |= {kind} if n_cells <= views.MOST_TABLE_CELLS else set()
    return tabled


def _map_notes(mechanisms: Mechanisms) -> list[str]:
    """What stands under another name, and what has no map because nothing stands beside it."""
    renamed = sorted({letter for pair in mechanisms.pairs for letter in pair.document_a_renamed})
    notes = [f"document_a of {words.listing(renamed)} is called document here."] if renamed else []
    alone = [f"{words.listing(names)} in {letter}" for letter, names in mechanisms.lone.items()]
    return notes + ([f"Measured in one run alone, and so without a map here: {'; '.join(alone)}."] if alone else [])


def _heads_of_other_models(mechanisms: Mechanisms) -> bool:
    """True if heads of runs with different weights were compared one by one."""
    return any(
        pair.one.model_fingerprint != pair.other.model_fingerprint
        and found.matched.by == "site"
        and bool(found.matched.targets["head"].notna().any())
        for pair in mechanisms.pairs
        for found in pair.found
    )


def _lead(mechanisms: Mechanisms) -> str:
    n_pairs = len(mechanisms.pairs)
    compared = "One with the other" if n_pairs == 1 else f"Each with each other, {n_pairs} pairs of runs"
    return (
        f"{words.listing(run.name for run in mechanisms.runs)}. {compared}: are the sites that are strong in one run "
        "strong in the other, more than by chance, and as much as one run agrees with itself?"
    )


def _facts(mechanisms: Mechanisms) -> dict[str, list[tuple[str, list[str]]]]:
    """What was run, a column for each run: in what the runs differ, and what is the same in all."""
    columns = []
    for run in mechanisms.runs:
        directions = sorted(str(name) for name in run.rows["direction"].dropna().unique())
        known = facts.facts(run.manifest, directions, facts.asked_experiments(run.manifest))
        instruction = str(facts.lookup(run.manifest.identity, "prompt.instruction") or words.MISSING)
        columns.append({"Folder": str(run.directory), **dict(known), "Instruction": instruction})
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, [column.get(name, words.MISSING) for column in columns]) for name in names]
    return {
        "different": [row for row in rows if len(set(row[1])) > 1],
        "same": [row for row in rows if len(set(row[1])) == 1],
    }


def _matching(mechanisms: Mechanisms) -> list[str]:
    """How sites were matched, where it is not by the same name, and how queries were resampled: a sentence each."""
    said = []
    for pair in mechanisms.pairs:
        both = f"{pair.one.letter} and {pair.other.letter}"
        for letter in sorted(pair.document_a_renamed):
            (rest,) = {pair.one.letter, pair.other.letter} - {letter}
            said.append(
                f"{both}: document_a of {letter} is compared with document of {rest}; both hold the relevant document "
                "of the clean prompt."
            )
        deep = list(dict.fromkeys(found.matched.component for found in pair.found if found.matched.by == "depth"))
        if deep:
            shapes = [run.manifest.model_shape for run in (pair.one, pair.other)]
            said.append(
                f"{both}: the models differ in shape ({shapes[0]['n_layers']} and {shapes[1]['n_layers']} layers, "
                f"{shapes[0]['n_heads']} and {shapes[1]['n_heads']} heads), so {words.listing(deep)} are compared by "
                "relative depth: each layer counts for the nearest layer of the shallower model, where |effect| is "
                "summed over heads and averaged over layers."
            )
        if pair.found:
            said.append(_queries_words(pair))
    return said


def _queries_words(pair: PairOfRuns) -> str:
    """Which queries two runs have in common, and so how they were resampled."""
    one, other = pair.one.letter, pair.other.letter
    counts = {(*found.n_queries, found.n_shared_queries) for found in pair.found}
    if all(found.same_queries for found in pair.found):
        return f"{one} and {other} rest on the same queries, resampled together."
    if not any(n_shared for *_, n_shared in counts):
        return f"{one} and {other} rest on different queries, resampled apart."
    how = "a query that both have is drawn as often in both"
    if len(counts) > 1:
        return f"{one} and {other} share queries, how many depends on the sites (see the measures): {how}."
    ((n_one, n_other, n_shared),) = counts
    shared = words.count(n_shared, "query", "queries")
    return f"{one} and {other} share {shared} ({one} rests on {n_one:,}, {other} on {n_other:,}): {how}."
