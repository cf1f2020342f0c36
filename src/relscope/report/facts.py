"""What was run, and how much of it is there? A manifest and its rows, in words.

The manifest's `identity` is written by the study and read here by name; a field that is not there is left out of the
page, and every field is in the manifest at the page's end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from relscope.report import words
from relscope.results import DIRECT, EXACT_SAMPLE, NO_EFFECTS, PATHS, SITE_COLUMNS, Manifest

EXPERIMENT_NAMES = {
    "judge": "verdicts",
    "flow": "information flow (layer × region)",
    "heads": "attention heads (layer × head × region)",
    "edges": "attention edges (layer × head, from region to region)",
    "joint": "heads patched together",
    "paths": "paths between heads",
    "direct": "direct effects at the last token",
    "total": "total effects at the last token",
    "interaction": "attention interaction scores (read)",
    "vocabulary": "what heads and MLPs write (read)",
    EXACT_SAMPLE: "a sample measured again exactly",
}
READOUTS = ("interaction", "vocabulary")
PRECISIONS = {
    "exact": "exact: as the model computes",
    "delta": "delta: matrix products in bfloat16, of differences from the run that is patched",
}


@dataclass(frozen=True)
class Progress:
    """How far one experiment is: rows stored, and rows planned (None: nothing is). A readout has no rows.

    Attributes:
        n_pairs: pairs that have rows.
        of_pairs: pairs that are to have them.
    """

    experiment: str
    stored: int
    expected: int | None
    readout: bool = False
    n_pairs: int = 0
    of_pairs: int = 0

    @property
    def words(self) -> str:
        """One sentence part, such as `flow: 120 of 480 rows (25 %)`."""
        if self.readout:
            return f"{self.experiment}: {'read' if self.stored else 'not read yet'}"
        if not self.expected:
            return f"{self.experiment}: {words.count(self.stored, 'row')}"
        share = words.percent(self.stored / self.expected)
        return f"{self.experiment}: {self.stored:,} of {words.count(self.expected, 'row')} ({share})"

    @property
    def so_far(self) -> str:
        """What there is of it while the run goes on; empty where nothing or all is there, or that cannot be told."""
        if self.readout or not self.stored or not self.expected or self.stored >= self.expected:
            return ""
        of_pairs = words.count(self.of_pairs, "pair")
        if self.n_pairs == self.of_pairs:
            return f"So far: {self.stored:,} of {words.count(self.expected, 'row')}, some of each of {of_pairs}."
        return f"So far: {self.n_pairs:,} of {of_pairs} measured."


@dataclass(frozen=True)
class ExclusionGroup:
    """All exclusions of one stage and reason, with a few examples."""

    stage: str
    reason: str
    n: int
    examples: tuple[tuple[str, str], ...]  # (pair_id, detail)


def lookup(identity: Mapping[str, Any], *paths: str) -> Any:
    """The first of the dotted `paths` that is there and not empty, or None."""
    for path in paths:
        value: Any = identity
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in (None, "", [], {}):
            return value
    return None


def short_name(value: Any) -> str:
    """The last part of a path or hub id: what a reader calls the model or the data."""
    text = str(value).rstrip("/\\")
    return text.replace("\\", "/").rsplit("/", 1)[-1] or text


def model_name(manifest: Manifest) -> str:
    """The model as the user named it."""
    return str(lookup(manifest.identity, "config.model", "model.name") or "an unnamed model")


def data_name(manifest: Manifest) -> str:
    """The data as the user named it."""
    return str(lookup(manifest.identity, "data.name", "config.data") or "unnamed data")


def asked_experiments(manifest: Manifest) -> list[str]:
    """The experiments that the study asked for, as far as the manifest says so."""
    found = lookup(manifest.identity, "config.experiments")
    return [str(name) for name in found] if isinstance(found, Mapping) else []


def runs_in_words(manifest: Manifest) -> dict[str, str]:
    """What the clean and the corrupted prompt hold: another document, or the two documents swapped."""
    if lookup(manifest.identity, "prompt.format") == "pairwise":
        return {"clean": "relevant document as A", "corrupted": "other document as A"}
    return {"clean": "relevant document", "corrupted": "other document"}


def facts(
    manifest: Manifest, directions: Sequence[str], experiments: Sequence[str], error: str | None = None
) -> list[tuple[str, str]]:
    """What was run, as (name, words) in reading order; `error` says what lower precision was found to cost."""
    identity, shape = manifest.identity, manifest.model_shape
    patched = sum(not pair.filtered for pair in manifest.pairs)
    queries = len({pair.query_id for pair in manifest.pairs})
    order = lookup(identity, "prompt.order")
    answers = lookup(identity, "prompt.answers")
    n_cut = lookup(identity, "data.n_cut")
    lengths = [pair.n_tokens for pair in manifest.pairs]
    rows = [
        ("Model", model_name(manifest)),
        ("Size", _size(shape)),
        ("Revision", _short_hash(lookup(identity, "model.revision"))),
        ("Adapter", lookup(identity, "model.adapter")),
        ("Numbers", lookup(identity, "model.dtype", "config.dtype")),
        ("Precision of patched runs", PRECISIONS.get(str(lookup(identity, "precision")))),
        ("Error found", error),
        ("Data", data_name(manifest)),
        (
            "Pairs",
            f"{manifest.n_pairs_loaded:,} loaded, {len(manifest.pairs):,} judged "
            f"({words.count(queries, 'query', 'queries')}), {patched:,} {_patched(manifest)}",
        ),
        ("Negative documents", _negatives(identity)),
        ("Documents cut at loading", f"{n_cut:,}" if n_cut else None),
        ("Prompt", lookup(identity, "prompt.format")),
        ("Order of the parts", words.order_of_parts(str(order)) if order else None),
        ("Answers", " or ".join(map(str, answers)) if isinstance(answers, list) else None),
        ("Prompt length", _range(lengths, "token")),
        ("Experiments", words.listing(EXPERIMENT_NAMES.get(name, name) for name in experiments)),
        ("Direction", words.listing(words.DIRECTIONS.get(name, name) for name in directions)),
        ("Filter", _filter(lookup(identity, "config.filter"))),
        ("Device", _device(manifest.environment)),
        ("relscope", lookup(identity, "relscope_version")),
        ("Started", _time(manifest.created)),
        ("Extended", "; ".join(f"{_time(of.extended)}, from {words.count(of.n_pairs, 'patched pair')}"
                               for of in manifest.extensions)),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def who_chose(manifest: Manifest, experiment: str) -> str:
    """Which pairs chose the heads of `joint` or `paths`, in a sentence; empty where all that are patched did."""
    n = manifest.n_choosing(experiment)
    if n is None:
        return ""
    patched = sum(not pair.filtered for pair in manifest.pairs)
    return (
        f"The run was extended: of its {words.count(patched, 'patched pair')} the first {n:,} chose the heads, and all "
        "measure them."
    )


def progress(manifest: Manifest, rows: pd.DataFrame, read: Collection[str]) -> list[Progress]:
    """How many rows each experiment has, and how many are planned: its sites times its pairs.

    Args:
        manifest: of the run.
        rows: all that are stored.
        read: the readouts that are stored; each is whole or not there.
    """
    judged = len(manifest.pairs)
    patched = sum(not pair.filtered for pair in manifest.pairs)
    stored = Counter(str(name) for name in rows["experiment"])
    names = dict.fromkeys(["judge", *asked_experiments(manifest), *sorted(read), *sorted(stored)])
    steps = []
    for name in names:
        if name in READOUTS:
            steps.append(Progress(name, int(name in read), None, readout=True))
            continue
        if name == EXACT_SAMPLE:  # of some pairs only
            steps.append(Progress(name, stored[name], None))
            continue
        sites = 1 if name == "judge" else _planned_sites(manifest, name)
        if sites is None:  # then those seen so far: each pair is to have all of them
            here = rows.loc[rows["experiment"] == name, list(SITE_COLUMNS)]
            sites = len(here.drop_duplicates())
        n_pairs = judged if name == "judge" else patched
        there = int(rows.loc[rows["experiment"] == name, "pair_id"].nunique())
        steps.append(Progress(name, stored[name], sites * n_pairs or None, n_pairs=there, of_pairs=n_pairs))
    return steps


def pairs_patched(manifest: Manifest, rows: pd.DataFrame) -> str:
    """How many pairs have been patched so far, and how many of them in every experiment that the study asks for."""
    of_patches = rows[~rows["experiment"].isin(NO_EFFECTS)]
    measured = {str(name): set(pairs) for name, pairs in of_patches.groupby("experiment", observed=True)["pair_id"]}
    there = set().union(*measured.values())
    measured.setdefault(PATHS, measured.get(DIRECT, set()))
    asked = [name for name in asked_experiments(manifest) if name not in READOUTS]
    everywhere = there.intersection(*(measured.get(name, set()) for name in asked))
    planned = words.count(sum(not pair.filtered for pair in manifest.pairs), "pair")
    text = f"So far {len(there):,} of {planned} have been patched"
    if len(everywhere) < len(there):
        text += f", {f'{len(everywhere):,}' if everywhere else 'none'} of them in every experiment"
    return f"{text}."


def exclusion_groups(manifest: Manifest, examples: int = 3) -> list[ExclusionGroup]:
    """The exclusions by stage (in the order of the work) and reason (most frequent first)."""
    counts = Counter((e.stage, e.reason) for e in manifest.exclusions)
    order = list(words.REASONS)
    groups = []
    for (stage, reason), n in sorted(counts.items(), key=lambda c: (order.index(c[0][0]), -c[1], c[0][1])):
        cases = [(e.pair_id, e.detail) for e in manifest.exclusions if (e.stage, e.reason) == (stage, reason)]
        groups.append(ExclusionGroup(stage, reason.replace("_", " "), n, tuple(cases[:examples])))
    return groups


def exclusion_words(manifest: Manifest) -> str:
    """How many were left out, and how many are patched, in one sentence."""
    n = len({exclusion.pair_id for exclusion in manifest.exclusions})
    patched = sum(not pair.filtered for pair in manifest.pairs)
    kept = f"{patched:,} of {words.count(manifest.n_pairs_loaded, 'loaded pair')} are {_patched(manifest)}"
    return f"{words.count(n, 'pair')} or queries left out; {kept}." if n else f"{kept[0].upper()}{kept[1:]}."


def _patched(manifest: Manifest) -> str:
    return "patched" if manifest.status == "complete" else "to be patched"


def _planned_sites(manifest: Manifest, experiment: str) -> int | None:
    """How many sites of one pair the study asks for, or None where the manifest does not tell."""
    options = lookup(manifest.identity, f"config.experiments.{experiment}")
    shape = manifest.model_shape
    if not isinstance(options, Mapping) or not isinstance(options.get("regions"), list):
        return None
    per_layer = len(options["regions"])
    if experiment == "heads":
        per_layer *= shape.get("n_heads", 0)
    elif isinstance(options.get("components"), list):
        per_layer *= len(options["components"])
    else:
        return None
    return per_layer * shape.get("n_layers", 0) or None


def _device(environment: Mapping[str, Any]) -> str | None:
    device = lookup(environment, "hardware.device")
    name = lookup(environment, "hardware.accelerator", "hardware.processor")
    return f"{device} ({name})" if device and name else device


def _size(shape: Mapping[str, int]) -> str:
    parts = []
    if shape.get("n_layers"):
        heads = f" of {words.count(shape['n_heads'], 'head')}" if shape.get("n_heads") else ""
        parts.append(words.count(shape["n_layers"], "layer") + heads)
    if shape.get("n_parameters"):
        parts.append(words.parameters(shape["n_parameters"]))
    return ", ".join(parts)


def _short_hash(value: Any) -> str | None:
    """The first 12 digits of a commit's hash, as git shows it; anything else as it stands."""
    text = str(value) if value is not None else None
    return text[:12] if text and re.fullmatch("[0-9a-f]{40,64}", text) else text


def _time(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:  # the manifest promises ISO 8601; whatever it holds instead is shown as it is
        return text
    zone = " UTC" if moment.utcoffset() == timedelta(0) else ""
    return f"{moment:%Y-%m-%d %H:%M}{zone}"


def _range(values: Sequence[int], noun: str) -> str | None:
    if not values:
        return None
    low, high = min(values), max(values)
    return words.count(low, noun) if low == high else f"{low:,} to {high:,} {noun}s"


def _filter(value: Any) -> str | None:
    if value is None:
        return None
    known = {
        "all": "none: every aligned pair is patched",
        "correct": "pairs judged correctly: yes for the relevant document, no for the other one",
    }
    return known.get(str(value), str(value))


def _negatives(identity: Mapping[str, Any]) -> str | None:
    found = lookup(identity, "config.negatives")
    if not isinstance(found, Mapping) or found.get("kind") is None:
        return None
    kind, per_query = found["kind"], found.get("per_query")
    per = f", up to {per_query} for each query" if per_query else ""
    depth = f" (from the first {found['depth']} candidates)" if kind == "hard" and found.get("depth") else ""
    return f"{kind}{depth}{per}"
