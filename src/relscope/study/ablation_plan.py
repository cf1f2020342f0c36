"""Which heads are ablated, on which queries, and with what are they compared? From a run's effects to a plan.

Conditions, in the order of the table (k heads a region, n together):

    Full model    nothing ablated
    Random-n      n heads drawn at random, at all positions; several draws
    Matched-n     n heads drawn among those that were not chosen, at the same regions and depths; several draws
    Bottom-n      the k heads of smallest |effect| of each region
    Doc-k, ...    the k heads of largest |effect| at each region, ablated there
    Mixed-n       all of these

Heads are chosen by the queries that the run patched. A query of the run, patched or judged alone, known by its text, is
never evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from relscope.analysis import (
    HeadSet,
    bottom_set,
    matched_sets,
    mixed_set,
    random_sets,
    set_size,
    site_effects,
    top_set,
)
from relscope.analysis.head_sets import SET_REGIONS
from relscope.data import Collection, PairSet, RelevancePair
from relscope.data.text import folded_words
from relscope.errors import InputError
from relscope.prompts import PromptTemplate
from relscope.results import FULL_MODEL, ConditionRecord, QueryRecord, Run, SideRecord, open_run
from relscope.study.ablation_options import AblationOptions
from relscope.study.config import StudyConfig


@dataclass(frozen=True)
class Selection:
    """The run by which heads are chosen.

    Attributes:
        run: its folder, opened.
        config: of the run, as far as it decides what its rows mean.
        side: its data and the queries by which heads are chosen.
        judged: its other queries, which its filter left unpatched; held out as well.
    """

    run: Run
    config: StudyConfig
    side: SideRecord
    judged: tuple[QueryRecord, ...] = ()

    @property
    def seen(self) -> SideRecord:
        """All queries of the run: those on which nothing is evaluated."""
        return SideRecord(data=self.side.data, queries=(*self.side.queries, *self.judged))

    @property
    def prompt(self) -> str:
        """The name of the run's prompt; where its texts are not the usual ones, that it is the run's."""
        name = f"{self.config.prompt.format}-{self.config.prompt.order}"
        usual = PromptTemplate(format=self.config.prompt.format, order=self.config.prompt.order)
        return name if self.config.prompt == usual else f"{name} of the run"

    def shares(self, query_text: str) -> bool:
        """True if this is a query of the run, by its text: an id may be that of another query in other data."""
        return folded_words(query_text) in self._seen_texts

    @cached_property
    def _seen_texts(self) -> frozenset[str]:
        return frozenset(folded_words(query.query_text) for query in self.seen.queries)


def read_selection(run_dir: str | Path) -> Selection:
    """The run by which heads are chosen.

    Raises:
        InputError: the folder is no run, the run is not complete, or it did not measure heads.
    """
    run = open_run(Path(run_dir))
    manifest, identity = run.manifest, run.manifest.identity
    if manifest.status != "complete":
        raise InputError(f"{run.directory}: the run is not complete; give its relscope run again, then ablate")
    if "heads" not in identity["config"]["experiments"]:
        raise InputError(f"{run.directory}: the run did not measure heads; run with --experiments heads")
    texts = {name: of for name, of in identity["prompt"].items() if name in PromptTemplate.model_fields}
    config = StudyConfig(**identity["config"], prompt=texts)
    queries = {pair.query_id: pair.query_text for pair in manifest.pairs}
    records = {query_id: QueryRecord(query_id=query_id, query_text=text) for query_id, text in queries.items()}
    chose = tuple(records.pop(query_id) for query_id in manifest.patched_queries)
    return Selection(run, config, SideRecord(data=identity["data"]["name"], queries=chose), tuple(records.values()))


def evaluation_pairs(selection: Selection, loaded: PairSet, limit: int | None) -> tuple[list[RelevancePair], int]:
    """Pairs of the first `limit` queries that are none of the run, and how many are.

    Raises:
        InputError: no query is left.
    """
    queries = {pair.query_id: pair.query_text for pair in loaded.pairs}
    shared = {query_id for query_id, text in queries.items() if selection.shares(text)}
    left = [query_id for query_id in queries if query_id not in shared][:limit]
    if not left:
        raise InputError(
            f"{loaded.name}: all its {len(queries)} queries are among those by which the run chose heads, or which it "
            "judged; run on fewer pairs (relscope run --pairs), or give other data with --data"
        )
    kept = set(left)
    return [pair for pair in loaded.pairs if pair.query_id in kept], len(shared)


def evaluation_collection(selection: Selection, collection: Collection, limit: int | None) -> Collection:
    """The collection with only its first `limit` judged queries that are none of the run.

    Raises:
        InputError: no query is left.
    """
    judged = [q for q in collection.queries if collection.qrels.get(q)]
    queries = {q: collection.queries[q] for q in judged}
    left = [q for q, text in queries.items() if not selection.shares(text)][:limit]
    if not left:
        raise InputError(
            f"{collection.name}: all its {len(judged)} judged queries are among those by which the run chose heads, or "
            "which it judged; run on fewer pairs (relscope run --pairs), or rerank other data with --rerank"
        )
    run = None if collection.run is None else {q: collection.run[q] for q in left if q in collection.run}
    qrels = {q: collection.qrels[q] for q in left}
    return replace(collection, queries={q: queries[q] for q in left}, qrels=qrels, run=run)


def set_regions(selection: Selection, options: AblationOptions) -> tuple[str, ...]:
    """The regions whose heads make up the sets: those that are named, or of `SET_REGIONS` those that the run has.

    Raises:
        InputError: the run has no heads at a region that is named, or at none of `SET_REGIONS`.
    """
    run, heads = selection.run, selection.config.experiments.heads
    measured = () if heads is None else heads.regions
    chosen = options.regions or tuple(region for region in SET_REGIONS if region in measured)
    missing = [region for region in chosen or SET_REGIONS if region not in measured]
    if missing:
        raise InputError(
            f"regions: {run.directory} has no heads at {missing[0]!r}, but at {', '.join(measured)}; give --regions of "
            f"these, or run with --experiments heads --regions {','.join([*measured, *missing])}"
        )
    return chosen


def conditions_of(selection: Selection, options: AblationOptions) -> tuple[ConditionRecord, ...]:
    """Every condition and draw, in the order of the table.

    Raises:
        InputError: the run has no heads at a region, or too few heads for the sets.
    """
    run = selection.run
    shape = run.manifest.model_shape
    regions = set_regions(selection, options)
    effects = _head_effects(selection)
    size = (shape["n_layers"], shape["n_heads"])
    k = set_size(options.top, *size)
    if k > size[0] * size[1]:
        raise InputError(f"top: {k} heads a region, and the model has {size[0] * size[1]}; choose fewer")
    tops = [top_set(effects, region, k) for region in regions]
    largest = mixed_set(tops) if len(tops) > 1 else tops[0]
    bottom = mixed_set(bottom_set(effects, region, k) for region in regions)
    if len(largest) > size[0] * size[1]:
        raise InputError(
            f"top: {k} heads at each of {len(tops)} regions are {len(largest)}, and the model has {size[0] * size[1]} "
            "to draw random sets from; choose fewer"
        )
    conditions = [ConditionRecord(name=FULL_MODEL, kind="full")]
    draws = random_sets(*size, len(largest), n_draws=options.draws, seed=options.seed)
    conditions += _draws(f"Random-{len(largest)}", "random", None, draws)
    for chosen in [largest] if options.match == "mixed" or len(tops) == 1 else [*tops, largest]:
        name = f"Matched-{len(chosen)}" + ("" if options.match == "mixed" else f" of {chosen.name}")
        draws = matched_sets(chosen, *size, n_draws=options.draws, seed=options.seed)
        conditions += _draws(name, "matched", chosen.name, draws)
    conditions.append(ConditionRecord(name=f"Bottom-{len(bottom)}", kind="bottom", members=bottom.members))
    conditions += [ConditionRecord(name=of.name, kind="set", members=of.members) for of in tops]
    if len(tops) > 1:
        conditions.append(ConditionRecord(name=largest.name, kind="mixed", members=largest.members))
    return tuple(conditions)


def _head_effects(selection: Selection) -> pd.DataFrame:
    """The measured effect of every head, at every region of the run."""
    run, config = selection.run, selection.config
    rows = run.rows("heads")
    if not len(rows):
        raise InputError(f"{run.directory}: no pair was left to patch, so no head has an effect")
    query_of: Mapping[str, str] = run.manifest.query_of
    return site_effects(rows[rows["direction"] == config.direction], query_of, n_resamples=1, n_flips=1)


def _draws(name: str, kind: str, of: str | None, sets: Iterable[HeadSet]) -> list[ConditionRecord]:
    return [
        ConditionRecord(name=name, kind=kind, draw=n, of=of, members=one.members)  # type: ignore[arg-type]
        for n, one in enumerate(sets, start=1)
    ]
