"""What does the report say? Everything that is computed from a run, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from relscope.analysis import (
    Estimate,
    JudgeQuality,
    PrecisionError,
    judge_quality,
    precision_error,
    site_effects,
    top_heads,
)
from relscope.report import facts, findings, maps
from relscope.report.findings import Finding
from relscope.report.maps import EffectMap, HeadList, Quantity, Scale
from relscope.report.mechanism import Mechanism, read_mechanism
from relscope.report.support import Support, supports
from relscope.results import Manifest, Run

CONFIDENCE = 0.95
TOP_HEADS = 10


@dataclass(frozen=True)
class Contents:
    """A run, computed. Everything the page, the figures and the downloads show comes from here."""

    manifest: Manifest
    rows: pd.DataFrame
    progress: tuple[facts.Progress, ...]
    precision: PrecisionError | None
    quality: JudgeQuality | None
    gap: Estimate | None  # mean LD_clean - LD_corrupted over the patched pairs
    effects: pd.DataFrame
    directions: tuple[str, ...]
    flow: tuple[EffectMap, ...]
    heads: tuple[EffectMap, ...]
    head_lists: tuple[HeadList, ...]
    scale: Scale
    supports: tuple[Support, ...]
    mechanism: Mechanism
    findings: tuple[Finding, ...]

    @property
    def complete(self) -> bool:
        """True once the study has said so."""
        return self.manifest.status == "complete"

    @property
    def n_queries(self) -> int:
        """How many queries the effects rest on."""
        return int(self.effects["n_queries"].max()) if len(self.effects) else 0


def read_contents(run: Run) -> Contents:
    """Compute everything the report of `run` shows; intervals are percentile bootstraps over queries."""
    manifest = run.manifest
    rows = run.rows()
    query_of = manifest.query_of
    judged = rows[rows["experiment"] == "judge"]
    quality = judge_quality(judged, query_of, confidence=CONFIDENCE) if len(judged) else None
    effects = site_effects(rows, query_of, confidence=CONFIDENCE)
    flow, heads = maps.flow_maps(effects), maps.head_maps(effects)
    gap = _gap(effects)
    scale = maps.shared_scale(flow, heads, _quantity(effects))
    mechanism = read_mechanism(run, rows, effects, scale.quantity, CONFIDENCE)
    of_edges = mechanism.edges.maps if mechanism.edges else ()
    supported = tuple(supports(rows, effects, query_of, CONFIDENCE))
    directions = tuple(dict.fromkeys(m.direction for m in (*flow, *heads, *of_edges)))
    return Contents(
        manifest=manifest,
        rows=rows,
        progress=tuple(facts.progress(manifest, rows, mechanism.read)),
        precision=precision_error(rows),
        quality=quality,
        gap=gap,
        effects=effects,
        directions=directions,
        flow=tuple(flow),
        heads=tuple(heads),
        head_lists=tuple(_head_list(effects, m) for m in heads),
        scale=scale,
        supports=supported,
        mechanism=mechanism,
        findings=(*_findings(quality, gap, directions, flow, heads, scale, supported), *mechanism.findings),
    )


def _gap(effects: pd.DataFrame) -> Estimate | None:
    """Clean minus corrupted, at the site with most pairs: others lack some while a run is in progress."""
    if not len(effects):
        return None
    fullest = effects.iloc[int(np.argmax(effects["n_pairs"].to_numpy()))]
    value, low, high = (float(fullest[name]) for name in ("gap", "gap_low", "gap_high"))
    return Estimate(value, low, high) if fullest["direction"] == "denoise" else Estimate(-value, -high, -low)


def _quantity(effects: pd.DataFrame) -> Quantity:
    """IE, unless the gap that it is a share of may be 0: its colours would then show the denominator's noise."""
    return "effect" if effects["unstable_ie"].any() else "ie"


def _head_list(effects: pd.DataFrame, head_map: EffectMap) -> HeadList:
    here = effects[(effects["experiment"] == "heads") & (effects["direction"] == head_map.direction)]
    return HeadList(head_map.name, head_map.direction, top_heads(here, head_map.name, TOP_HEADS))


def _findings(
    quality: JudgeQuality | None,
    gap: Estimate | None,
    directions: tuple[str, ...],
    flow: list[EffectMap],
    heads: list[EffectMap],
    scale: Scale,
    supported: Sequence[Support],
) -> list[Finding]:
    found = [findings.verdict_finding(quality, gap)] if quality is not None else []
    for direction in directions:
        of_direction = [
            *findings.flow_findings([m for m in flow if m.direction == direction], scale.quantity),
            *findings.head_findings([m for m in heads if m.direction == direction], scale.quantity, CONFIDENCE),
            *(of.finding for of in supported if (of.experiment, of.direction) == ("heads", direction)),
        ]
        if len(directions) > 1:
            of_direction = [Finding(f"{f.title} ({direction})", f.text) for f in of_direction]
        found.extend(of_direction)
    return found
