"""What does a comparison of runs say? Everything that is computed, before any of it is drawn or written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd

from relscope.analysis import (
    JudgeQuality,
    MechanismSimilarity,
    RunEffects,
    Unmatched,
    judge_quality,
    mechanism_similarity,
    site_effects,
)
from relscope.errors import InputError
from relscope.report.comparison_maps import Family, families_of
from relscope.report.contents import CONFIDENCE
from relscope.report.map_kinds import EDGES, FLOW, HEADS
from relscope.report.maps import EffectMap, Quantity
from relscope.report.similarity_runs import ComparedRun

MAP_KINDS: Final = (FLOW, HEADS, EDGES)
TABLE_COLUMNS: Final = (
    "run_one", "run_other", "experiment", "direction", "component", "places", "together", "matched_by", "measure",
    "value", "low", "high", "by_chance", "p_value", "by_chance_in_layers", "p_value_in_layers", "ceiling_one",
    "ceiling_other", "n_sites", "n_pairs_one", "n_pairs_other", "n_queries_one", "n_queries_other", "n_queries_shared",
    "same_queries",
)  # fmt: skip


@dataclass(frozen=True)
class PairOfRuns:
    """Two runs, how alike they are, and what of them could not be compared.

    Attributes:
        problem: why nothing could be compared; empty where something was.
    """

    one: ComparedRun
    other: ComparedRun
    found: tuple[MechanismSimilarity, ...]
    unmatched: tuple[Unmatched, ...]
    problem: str = ""

    @property
    def headline(self) -> tuple[MechanismSimilarity, ...]:
        """One entry a component: over all places that share no token, or at its only place."""
        together = [one for one in self.found if one.matched.together]
        covered = {_component(one) for one in together}
        return tuple(one for one in self.found if one.matched.together or _component(one) not in covered)

    @property
    def document_a_renamed(self) -> dict[str, set[tuple[str, str, str]]]:
        """By run (its letter): the components whose `document_a` was taken for the `document` of the other run."""
        renamed: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for found in self.found:
            if found.matched.document_a_in is not None:
                run = self.one if found.matched.document_a_in == "one" else self.other
                renamed[run.letter].add(_component(found))
        return dict(renamed)


@dataclass(frozen=True)
class Mechanisms:
    """Some runs, compared.

    Attributes:
        quality: of each run's verdicts, by letter; none where it has no verdicts.
        families: the maps of every component, head region and edge that two runs or more have, a panel for each of
            these runs (by letter).
        lone: the names of the maps that one run alone has, by its letter; they are not shown.
        quantity: what the maps' colours show.
    """

    runs: tuple[ComparedRun, ...]
    pairs: tuple[PairOfRuns, ...]
    quality: Mapping[str, JudgeQuality]
    families: tuple[Family, ...]
    lone: Mapping[str, tuple[str, ...]]
    quantity: Quantity

    @property
    def n_queries(self) -> int:
        """How many queries the poorest of the runs that were compared rests on."""
        return min(min(found.n_queries) for pair in self.pairs for found in pair.found)

    def named(self, letter: str) -> str:
        """`A (pairwise, idq)`."""
        return next(run.name for run in self.runs if run.letter == letter)


def compare_runs(runs: Sequence[ComparedRun], n_resamples: int = 1000) -> Mechanisms:
    """Compute everything the report shows: every pair of runs.

    Args:
        runs: two or more.
        n_resamples: of the queries, and so many relabellings of the sites.

    Raises:
        InputError: no two of the runs have anything in common that could be compared, or rows and manifest of one
            do not belong together.
    """
    effects = {run.letter: run.effects() for run in runs}
    pairs = tuple(_pair(one, other, effects, n_resamples) for one, other in combinations(runs, 2))
    if not any(pair.found for pair in pairs):
        problem = next((pair for pair in pairs if pair.problem), None)
        if problem is not None:
            raise InputError(f"{problem.one.directory} and {problem.other.directory}: {problem.problem}")
        left = pairs[0].unmatched[0]
        raise InputError(
            f"{pairs[0].one.directory} and {pairs[0].other.directory}: nothing can be compared; {left.experiment}, "
            f"{left.component} at {left.place}: {left.reason}"
        )
    tables = {
        # the maps show no p-values, which would take most of the time
        run.letter: site_effects(run.rows, run.manifest.query_of, n_flips=1, confidence=CONFIDENCE)
        for run in runs
    }
    stable = not any(table["unstable_ie"].any() for table in tables.values())
    families, lone = _side_by_side({of: _as_compared(of, table, pairs) for of, table in tables.items() if len(table)})
    judged = {run.letter: run.rows[run.rows["experiment"] == "judge"] for run in runs}
    return Mechanisms(
        runs=tuple(runs),
        pairs=pairs,
        quality={
            run.letter: judge_quality(judged[run.letter], run.manifest.query_of, confidence=CONFIDENCE)
            for run in runs
            if len(judged[run.letter])
        },
        families=families,
        lone=lone,
        quantity="ie" if stable else "effect",
    )


def similarity_table(pairs: Sequence[PairOfRuns]) -> pd.DataFrame:
    """One row for each pair of runs, set of sites and measure, with TABLE_COLUMNS; the content of similarity.csv."""
    rows = [
        (
            pair.one.letter, pair.other.letter, found.matched.experiment, found.matched.direction,
            found.matched.component, " ".join(found.matched.places), found.matched.together, found.matched.by,
            one.measure, one.value.value, one.value.low, one.value.high, one.chance.mean, one.chance.p_value,
            one.in_layers.mean if one.in_layers else np.nan, one.in_layers.p_value if one.in_layers else np.nan,
            *one.ceilings, found.n_sites, *found.n_pairs, *found.n_queries, found.n_shared_queries,
            found.same_queries,
        )
        for pair in pairs
        for found in pair.found
        for one in found.measures
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def not_compared(pairs: Sequence[PairOfRuns]) -> list[dict[str, Any]]:
    """What of each pair of runs was not compared, with the reason, as plain values."""
    found = []
    for pair in pairs:
        runs = {"one": pair.one.letter, "other": pair.other.letter, None: f"{pair.one.letter} and {pair.other.letter}"}
        between = {"run_one": pair.one.letter, "run_other": pair.other.letter}
        if pair.problem:
            everything = {"experiment": "", "direction": "", "component": "", "place": "everything", "n_sites": 0}
            found.append({**between, "measured_in": runs[None], **everything, "reason": pair.problem})
        for left in pair.unmatched:
            found.append(
                {
                    **between,
                    "measured_in": runs[left.which],
                    **{name: getattr(left, name) for name in ("experiment", "direction", "component", "place")},
                    "n_sites": left.n_sites,
                    "reason": left.reason,
                }
            )
    return found


def _pair(one: ComparedRun, other: ComparedRun, effects: Mapping[str, RunEffects], n_resamples: int) -> PairOfRuns:
    try:
        found, unmatched = mechanism_similarity(
            effects[one.letter], effects[other.letter], n_resamples=n_resamples, confidence=CONFIDENCE
        )
    except InputError as error:  # the other pairs of runs may have something in common
        return PairOfRuns(one, other, (), (), str(error))
    return PairOfRuns(one, other, tuple(found), tuple(unmatched))


def _component(found: MechanismSimilarity) -> tuple[str, str, str]:
    return found.matched.experiment, found.matched.direction, found.matched.component


def _as_compared(letter: str, table: pd.DataFrame, pairs: Sequence[PairOfRuns]) -> pd.DataFrame:
    """A run's effects with `document_a` called `document` in every component where it was compared as that."""
    taken = {component for pair in pairs for component in pair.document_a_renamed.get(letter, ())}
    if not taken:
        return table
    components = table[["experiment", "direction", "component"]].astype(object).itertuples(index=False, name=None)
    chosen = [component in taken for component in components]
    places = table[["region", "dest", "src"]].astype(object)
    renamed = places.apply(lambda names: names.str.replace("document_a", "document").where(chosen, names))
    return table.assign(**renamed)


def _side_by_side(tables: Mapping[str, pd.DataFrame]) -> tuple[tuple[Family, ...], dict[str, tuple[str, ...]]]:
    """The families of two panels or more, with common rows; and the names of the others, by the run that has them."""
    families = families_of("runs", tables, MAP_KINDS)
    several = len({family.direction for family in families}) > 1
    lone: dict[str, list[str]] = defaultdict(list)
    for family in families:
        if len(family.panels) == 1:
            name = family.kind.title(family.name).short + (f" ({family.direction})" if several else "")
            lone[next(iter(family.panels))].append(name)
    shown = tuple(_with_common_rows(family) for family in families if len(family.panels) > 1)
    return shown, {letter: tuple(names) for letter, names in lone.items()}


def _with_common_rows(family: Family) -> Family:
    """The same with the rows of all panels in each, so that maps stand side by side; gaps where one has none."""
    rows = family.kind.common_rows(family.panels.values())
    return replace(family, panels={name: _with_rows(panel, rows) for name, panel in family.panels.items()})


def _with_rows(effect_map: EffectMap, rows: tuple[str, ...]) -> EffectMap:
    at = [rows.index(row) for row in effect_map.rows]
    cells = {}
    for name, matrix in effect_map.cells.items():
        cells[name] = np.full((len(rows), matrix.shape[1]), np.nan)
        cells[name][at] = matrix
    return replace(effect_map, rows=rows, cells=cells)
