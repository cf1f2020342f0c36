"""How do the parts become one HTML file that needs no network?

Every text passes the template's automatic escaping; only this package's own style and scripts and plotly's
script are put in as they are. Data for the scripts goes through `tojson`, which also escapes `<`, so that a text
in the data cannot close the script element.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relscope.report import assets, downloads, facts, verdicts, views, words
from relscope.report.contents import CONFIDENCE, Contents
from relscope.report.downstream import DOWNSTREAM, Downstream, downstream_view
from relscope.report.findings import by_chance, flow_words
from relscope.report.map_kinds import FLOW, HEADS
from relscope.report.maps import COLOURS, MODULES, EffectMap
from relscope.report.mechanism import SECTIONS as MECHANISM
from relscope.report.mechanism import mechanism_values
from relscope.report.notices import notices
from relscope.report.reranking_page import RERANKINGS, reranking_view
from relscope.report.support import SUPPORTED, Support
from relscope.results import Manifest, PromptSample

SECTIONS = (
    ("run", "What was run"),
    ("glance", "At a glance"),
    ("verdicts", "Verdict quality"),
    ("exclusions", "Exclusions"),
    ("flow", "Information flow"),
    ("heads", "Heads"),
    *MECHANISM.items(),
    ("downstream", DOWNSTREAM),
    ("rerankings", RERANKINGS),
    ("prompts", "Prompts"),
    ("reading", "How to read"),
    ("data", "Data"),
    ("manifest", "Manifest"),
)
MOST_MANIFEST_ENTRIES = 500
MOST_PARTS_LISTED = 12
_NOTHING = Downstream()


def render(contents: Contents, run_dir: Path, figures: Sequence[Path], shown_too: Downstream = _NOTHING) -> str:
    """The report as HTML text.

    Args:
        contents: of the run.
        run_dir: its folder.
        figures: the PNG paths in `run_dir`, each with a PDF beside it.
        shown_too: ablations, circuits and rerankings.
    """
    return assets.template("report.html.j2").render(_values(contents, run_dir, figures, shown_too))


def _values(contents: Contents, run_dir: Path, figures: Sequence[Path], shown_too: Downstream) -> dict[str, Any]:
    manifest = contents.manifest
    judged = contents.rows[contents.rows["experiment"] == "judge"]
    experiments = [step.experiment for step in contents.progress if step.stored]
    runs = facts.runs_in_words(manifest)
    histogram = verdicts.histogram(judged) if len(judged) else None
    directions, plots = _directions(contents)
    mechanism, drawn = mechanism_values(contents.mechanism, contents.scale.quantity, _cells_left(contents))
    told = notices(contents)
    mechanism["downstream"], curves = downstream_view(shown_too.evaluated, told)
    drawn["lines"] += curves
    mechanism["rerankings"], drawn["costs"] = reranking_view(shown_too.rerankings, run_dir, told)
    shown_sections = {name: section is not None for name, section in mechanism.items()}
    shown_sections |= {name: _asked_for(contents, name) for name in ("flow", "heads")}
    parts = downloads.parquet_files(run_dir, "rows")
    shown, cut = _shown_manifest(manifest)
    return {
        "title": f"What causes the relevance verdict of {facts.short_name(facts.model_name(manifest))}",
        "lead": _lead(contents),
        "sections": [(name, title) for name, title in SECTIONS if shown_sections.get(name, True)],
        "complete": contents.complete,
        "so_far": _so_far(contents),
        "notices": told,
        "facts": facts.facts(
            manifest, contents.directions, experiments, contents.precision.sentence if contents.precision else None
        ),
        "findings": contents.findings,
        "tiles": views.quality_tiles(contents.quality) if contents.quality else [],
        "quality_method": contents.quality.interval_method if contents.quality else "",
        "quality_sentence": contents.quality.sentence if contents.quality else "",
        "histogram_label": views.histogram_label(judged, runs) if len(judged) else "",
        "histogram_rows": views.histogram_rows(histogram) if histogram else [],
        "runs": runs,
        "failed_lints": [lint for lint in manifest.lints if not lint.ok],
        "passed_lints": [lint for lint in manifest.lints if lint.ok],
        "exclusions": facts.exclusion_groups(manifest),
        "exclusion_words": facts.exclusion_words(manifest),
        "stage_words": words.REASONS,
        "directions": directions,
        "many_directions": len(directions) > 1,
        "supports": _supports(contents),
        **mechanism,
        "who_chose": {name: facts.who_chose(manifest, name) for name in ("joint", "paths")},
        "shows_flow": shown_sections["flow"],
        "shows_heads": shown_sections["heads"],
        "has_flow": bool(contents.flow),
        "has_heads": bool(contents.heads),
        "flow_empty": _empty_words(contents, "flow"),
        "heads_empty": _empty_words(contents, "heads"),
        **_by_chance(contents),
        "quantity_words": views.QUANTITY_WORDS[contents.scale.quantity],
        "shows_ie": contents.scale.quantity == "ie",
        "colour_words": _colour_words(contents),
        "scale_words": _scale_words(contents),
        "colours": COLOURS,
        "limits": {name: _limit_words(limit) for name, limit in _limits(contents).items()},
        "zoom": contents.scale.zoom_helps,
        "samples": _samples(manifest),
        "regions_shown": _regions_shown(manifest.prompt_samples),
        **_files(contents, parts, run_dir, figures),
        "manifest_json": json.dumps(shown, indent=2, ensure_ascii=False),
        "manifest_cut": cut,
        "version": facts.lookup(manifest.identity, "relscope_version"),
        "n_rows": words.count(len(contents.rows), "row"),
        "plot_data": {
            "quantity": contents.scale.quantity,
            "colours": COLOURS,
            "limits": _limits(contents),
            "limit_words": {name: f"{limit:g}" for name, limit in _limits(contents).items()},
            "zoom": contents.scale.zoom_helps,
            "quantities": {"readout": "effect"},
            "maps": [*plots, *drawn["maps"]],
            "lines": drawn["lines"],
            "points": drawn["points"],
            "costs": drawn["costs"],
            "verdicts": histogram,
            "runs": runs,
        },
        "draws": bool(plots or any(drawn.values())) or histogram is not None,
        "css": assets.own("report.css"),
        "js": assets.own("report.js"),
        "plotly": assets.plotly(),
    }


def _directions(contents: Contents) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The maps of each direction, as the template and as the script want them."""
    scale = contents.scale
    table = _cells_left(contents) >= 0
    span = views.bar_span(contents.head_lists)
    shown: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    for direction in contents.directions:
        view: dict[str, Any] = {
            "name": direction,
            "words": words.DIRECTIONS.get(direction, direction),
            "flow": [],
            "heads": [],
        }
        view["flow_words"] = flow_words(_of(contents.flow, direction), scale.quantity)
        for kind, maps in ((FLOW, contents.flow), (HEADS, contents.heads)):
            for effect_map in _of(maps, direction):
                identifier = f"map-{len(plots)}"
                plots.append(views.plot_map(effect_map, identifier, kind.name))
                one = views.map_view(effect_map, identifier, kind, scale, table=table)
                one["top"] = [
                    row
                    for heads in contents.head_lists
                    if kind is HEADS and (heads.name, heads.direction) == (effect_map.name, direction)
                    for row in views.top_head_rows(heads, span)
                ]
                view[kind.name].append(one)
        shown.append(view)
    return shown, plots


def _cells_left(contents: Contents) -> int:
    """How many cells of tables the maps of information flow and of heads leave to those after them."""
    return views.MOST_TABLE_CELLS - views.n_table_cells([*contents.flow, *contents.heads])


def _supports(contents: Contents) -> dict[str, list[Support]]:
    """By experiment, one for each direction."""
    return {name: [of for of in contents.supports if of.experiment == name] for name in SUPPORTED}


def _of(maps: Sequence[EffectMap], direction: str) -> list[EffectMap]:
    return [effect_map for effect_map in maps if effect_map.direction == direction]


def _limits(contents: Contents) -> dict[str, float]:
    scale = contents.scale
    return {"flow": scale.flow, "modules": scale.modules, "heads": scale.heads}


def _limit_words(limit: float) -> dict[str, str]:
    return {"plain": f"{limit:g}", "plus": f"+{limit:g}", "minus": f"{words.MINUS}{limit:g}"}


def _colour_words(contents: Contents) -> str:
    if contents.scale.quantity == "ie":
        return (
            "Red moves the verdict towards that of the run that the activation was taken from, blue away from it, "
            "white does nothing."
        )
    return "Red raises LD (towards yes), blue lowers it (towards no), white does nothing."


def _scale_words(contents: Contents) -> str:
    if contents.scale.quantity == "ie":
        return "Colours show the indirect effect: the effect as a share of the gap."
    return (
        "Colours show the effect in logits and not the indirect effect (IE): the gap between the clean and the "
        "corrupted run, which IE is a share of, has no interval that excludes 0."
    )


def _lead(contents: Contents) -> str:
    manifest = contents.manifest
    patched = sum(not pair.filtered for pair in manifest.pairs)
    queries = len({pair.query_id for pair in manifest.pairs if not pair.filtered})
    shown = [
        text
        for text, there in (
            ("which layers (at which parts of the prompt)", bool(contents.flow)),
            ("which attention heads", bool(contents.heads)),
            ("which attention edges", contents.mechanism.edges is not None),
            ("which paths between heads", any(len(of.paths) for of in contents.mechanism.paths)),
        )
        if there
    ]
    asked = words.listing(shown) or "what"
    exchanged, so_far = "were", ""
    if not contents.complete:
        exchanged, so_far = "are being", f" {facts.pairs_patched(manifest, contents.rows)}"
    return (
        f"Activations of {facts.model_name(manifest)} {exchanged} exchanged between prompts with a relevant and with "
        f"another document, on {words.count(patched, 'pair')} of {words.count(queries, 'query', 'queries')} from "
        f"{facts.data_name(manifest)}, to measure {asked} cause its yes or no.{so_far}"
    )


def _by_chance(contents: Contents) -> dict[str, str]:
    """How many of a thousand intervals over this run's queries exclude 0 by chance; empty where there are none."""
    n = contents.n_queries
    expected = by_chance(1000, n, CONFIDENCE) if n > 1 else ""
    return {"of_thousand": expected, "n_queries": words.count(n, "query", "queries")}


def _so_far(contents: Contents) -> dict[str, str]:
    """Of each experiment that is not whole yet, how much there is."""
    steps = () if contents.complete else contents.progress
    return dict.fromkeys(facts.EXPERIMENT_NAMES, "") | {step.experiment: step.so_far for step in steps}


def _asked_for(contents: Contents, experiment: str) -> bool:
    """True unless the study never asked for an experiment, which then has no section."""
    asked = facts.asked_experiments(contents.manifest)
    return not asked or experiment in asked or bool(getattr(contents, experiment))


def _empty_words(contents: Contents, experiment: str) -> str:
    if not any(not pair.filtered for pair in contents.manifest.pairs):
        return "No pair was left to patch after the exclusions above, so there is no map to show."
    asked = facts.asked_experiments(contents.manifest)
    if asked and experiment not in asked:
        return f"The experiment {experiment} was not part of this run."
    return f"No rows of the experiment {experiment} are stored yet."


def _samples(manifest: Manifest) -> list[dict[str, Any]]:
    """The prompt samples, the clean and the corrupted prompt of a pair together."""
    runs = facts.runs_in_words(manifest)
    query_of = {pair.pair_id: pair.query_text for pair in manifest.pairs}
    pairs: dict[str, dict[str, Any]] = {}
    for sample in manifest.prompt_samples:
        entry = pairs.setdefault(
            sample.pair_id,
            {"pair_id": sample.pair_id, "query_text": query_of.get(sample.pair_id, ""), "prompts": []},
        )
        segments = [views.segment_view(segment) for segment in sample.segments]
        entry["prompts"].append({"run": sample.run, "words": f"with the {runs[sample.run]}", "segments": segments})
    return list(pairs.values())


def _regions_shown(samples: Sequence[PromptSample]) -> list[str]:
    regions = {segment.region for sample in samples for segment in sample.segments} - {"other"}
    return sorted(regions, key=words.region_key)


def _files(contents: Contents, parts: list[downloads.Linked], run_dir: Path, figures: Sequence[Path]) -> dict[str, Any]:
    drawn = list(dict.fromkeys(m.name for m in contents.flow))
    files = []
    if len(contents.effects):
        files.append((downloads.embedded_effects(contents.effects), "site"))
    files += [
        (downloads.embedded_table(name, table), noun) for name, (table, noun) in contents.mechanism.tables.items()
    ]
    rows = downloads.embedded_rows(contents.rows)
    if rows is not None:
        files.append((rows, "row"))
    embedded = [
        {
            "element_id": file.element_id,
            "file_name": file.file_name,
            "content": file.content,
            "words": f"{words.count(file.n_rows, noun)}, {words.size(file.n_bytes)}",
        }
        for file, noun in files
    ]
    return {
        "embedded": embedded,
        "parts": parts[:MOST_PARTS_LISTED],
        "more_parts": max(0, len(parts) - MOST_PARTS_LISTED),
        "readouts": downloads.parquet_files(run_dir, "readouts"),
        "figures": downloads.figure_links(list(figures), run_dir),
        "flow_modules": [name for name in drawn if name in MODULES],
        "flow_others": [name for name in drawn if name not in MODULES],
    }


def _shown_manifest(manifest: Manifest) -> tuple[Mapping[str, Any], str]:
    """The manifest as JSON values, its longest lists cut, and a sentence that says so."""
    shown = manifest.model_dump(mode="json")
    cut = []
    for name in ("pairs", "exclusions"):
        if len(shown[name]) > MOST_MANIFEST_ENTRIES:
            cut.append(f"the first {MOST_MANIFEST_ENTRIES} of {len(shown[name]):,} {name}")
            shown[name] = shown[name][:MOST_MANIFEST_ENTRIES]
    return shown, f"Shown with {words.listing(cut)}; manifest.json has all." if cut else ""
