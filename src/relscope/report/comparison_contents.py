"""What does the report of a comparison say? Everything that is computed, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from relscope.analysis import (
    Estimate,
    JudgeQuality,
    MoveCorrelation,
    Similarity,
    effect_differences,
    head_moves,
    judge_quality,
    move_correlations,
    moved_and_matters,
    part_moves,
    quality_differences,
    rank_similarity,
    transfer_effects,
    weight_moves,
)
from relscope.report import words
from relscope.report.comparison_folder import MODELS, TRANSFER_FOLDERS, StoredComparison
from relscope.report.comparison_maps import Family, difference_families, transfer_families
from relscope.report.contents import CONFIDENCE
from relscope.report.findings import strongest
from relscope.report.maps import MODULES, Quantity

STRONGEST: Final = 10


@dataclass(frozen=True)
class SameSites:
    """How alike the two models rank one set of sites: the heads at a region, or one component's layers x regions."""

    kind: str  # "heads" or "flow"
    name: str  # the region, or the component
    similarities: tuple[Similarity, ...]


@dataclass(frozen=True)
class Moved:
    """How far heads and weights moved, next to how much the heads matter."""

    heads: pd.DataFrame | None  # from `moved_and_matters`
    correlations: tuple[MoveCorrelation, ...]
    parts: pd.DataFrame | None  # from `part_moves`


@dataclass(frozen=True)
class Comparison:
    """A comparison, computed. `quality` and `quality_difference` are over the pairs that both models judged."""

    stored: StoredComparison
    quality: Mapping[str, JudgeQuality]
    quality_difference: Mapping[str, Estimate]
    differences: pd.DataFrame
    families: tuple[Family, ...]
    transfers: Mapping[str, pd.DataFrame]  # by folder: "into_base", "into_tuned"
    transfer_families: tuple[Family, ...]
    moved: Moved
    same: tuple[SameSites, ...]

    @property
    def n_queries(self) -> int:
        """How many queries the differences, or else the transfers, rest on."""
        frames = [self.differences, *self.transfers.values()]
        return max((int(frame["n_queries"].max()) for frame in frames if len(frame)), default=0)

    def has_shares(self, group: str) -> bool:
        """True if shares of the gap have intervals: no gap of the group's maps may be 0."""
        frames = [self.differences] if group == "effects" else list(self.transfers.values())
        shown = [frame for frame in frames if len(frame)]
        return bool(shown) and not any(frame["unstable_ie"].any() for frame in shown)

    def quantity(self, group: str) -> Quantity:
        """What the group's maps, lists and findings go by: shares of the gap, unless they would show its noise.

        In logits a model with a larger gap has larger effects everywhere, whatever else tuning has changed.
        """
        return "ie" if self.has_shares(group) else "effect"

    def largest_changes(self, kind: str, k: int | None = STRONGEST) -> pd.DataFrame:
        """The heads, or the modules (attn_out, mlp_out), whose effect differs most, at regions that share no token."""
        single = _comparable(self.differences)
        here = single[single["head"].notna() if kind == "heads" else single["head"].isna()]
        column = "ie_difference" if self.has_shares("effects") else "difference"
        return strongest(here, column, k).reset_index(drop=True)


def compare(stored: StoredComparison) -> Comparison:
    """Compute everything the report shows; intervals are percentile bootstraps over queries."""
    query_of = stored.query_of
    quality, quality_difference = compared_quality(stored)
    of_models = [stored.rows(name) for name in MODELS]
    base, tuned = (pd.DataFrame() if rows is None else rows for rows in of_models)
    both = len(base) > 0 and len(tuned) > 0
    differences = effect_differences(base, tuned, query_of, confidence=CONFIDENCE) if both else pd.DataFrame()
    transfers = compared_transfers(stored)
    return Comparison(
        stored=stored,
        quality=quality,
        quality_difference=quality_difference,
        differences=differences,
        families=tuple(difference_families(differences)) if len(differences) else (),
        transfers=transfers,
        transfer_families=tuple(transfer_families(transfers)),
        moved=_moved(stored, differences, base, tuned),
        same=tuple(_same_sites(base, tuned, query_of)) if both else (),
    )


def compared_quality(stored: StoredComparison) -> tuple[dict[str, JudgeQuality], dict[str, Estimate]]:
    """The quality of both models' verdicts on the pairs that both judged, and the differences tuned - base."""
    judged = {}
    for name in MODELS:
        rows = stored.rows(name)
        if rows is None or not (rows["experiment"] == "judge").any():
            return {}, {}
        judged[name] = rows[rows["experiment"] == "judge"]
    common = set(judged["base"]["pair_id"]) & set(judged["tuned"]["pair_id"])
    if not common:
        return {}, {}
    kept = {name: rows[rows["pair_id"].isin(common)] for name, rows in judged.items()}
    query_of = stored.query_of
    quality = {name: judge_quality(rows, query_of, confidence=CONFIDENCE) for name, rows in kept.items()}
    return quality, quality_differences(kept["base"], kept["tuned"], query_of, confidence=CONFIDENCE)


def compared_transfers(stored: StoredComparison) -> dict[str, pd.DataFrame]:
    """The effects of each transfer that has rows of both prompts, by folder."""
    found = {}
    for name in TRANSFER_FOLDERS:
        rows = stored.rows(name)
        if rows is not None:
            effects = transfer_effects(rows, stored.query_of, confidence=CONFIDENCE)
            if len(effects):
                found[name] = effects
    return found


def strongest_transfers(effects: pd.DataFrame, k: int = STRONGEST) -> pd.DataFrame:
    """The modules and heads that alone carry most of the donor's extra separation, most first.

    Of attn_out, mlp_out and z at regions that share no token. The residual stream is left out: it holds everything
    before it, so that it carries whatever they carry together.
    """
    single = _comparable(effects)
    sign = np.sign(single["gap"].to_numpy(dtype=np.float64))
    carried = single["effect"].to_numpy(dtype=np.float64) * np.where(sign == 0, 1.0, sign)
    return single.iloc[np.argsort(-carried, kind="stable")[:k]].reset_index(drop=True)


def _comparable(effects: pd.DataFrame) -> pd.DataFrame:
    regions = words.disjoint(str(region) for region in effects["region"].dropna().unique())
    chosen = effects["component"].isin([*MODULES, "z"])
    if regions:  # else only single tokens or `all` were measured: each of them is listed
        chosen &= effects["region"].isin(regions)
    return effects[chosen].reset_index(drop=True)


def _moved(stored: StoredComparison, differences: pd.DataFrame, base: pd.DataFrame, tuned: pd.DataFrame) -> Moved:
    weights = stored.weight_changes
    parts = part_moves(weights) if weights is not None else None
    changes = stored.head_changes
    if changes is None or not len(differences) or not (differences["experiment"] == "heads").any():
        return Moved(None, (), parts)
    moves = head_moves(changes, stored.query_of, confidence=CONFIDENCE)
    of_weights = weight_moves(weights) if weights is not None else None
    heads = moved_and_matters(moves, of_weights, differences)
    correlations = move_correlations(changes, base, tuned, stored.query_of, confidence=CONFIDENCE)
    ordered = sorted(correlations, key=lambda c: words.region_key(c.region))
    return Moved(heads if len(heads) else None, tuple(ordered), parts)


def _same_sites(base: pd.DataFrame, tuned: pd.DataFrame, query_of: Mapping[str, str]) -> list[SameSites]:
    found = []
    for kind, column in (("heads", "region"), ("flow", "component")):
        of_kind = [rows[rows["experiment"] == kind] for rows in (base, tuned)]
        names = [str(name) for name in of_kind[0][column].dropna().unique()]
        if kind == "heads":
            names = sorted(names, key=words.region_key)
        for name in names:
            here = [rows[rows[column] == name] for rows in of_kind]
            if kind == "flow":  # overlapping regions are not ranked against each other
                kept = words.disjoint(str(region) for region in here[0]["region"].unique())
                here = [rows[rows["region"].isin(kept)] for rows in here]
            similarities = rank_similarity(here[0], here[1], query_of, confidence=CONFIDENCE)
            if similarities:
                found.append(SameSites(kind, name, tuple(similarities)))
    return found
