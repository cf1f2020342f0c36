"""What do heads and MLPs write? Words, direct contributions to LD and the logit lens (experiment 4 of the paper).

All three are readouts: what a part writes directly, whether or not later parts read it, is no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from relscope.analysis import LEAST_QUERIES, Remainder, clean_minus_corrupted, readout_means, remainder
from relscope.report import plots, views, words
from relscope.report.findings import Finding, estimate, excludes_zero, mean_of, place, strongest
from relscope.report.maps import EffectMap, limit_of

MOST_HEADS = 12
MOST_PARTS = 12
MOST_REMAINDER: Final = 1e-3
"""In logits: float32 sums of some thousand parts stay far below."""
PARTS: Final = {
    "embedding": "embedding",
    "mlp": "MLP",
    "attn_bias": "attention beside its heads",
    "constant": "biases of norm and unembedding",
}
_PART: Final = ["part", "layer", "head"]


@dataclass(frozen=True)
class HeadWords:
    """The tokens of one head at a region, the most extreme first; `size` is what ranked the head."""

    layer: int
    head: int
    size: str
    top: tuple[str, ...]
    bottom: tuple[str, ...]

    @property
    def name(self) -> str:
        """`L12H3`."""
        return words.head_name(self.layer, self.head)


@dataclass(frozen=True)
class RegionWords:
    """The strongest heads at one region, and by what they are strongest."""

    region: str
    ranked_by: str
    heads: tuple[HeadWords, ...]


@dataclass(frozen=True)
class Written:
    """The readout `vocabulary`. `parts` and `lens` are means over pairs with intervals over queries."""

    words: tuple[RegionWords, ...]
    n_pairs: int
    parts: pd.DataFrame  # clean minus corrupted
    left: Remainder
    lens: pd.DataFrame  # of each run
    lens_differences: pd.DataFrame  # clean minus corrupted
    answers: tuple[str, ...]
    findings: tuple[Finding, ...]


def read_written(
    tables: Mapping[str, pd.DataFrame],
    effects: pd.DataFrame,
    query_of: Mapping[str, str],
    answers: Sequence[str],
    confidence: float,
) -> Written | None:
    """Everything that the page shows of the readout, or None where it is not stored.

    Args:
        tables: `contributions`, `lens` and `vocabulary`.
        effects: of all sites; those of `heads` rank the heads.
        query_of: the query of each pair.
        answers: the answer words, which are looked for among a head's tokens.
        confidence: of the intervals.
    """
    contributions, lens, vocabulary = (tables[name] for name in ("contributions", "lens", "vocabulary"))
    if not (len(contributions) and len(lens) and len(vocabulary)):
        return None
    parts = readout_means(clean_minus_corrupted(contributions, _PART, "value"), _PART, query_of, confidence=confidence)
    of_lens = lens.rename(columns={"logit_diff": "value"})
    differences = clean_minus_corrupted(lens, ["region", "layer"], "logit_diff")
    written = Written(
        words=tuple(_region_words(vocabulary, region, effects, parts) for region in _regions(vocabulary)),
        n_pairs=int(vocabulary["n_pairs"].max()),
        parts=parts,
        left=remainder(contributions),
        lens=readout_means(of_lens, ["run", "region", "layer"], query_of, confidence=confidence),
        lens_differences=readout_means(differences, ["region", "layer"], query_of, confidence=confidence),
        answers=tuple(answers),
        findings=(),
    )
    found = (_words_finding(written), _parts_finding(written), _lens_finding(written))
    return Written(**{**vars(written), "findings": found})


def written_view(written: Written) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """What the template shows, the maps, and the line plots for the script."""
    maps = [_plot(m, f"written-{n}", kind) for n, (m, kind) in enumerate(_part_maps(written.parts))]
    lines, lens = [], []
    for number, region in enumerate(_regions(written.lens)):
        here = written.lens[written.lens["region"] == region]
        of_run = [(run, here[here["run"] == run].sort_values("layer")) for run in ("clean", "corrupted")]
        lines.append(plots.lines(f"lens-{number}", "layer", "LD read after the layer", of_run, x="layer"))
        label = f"Lines over layers: LD of the clean and of the corrupted run, read {place(region)} after each layer."
        lens.append({"id": f"lens-{number}", "place": place(region), "label": label})
    view = {
        "findings": written.findings,
        "words": [_words_view(of) for of in written.words],
        "n_pairs": words.count(written.n_pairs, "pair"),
        "parts": _part_rows(written.parts),
        "check": remainder_words(written.left),
        "check_failed": not written.left.largest <= MOST_REMAINDER,
        "maps": [{name: plot[name] for name in ("id", "name", "label", "limit_words")} for plot in maps],
        "lens": lens,
    }
    return view, maps, lines


def _words_view(of_region: RegionWords) -> dict[str, Any]:
    heads = [
        {
            "name": head.name,
            "size": head.size,
            "top_shown": [shown_token(token) for token in head.top],
            "bottom_shown": [shown_token(token) for token in head.bottom],
        }
        for head in of_region.heads
    ]
    return {"place": place(of_region.region), "ranked_by": of_region.ranked_by, "heads": heads}


def shown_token(token: str) -> str:
    """A token with signs for its white space; nothing at all as two quotation marks."""
    signs = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"}
    return "".join(signs.get(sign, sign) for sign in token) or "“”"


def remainder_words(left: Remainder) -> str:
    """Whether the parts sum to LD."""
    runs = words.count(left.n_runs, "run")
    amount = f"{left.largest:.1g} logits"
    if left.largest <= MOST_REMAINDER:
        return f"Check: the parts sum to LD in each of {runs}, with at most {amount} left over."
    return (
        f"Check failed: up to {amount} of LD are left over in the worst of {runs}, more than rounding explains "
        f"({MOST_REMAINDER:g}): do not read the parts as a whole."
    )


def part_name(part: Mapping[Any, Any]) -> str:
    """`L12H3`, `MLP of layer 4`, `embedding`."""
    if part["part"] == "head":
        return words.head_name(int(part["layer"]), int(part["head"]))
    name = PARTS.get(str(part["part"]), str(part["part"]))
    return name if pd.isna(part["layer"]) else f"{name} of layer {int(part['layer'])}"


def _regions(table: pd.DataFrame) -> list[str]:
    return sorted(table["region"].astype(str).unique(), key=words.region_key)


def _region_words(vocabulary: pd.DataFrame, region: str, effects: pd.DataFrame, parts: pd.DataFrame) -> RegionWords:
    here = vocabulary[vocabulary["region"] == region]
    measured = effects[(effects["experiment"] == "heads") & (effects["region"] == region)]
    if len(measured):
        measured = measured[measured["direction"] == measured["direction"].iloc[0]]
        ranked_by, column, frame = f"effect of z {place(region)}, in logits", "effect", measured
    else:  # then what they write into LD is all there is to rank them by
        ranked_by, column, frame = "direct contribution to the gap, in logits", "mean", parts[parts["part"] == "head"]
    decimals = words.decimals_for(frame[column])
    tokens = {key: of.sort_values("rank") for key, of in here.groupby(["layer", "head"])}
    heads = []
    for site in strongest(frame, column, MOST_HEADS).to_dict("records"):
        of_head = tokens[int(site["layer"]), int(site["head"])]
        ends = (tuple(of_head.loc[of_head["end"] == end, "token"].map(str)) for end in ("top", "bottom"))
        size = words.number(site[column], decimals)
        heads.append(HeadWords(int(site["layer"]), int(site["head"]), size, *ends))
    return RegionWords(region, ranked_by, tuple(heads))


def _words_finding(written: Written) -> Finding:
    answers = {answer.strip().casefold() for answer in written.answers}
    sentences, titles = [], []
    for of_region in written.words:
        with_answer = [
            f"{head.name} ({words.listing(found)})"
            for head in of_region.heads
            if (found := [f"“{t.strip()}” {end}" for end in ("top", "bottom") for t in _answers(head, end, answers)])
        ]
        verb = "has" if len(with_answer) == 1 else "have"
        sentences.append(
            f"{place(of_region.region).capitalize()}, {len(with_answer)} of the {len(of_region.heads)} strongest heads "
            f"{verb} an answer among their extreme tokens{': ' if with_answer else ''}{words.listing(with_answer)}."
        )
        titles.append(f"{len(with_answer)} {place(of_region.region)}")
    return Finding(f"Words: strong heads that write an answer: {words.listing(titles)}", " ".join(sentences))


def _answers(head: HeadWords, end: str, answers: set[str]) -> list[str]:
    """The answers among a head's tokens, each spelling once."""
    tokens = head.top if end == "top" else head.bottom
    return list(dict.fromkeys(token.strip() for token in tokens if token.strip().casefold() in answers))


def _parts_finding(written: Written) -> Finding:
    parts, whole = _split(written.parts)
    largest = strongest(parts, "mean", 3).to_dict("records")
    named = [f"{part_name(part)} ({estimate(mean_of(part))})" for part in largest]
    of_kind = parts.groupby("part")["mean"].sum()
    heads, mlps = (words.number(float(of_kind.get(kind, 0.0))) for kind in ("head", "mlp"))
    text = (
        f"Of the gap of {estimate(mean_of(whole))} logits, heads write {heads} and MLPs {mlps} directly; the largest "
        f"parts are {words.listing(named)}."
    )
    return Finding(f"Direct contributions: the largest is that of {part_name(largest[0])}", text)


def _lens_finding(written: Written) -> Finding:
    region = "last" if "last" in _regions(written.lens) else _regions(written.lens)[0]
    here = written.lens_differences
    steps = here[here["region"] == region].sort_values("layer").to_dict("records")
    since = None
    for step in reversed(steps):
        if not (excludes_zero(mean_of(step)) and step["mean"] * steps[-1]["mean"] > 0):
            break
        since = step
    end = f"after the last layer the difference is {estimate(mean_of(steps[-1]))} logits"
    n_queries = int(steps[-1]["n_queries"])
    if 1 < n_queries < LEAST_QUERIES:
        title = f"Logit lens: {n_queries} queries are too few to say from where on the runs part"
        return Finding(title, f"{place(region).capitalize()}, {end}.")
    if since is None:
        title = "Logit lens: the runs are not shown to part"
        return Finding(title, f"{place(region).capitalize()}, {end}, and its interval holds 0 (or there is none).")
    layer = int(since["layer"])
    side = "above" if since["mean"] > 0 else "below"
    text = (
        f"{place(region).capitalize()}, LD of the clean run lies {side} that of the corrupted run at every layer from "
        f"{layer} on, with intervals of the difference over {words.count(n_queries, 'query', 'queries')} that exclude "
        f"0 (there {estimate(mean_of(since))}), and more queries may show it earlier; {end}."
    )
    return Finding(f"Logit lens: the runs are shown to part from layer {layer} on", text)


def _split(parts: pd.DataFrame) -> tuple[pd.DataFrame, Mapping[Any, Any]]:
    """The parts, and LD itself."""
    is_whole = parts["part"] == "logit_diff"
    return parts[~is_whole], parts[is_whole].to_dict("records")[0]


def _part_rows(parts: pd.DataFrame) -> list[dict[str, Any]]:
    some, whole = _split(parts)
    shown = strongest(some, "mean", MOST_PARTS)
    ends = shown[["mean", "low", "high"]].to_numpy(dtype=np.float64)
    span = views.padded(ends.ravel())
    rows = [
        {"name": part_name(part), "value": estimate(mean_of(part)), "bar": views.bar(mean_of(part), span, 0.0)}
        for part in shown.to_dict("records")
    ]
    return [*rows, {"name": "LD: the sum of all parts", "value": estimate(mean_of(whole)), "bar": None}]


def _part_maps(parts: pd.DataFrame) -> list[tuple[EffectMap, str]]:
    """Heads x layers, and the other parts of each layer."""
    heads = parts[parts["part"] == "head"]
    others = parts[parts["layer"].notna() & parts["head"].isna()]
    others = others[others.groupby("part")["mean"].transform(lambda of_part: of_part.abs().max()) > 0]
    n_heads, n_layers = int(heads["head"].max()) + 1, int(heads["layer"].max()) + 1
    kinds = [str(kind) for kind in others["part"].unique()]
    place_of = others["part"].map({kind: number for number, kind in enumerate(kinds)})
    of_heads = plots.readout_map("heads", [str(h) for h in range(n_heads)], heads["head"], heads, n_layers)
    of_others = plots.readout_map("MLPs", [PARTS.get(k, k) for k in kinds], place_of, others, n_layers)
    return [(of_heads, "heads"), *([(of_others, "flow")] if kinds else [])]


def _plot(part_map: EffectMap, identifier: str, kind: str) -> dict[str, Any]:
    limit = limit_of([part_map.cells["effect"]])
    label = (
        f"Heat map of the direct contributions of {part_map.name} to LD, clean minus corrupted, over layers, in logits."
    )
    plot = views.plot_map(part_map, identifier, kind)
    group = {"group": "readout", "unit": "logits", "limits": {"effect": limit}, "limit_words": f"{limit:g}"}
    return {**plot, **group, "label": label}
