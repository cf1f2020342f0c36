"""What does a module do by itself, and to whom do heads hand on? The experiment `paths` (experiment 10 of the paper).

The table splits total effects at the last token into direct and mediated; the graph shows the strongest paths from the
document through heads to the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from relscope.analysis import MOST_Q, Estimate, effect_splits, path_effects
from relscope.report import views, words
from relscope.report.findings import (
    Finding,
    by_chance,
    estimate,
    estimate_of,
    excludes_zero,
    excluding_zero,
    place,
    strongest,
)
from relscope.report.path_graph import LOGITS, Edge, path_graph
from relscope.report.support import path_name, site_name
from relscope.results import DIRECT

MOST_MODULES = 10
MOST_EDGES = 24
MOST_LISTED = 10
LEAST_SHARE = 0.02
"""Of the largest |effect|: weaker paths are not drawn."""
VARIANTS: Final = {"frozen": "all between the two held fixed", "open": "through everything between the two"}
INPUTS: Final = {"q": "queries", "k_view": "keys", "v_view": "values"}


@dataclass(frozen=True)
class Paths:
    """The experiment in one direction.

    Attributes:
        splits: of the modules, as `effect_splits` gives them.
        paths: as `path_effects` gives them.
        variant: of the paths that are drawn: frozen, where it was measured; empty without paths.
        edges: what is drawn.
        sizes: total effects of heads at regions, by their names.
    """

    direction: str
    splits: pd.DataFrame
    paths: pd.DataFrame
    variant: str
    edges: tuple[Edge, ...]
    sizes: Mapping[str, str]
    found: Finding


def read_paths(
    rows: pd.DataFrame, effects: pd.DataFrame, query_of: Mapping[str, str], confidence: float
) -> tuple[Paths, ...]:
    """Everything that the page shows of the experiment, one entry a direction; none where no row of it is stored."""
    measured = effects[effects["experiment"] == DIRECT]
    if not len(measured):
        return ()
    splits, paths = effect_splits(rows, query_of, confidence=confidence), path_effects(effects)
    found = []
    for direction in dict.fromkeys(measured["direction"]):
        of_modules, of_paths, direct = (of[of["direction"] == direction] for of in (splits, paths, measured))
        heads = effects[(effects["experiment"] == "heads") & (effects["direction"] == direction)]
        variant = next((name for name in VARIANTS if (of_paths["variant"] == name).any()), "")
        drawn = of_paths[(of_paths["variant"] == variant) & (of_paths["input"] == "z")]
        edges = _edges(drawn, _parts(of_paths, variant), direct)
        into_inputs = of_paths[(of_paths["variant"] == variant) & (of_paths["input"] != "z")]
        finding = _finding(of_modules, drawn, into_inputs, confidence)
        sizes = {words.site_label(int(r["layer"]), int(r["head"]), str(r["region"])): estimate(estimate_of(r, "effect"))
                 for r in heads.to_dict("records")}  # fmt: skip
        found.append(Paths(str(direction), of_modules, of_paths, variant, tuple(edges), sizes, finding))
    return tuple(found)


def paths_view(found: Sequence[Paths], order: str) -> list[dict[str, Any]]:
    """What the template shows of each direction."""
    return [
        {
            "direction": of.direction,
            "found": of.found,
            "modules": _module_rows(of.splits),
            "graph": path_graph(of.edges, order, _told_of(of)) if of.edges else None,
            "label": _label(of),
            "is_frozen": of.variant == "frozen",
            "variant_words": VARIANTS.get(of.variant, ""),
            **_listed(of),
        }
        for of in found
    ]


def _edges(
    drawn: pd.DataFrame, parts: Mapping[tuple[str, str], Mapping[str, Estimate]], direct: pd.DataFrame
) -> list[Edge]:
    """The strongest paths between heads, and those from these heads to the logits."""
    if not len(drawn):
        return []
    ends = {*drawn["src"], *drawn["dest"]}
    edges = []
    for path in drawn.to_dict("records"):
        src, dest = str(path["src"]), str(path["dest"])
        by_inputs = _by_inputs(float(path["effect"]), parts[src, dest])
        edges.append(Edge(src, dest, *_shown(path, path_name(path), by_inputs)))
    for site in direct[direct["head"].notna()].to_dict("records"):
        name = site_name(site)
        if name in ends:
            edges.append(Edge(name, LOGITS, *_shown(site, f"{name} → LD, directly", "")))
    edges.sort(key=lambda edge: -abs(edge.effect))
    least = LEAST_SHARE * abs(edges[0].effect)
    return [edge for edge in edges[:MOST_EDGES] if abs(edge.effect) > least]


def _shown(row: Mapping[Any, Any], name: str, more: str) -> tuple[float, bool, str]:
    effect = estimate_of(row, "effect")
    told = f"{name}: {estimate(effect)} logits, q {words.probability(row['q_value'])}{more}"
    return effect.value, excludes_zero(effect), told


def _by_inputs(effect: float, parts: Mapping[str, Estimate]) -> str:
    """What comes by the receiver's queries, keys and values, in words, with the decimals of the path's effect."""
    decimals = words.decimals_for([effect])
    return "".join(f"; by its {INPUTS[name]} {estimate(part, decimals)}" for name, part in parts.items())


def _parts(paths: pd.DataFrame, variant: str) -> dict[tuple[str, str], dict[str, Estimate]]:
    """For each path into a head, by its ends: the effects of the paths into its inputs, with their intervals."""
    here = paths[paths["variant"] == variant]
    end = ["receiver_layer", "receiver_head"]
    by_input = {}
    for path in here[here["input"] != "z"].to_dict("records"):
        key = (path["src"], path["input"], *(int(path[name]) for name in end), path["receiver_region"])
        by_input[key] = estimate_of(path, "effect")
    parts = {}
    for path in here[here["input"] == "z"].to_dict("records"):
        head = [int(path[name]) for name in end]
        where = {"q": path["receiver_region"], "k_view": path["sender_region"], "v_view": path["sender_region"]}
        keys = {name: (path["src"], name, *head, region) for name, region in where.items()}
        parts[path["src"], path["dest"]] = {name: by_input[key] for name, key in keys.items() if key in by_input}
    return parts


def _module_rows(splits: pd.DataFrame) -> list[dict[str, Any]]:
    shown = strongest(splits, "total", MOST_MODULES)
    ends = [f"{part}{end}" for part in ("total", "direct", "mediated") for end in ("", "_low", "_high")]
    span = views.padded(shown[ends].to_numpy(dtype=np.float64).ravel())
    decimals = words.decimals_for(shown["total"])

    def cell(module: Mapping[Any, Any], part: str) -> dict[str, Any]:
        value = estimate_of(module, part)
        return {"value": estimate(value, decimals), "bar": views.bar(value, span, 0.0)}

    return [
        {"name": _module_name(module)} | {part: cell(module, part) for part in ("total", "direct", "mediated")}
        for module in shown.to_dict("records")
    ]


def _listed(found: Paths) -> dict[str, Any]:
    """The strongest paths as a table, with what their inputs carry and, where measured too, the open variant.

    A path counts by the largest |effect| of its whole and its inputs: what comes by the values may be taken back by
    the keys. Every number of the table has the same decimals, so that an input is read beside the whole.
    """
    paths = found.paths[(found.paths["variant"] == found.variant) & (found.paths["input"] == "z")]
    parts = _parts(found.paths, found.variant)
    inputs = [name for name in INPUTS if any(name in of for of in parts.values())]
    others = found.paths[(found.paths["variant"] != found.variant) & (found.paths["input"] == "z")]
    largest = [
        max(abs(path["effect"]), *(abs(part.value) for part in parts[path["src"], path["dest"]].values()), 0.0)
        for path in paths.to_dict("records")
    ]
    ordered = strongest(paths.assign(largest=largest), "largest")
    named = strongest(_significant(paths), "effect", 1).index
    shown = ordered[(np.arange(len(ordered)) < MOST_LISTED) | ordered.index.isin(named)]
    decimals = words.decimals_for(shown["largest"])
    opened = {(row["src"], row["dest"]): estimate_of(row, "effect") for row in others.to_dict("records")}

    def cell(effect: Estimate | None) -> dict[str, Any]:
        if effect is None:
            return {"value": words.MISSING, "interval": "", "unsure": False}
        interval = words.interval(effect.low, effect.high, decimals)
        return {
            "value": words.number(effect.value, decimals),
            "interval": "" if interval == words.MISSING else interval,
            "unsure": not excludes_zero(effect),
        }

    rows: list[dict[str, Any]] = []
    for path in shown.to_dict("records"):
        ends = path["src"], path["dest"]
        sender, _, receiver = path_name(path).partition(" → ")
        rows.append(
            {
                "sender": sender,
                "receiver": receiver,
                "effect": cell(estimate_of(path, "effect")),
                "q": words.probability(path["q_value"]),
                "inputs": [cell(parts[ends].get(name)) for name in inputs],
                "open": cell(opened.get(ends)),
            }
        )
    return {
        "paths": rows,
        "inputs": [INPUTS[name] for name in inputs],
        "has_open": bool(opened),
        "has_missing": any(part["value"] == words.MISSING for row in rows for part in row["inputs"]),
        "n_listed": min(MOST_LISTED, len(rows)),
        "has_named": len(rows) > MOST_LISTED,
    }


def _significant(paths: pd.DataFrame) -> pd.DataFrame:
    return paths[paths["q_value"] <= MOST_Q]


def _told_of(found: Paths) -> dict[str, str]:
    """What is told of each end of a path that is drawn."""
    told = {LOGITS: "the logit difference"}
    for name in {name for edge in found.edges for name in (edge.src, edge.dest)} - told.keys():
        start, _, region = name.partition("@")
        if start == "embedding":
            told[name] = f"{name}: the words {place(region)}, before any layer"
        else:
            total = f"; total effect of z there {found.sizes[name]} logits" if name in found.sizes else ""
            told[name] = f"{name}{total}"
    return told


def _label(found: Paths) -> str:
    strong = sorted(found.edges, key=lambda edge: -abs(edge.effect))[:3]
    named = "; ".join(edge.told for edge in strong)
    return f"Graph of the {len(found.edges)} strongest paths between heads, from early layers down to LD. {named}."


def _module_name(module: Mapping[Any, Any]) -> str:
    if pd.notna(module["head"]):
        return words.head_name(int(module["layer"]), int(module["head"]))
    return f"{module['component']} of layer {int(module['layer'])}"


def _finding(splits: pd.DataFrame, drawn: pd.DataFrame, into_inputs: pd.DataFrame, confidence: float) -> Finding:
    title, sentences = "Paths", []
    if len(splits):
        module = strongest(splits, "total", 1).to_dict("records")[0]
        alone = strongest(splits, "direct", 1).to_dict("records")[0]
        total, direct, mediated = (estimate_of(module, part) for part in ("total", "direct", "mediated"))
        title += f": of {_module_name(module)}'s total effect {_share(direct, total)} direct"
        sentences.append(
            f"Of {words.count(len(splits), 'module')} at the last token {_module_name(module)} has the largest total "
            f"effect, {estimate(total)} logits: {estimate(direct)} directly, {estimate(mediated)} through later parts."
        )
        if _module_name(alone) != _module_name(module):
            sentences.append(f"Directly {_module_name(alone)} does most ({estimate(estimate_of(alone, 'direct'))}).")
    if len(drawn):
        sure = _significant(drawn)
        named = path_name(strongest(sure, "effect", 1).to_dict("records")[0]) if len(sure) else ""
        title += (
            f"{'; ' if len(splits) else ': '}{f'strongest {named}' if named else 'no path is shown to have an effect'}"
        )
        sentences.append(f"{_strongest_words(drawn, into_inputs)}{_excluding_words(drawn, confidence)}.")
    return Finding(title, " ".join(sentences))


def _strongest_words(drawn: pd.DataFrame, into_inputs: pd.DataFrame) -> str:
    """The strongest path with q ≤ 0.05, the largest effect where that is another, and an input that carries more."""
    counted = words.count(len(drawn), f"{drawn['variant'].iloc[0]} path")
    sure = _significant(drawn)
    (largest,) = strongest(drawn, "effect", 1).to_dict("records")
    if not len(sure):
        return (
            f"None of {counted} into heads is shown to have an effect (q ≤ {MOST_Q:g}); the largest is {_told(largest)}"
        )
    (best,) = strongest(sure, "effect", 1).to_dict("records")
    verb = "has" if len(sure) == 1 else "have"
    text = f"Of {counted} into heads {len(sure):,} {verb} q ≤ {MOST_Q:g}, the strongest of them {_told(best)}"
    if path_name(largest) != path_name(best):
        text += f"; the largest effect is not shown to be one: {_told(largest)}"
    for part in strongest(_significant(into_inputs), "effect", 1).to_dict("records"):
        if abs(part["effect"]) > abs(best["effect"]):
            text += f"; by one input alone {_told(part)} is stronger"
    return text


def _told(path: Mapping[Any, Any]) -> str:
    effect, q = estimate(estimate_of(path, "effect")), words.probability(path["q_value"])
    return f"{path_name(path)} ({effect} logits, q {q})"


def _excluding_words(drawn: pd.DataFrame, confidence: float) -> str:
    n_queries = int(drawn["n_queries"].max())
    if n_queries == 1:
        return ""
    n = sum(excludes_zero(estimate_of(path, "effect")) for path in drawn.to_dict("records"))
    would = f"{by_chance(len(drawn), n_queries, confidence)} would if there were none"
    return f"; {excluding_zero(n, words.count(len(drawn), 'path'))} ({would})"


def _share(part: Estimate, whole: Estimate) -> str:
    if not excludes_zero(whole):
        return f"{estimate(whole)} {estimate(part)} is"
    return f"{words.percent(part.value / whole.value)} is"
