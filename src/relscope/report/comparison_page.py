"""How do the parts of a comparison become one HTML file that needs no network?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from relscope.analysis import MEASURES
from relscope.report import assets, downloads, facts, views, words
from relscope.report import comparison_views as cv
from relscope.report.comparison_contents import STRONGEST, Comparison, strongest_transfers
from relscope.report.comparison_findings import findings
from relscope.report.comparison_folder import MODELS, TRANSFER_FOLDERS, StoredComparison
from relscope.report.contents import CONFIDENCE
from relscope.report.findings import by_chance
from relscope.report.maps import COLOURS
from relscope.report.notices import EMBEDDED_MODEL, Notice, failed_checks, few_queries, n_queries

SECTIONS: Final = (
    ("compared", "What was compared"),
    ("glance", "At a glance"),
    ("quality", "Do they judge better?"),
    ("exclusions", "Exclusions"),
    ("effects", "What causes the verdict"),
    ("transfer", "What tuning put where"),
    ("moved", "What moved"),
    ("same", "The same heads?"),
    ("reading", "How to read"),
    ("limits", "Limits"),
    ("data", "Data"),
)
_PART_WORDS: Final = {
    "base": "the base model's run",
    "tuned": "the tuned model's run",
    **{
        name: f"activations of the {donor} model into the {receiver} model"
        for name, (donor, receiver) in TRANSFER_FOLDERS.items()
    },
}


def render(comparison: Comparison, figures: Sequence[Path]) -> str:
    """The report as HTML text. `figures` are PNG paths in the comparison's folder, each with a PDF beside it."""
    return assets.template("comparison.html.j2").render(_values(comparison, figures))


def _values(comparison: Comparison, figures: Sequence[Path]) -> dict[str, Any]:
    stored = comparison.stored
    base, tuned = facts.short_name(stored.base), facts.short_name(stored.tuned)
    all_families = (*comparison.families, *comparison.transfer_families)
    table = views.n_table_cells([m for f in all_families for m in f.panels.values()]) <= views.MOST_TABLE_CELLS
    shown: dict[str, list[dict[str, Any]]] = {"effects": [], "transfer": []}
    plots: list[dict[str, Any]] = []
    for family in all_families:
        quantity = comparison.quantity(family.group)
        shown[family.group].append(cv.family_view(family, len(plots), quantity, table=table))
        plots += cv.plot_maps(family, len(plots))
    shares = {group: comparison.has_shares(group) for group in shown}
    scatters = cv.scatters(comparison.moved, _n_layers(stored))
    runs = facts.runs_in_words(stored.manifest) if stored.manifest else {"clean": "", "corrupted": ""}
    return {
        "title": f"What changed in the relevance judge: {base} and {tuned}",
        "lead": _lead(comparison),
        "sections": SECTIONS,
        "notices": notices(comparison),
        "facts": _facts(stored),
        "findings": findings(comparison),
        "of_thousand": by_chance(1000, comparison.n_queries, CONFIDENCE) if comparison.n_queries > 1 else "",
        "n_queries": words.count(comparison.n_queries, "query", "queries"),
        "names": {"base": stored.base, "tuned": stored.tuned},
        "quality_rows": cv.quality_rows(comparison) if comparison.quality else [],
        "quality_footnote": words.NO_WIDTH_NOTE
        if any(e.no_width for e in comparison.quality_difference.values())
        else "",
        "quality_sentences": [(name, comparison.quality[name].sentence) for name in comparison.quality],
        "exclusions": _exclusions(stored),
        "stage_words": words.REASONS,
        "runs": runs,
        "families": shown,
        "shares": shares,
        "quantities": {group: comparison.quantity(group) for group in shown},
        "quantity_words": cv.QUANTITY_WORDS,
        "colours": COLOURS,
        "layer_colours": cv.LAYER_COLOURS,
        "n_layers": _n_layers(stored),
        "changes": _changes(comparison, shares=shares["effects"]),
        "transfers": _transfers(comparison, shares=shares["transfer"]),
        "scatters": scatters,
        "correlations": cv.correlation_rows(comparison.moved.correlations),
        "matters_words": cv.MATTERS_WORDS,
        "parts": cv.part_rows(comparison.moved.parts) if comparison.moved.parts is not None else [],
        "same_rows": cv.similarity_rows(comparison.same),
        "measures": [cv.MEASURE_WORDS[measure] for measure in MEASURES],
        "not_yet": _not_yet(stored),
        **_files(comparison, figures),
        "version": stored.relscope_version,
        "plot_data": {
            "quantity": "effect",
            "quantities": {group: comparison.quantity(group) for group in shown},
            "share_words": cv.SHARE_WORDS,
            "colours": COLOURS,
            "layer_colours": cv.LAYER_COLOURS,
            "limits": {},
            "limit_words": {},
            "zoom": False,
            "maps": plots,
            "scatters": scatters,
            "verdicts": None,
            "runs": runs,
        },
        "draws": bool(plots or scatters),
        "css": assets.own("report.css"),
        "js": assets.own("report.js"),
        "plotly": assets.plotly(),
    }


def notices(comparison: Comparison) -> list[Notice]:
    """What a reader must know before trusting anything below, the gravest first."""
    found = []
    stored, quality = comparison.stored, comparison.quality
    poor = [name for name in MODELS if name in quality and quality[name].at_chance]
    if poor:
        who = "Neither model judges" if len(poor) == 2 else f"The {poor[0]} model does not judge"
        points = tuple(f"{name}: {quality[name].sentence}" for name in poor)
        text = "Effects on such verdicts say little about relevance, and shares of their gap say nothing."
        level = "alarm" if "tuned" in poor else "warn"
        title = f"{who} better than chance here"
        if all(quality[name].too_few for name in poor):
            title = f"{n_queries(quality[poor[0]].n_queries)} cannot tell the verdicts from chance"
        found.append(Notice(level, title, text, points))  # type: ignore[arg-type]
    kinds = [facts.lookup(part.manifest.identity, "model.kind") for part in stored.parts.values()]
    if "embedded" in kinds:
        found.append(Notice("warn", "This is a model to learn and test with", EMBEDDED_MODEL))
    if not stored.complete:
        points = tuple(_progress(stored))
        text = (
            "What follows is computed from what is stored so far, on the pairs that both models have, and may change."
        )
        found.append(Notice("warn", "This comparison is not complete", text, points))
    for name in MODELS:
        if (part := stored.parts.get(name)) is not None:
            found += failed_checks(part.manifest, f"the {name} model", f"the ordinary report of the run in {name}/")
    return found + few_queries("The comparison rests", comparison.n_queries)


def _progress(stored: StoredComparison) -> list[str]:
    """How far each part is."""
    lines = []
    for name, described in _PART_WORDS.items():
        part = stored.parts.get(name)
        if part is None:
            state = "not begun"
        elif part.complete:
            state = "complete"
        else:
            state = f"{words.count(len(part.rows), 'row')} so far"
        lines.append(f"{name} ({described}): {state}")
    for name, there in (("heads", stored.head_changes), ("weights", stored.weight_changes)):
        lines.append(f"changes of {name}: {'not begun' if there is None else 'there'}")
    return lines


def _facts(stored: StoredComparison) -> list[tuple[str, str]]:
    """What was compared, as (name, words): both models, then what their runs have in common."""
    rows = [("Base", stored.base), ("Tuned", stored.tuned)]
    if (adapter := stored.config.get("adapter")) and str(adapter) != stored.tuned:
        rows.append(("Adapter", str(adapter)))
    manifest = stored.manifest
    if manifest is None:
        return rows
    part = next(p for p in stored.parts.values() if p.manifest is manifest)
    directions = sorted(str(name) for name in part.rows["direction"].dropna().unique())
    known = facts.facts(manifest, directions, facts.asked_experiments(manifest))
    return rows + [(name, value) for name, value in known if name not in ("Model", "Adapter", "Revision")]


def _exclusions(stored: StoredComparison) -> list[dict[str, Any]]:
    """What was left out of each model's run; once where both left out the same, as the same data and prompts do."""
    manifests = {f"The {name} model": stored.parts[name].manifest for name in MODELS if name in stored.parts}
    if not manifests and stored.manifest is not None:  # the pairs of a transfer are those of the models' runs
        manifests = {"The transfer": stored.manifest}
    left_out = [(facts.exclusion_words(m), m.exclusions) for m in manifests.values()]
    shown = list(manifests.items())[: 1 if all(one == left_out[0] for one in left_out) else None]
    return [
        {"heading": heading, "words": facts.exclusion_words(manifest), "groups": facts.exclusion_groups(manifest)}
        for heading, manifest in shown
    ]


def _lead(comparison: Comparison) -> str:
    stored = comparison.stored
    if stored.manifest is None:
        return f"{stored.base} and {stored.tuned}: nothing has been stored yet."
    patched = sum(not pair.filtered for pair in stored.manifest.pairs)
    queries = len({pair.query_id for pair in stored.manifest.pairs if not pair.filtered})
    return (
        f"Both {stored.base} and {stored.tuned} judged the same prompts, {words.count(patched, 'pair')} of "
        f"{words.count(queries, 'query', 'queries')} from {facts.data_name(stored.manifest)}. Activations were "
        "exchanged within each model, to see what causes its verdict, and between the models, to see what tuning put "
        "where."
    )


def _not_yet(stored: StoredComparison) -> dict[str, str]:
    """Why a section is empty."""
    lacks = "is not stored yet" if not stored.complete else "is not in this comparison"
    return {
        "quality": f"The verdicts of both models: one of them {lacks}.",
        "exclusions": "Nothing has been stored yet.",
        "effects": f"The effects in both models: one of them {lacks}.",
        "transfer": f"The transfer between the models {lacks}, on both prompts of a pair.",
        "moved": f"How far the heads moved {lacks}, or there are no effects of heads to put beside it.",
        "parts": f"How far the weights moved {lacks}.",
        "same": "There are no three sites that both models have on a common pair.",
    }


def _changes(comparison: Comparison, *, shares: bool) -> dict[str, list[dict[str, Any]]]:
    if not len(comparison.differences):
        return {"flow": [], "heads": []}
    return {kind: cv.change_rows(comparison.largest_changes(kind), shares=shares) for kind in ("flow", "heads")}


def _transfers(comparison: Comparison, *, shares: bool) -> list[dict[str, Any]]:
    return [
        {
            "heading": cv.PANEL_WORDS[name],
            "rows": cv.transfer_rows(strongest_transfers(effects, STRONGEST), shares=shares),
        }
        for name, effects in comparison.transfers.items()
    ]


def _n_layers(stored: StoredComparison) -> int:
    return stored.manifest.model_shape.get("n_layers", 1) if stored.manifest else 1


def _files(comparison: Comparison, figures: Sequence[Path]) -> dict[str, Any]:
    stored = comparison.stored
    tables: list[tuple[str, pd.DataFrame]] = [("effect_differences.csv", comparison.differences)]
    if comparison.transfers:
        carried = [frame.assign(into=TRANSFER_FOLDERS[name].receiver) for name, frame in comparison.transfers.items()]
        tables.append(("transfer_effects.csv", pd.concat(carried, ignore_index=True)))
    if comparison.moved.heads is not None:
        tables.append(("moved_and_matters.csv", comparison.moved.heads))
    if comparison.same:
        tables.append(("rank_similarity.csv", _similarity_table(comparison)))
    embedded = [downloads.embedded_table(name, table) for name, table in tables if len(table)]
    linked = ["comparison.json"] + [f"{name}/manifest.json" for name in stored.parts]
    linked += [f"changes/{name}.parquet" for name in ("heads", "weights")]
    return {
        "embedded": [
            {
                "element_id": file.element_id,
                "file_name": file.file_name,
                "content": file.content,
                "words": f"{words.count(file.n_rows, 'row')}, {words.size(file.n_bytes)}",
            }
            for file in embedded
        ],
        "linked": [href for href in linked if (stored.directory / href).is_file()],
        "figures": downloads.figure_links(list(figures), stored.directory),
        "config_json": json.dumps(stored.config, indent=2, ensure_ascii=False),
    }


def _similarity_table(comparison: Comparison) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sites": one.kind,
            "name": one.name,
            "measure": s.measure,
            "value": s.value.value,
            "low": s.value.low,
            "high": s.value.high,
            "by_chance": s.by_chance,
            "p_value": s.p_value,
            "n_sites": s.n_sites,
            "n_pairs": s.n_pairs,
            "n_queries": s.n_queries,
        }
        for one in comparison.same
        for s in one.similarities
    )
