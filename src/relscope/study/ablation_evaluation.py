"""On what are ablations evaluated, and what does the header of their folder say?

Of each prompt's template: the pairs of both sides of the split. Of reranking: the evaluation's queries with the first
stage's documents.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relscope.data import Collection, PairSet, RelevancePair, first_stage, load_collection, texts_sha256
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair, PromptRenderer, PromptTemplate
from relscope.results import (
    AblationHeader,
    ConditionRecord,
    LeftOutRecord,
    QueryRecord,
    RerankRecord,
    SideRecord,
    identity_hash,
)
from relscope.study.ablation_options import AblationOptions
from relscope.study.ablation_plan import Selection, evaluation_collection
from relscope.study.manifest import now
from relscope.study.prepare import align_for
from relscope.version import __version__


@dataclass(frozen=True)
class Asked:
    """One prompt's template: how it is asked of the evaluation's pairs, and what reference values it has."""

    name: str
    renderer: PromptRenderer
    pairs: list[AlignedPair]
    selection: list[AlignedPair]
    left_out: list[LeftOutRecord]

    @property
    def token_sha256(self) -> str:
        """Over the token ids of every prompt of both sides."""
        digest = hashlib.sha256()
        for pair in (*self.pairs, *self.selection):
            digest.update(f"{pair.pair_id}{pair.clean.ids}{pair.corrupted.ids}{pair.answer_ids}".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ToRank:
    """What is ranked again: the collection with its first stage as its run, and the record of it."""

    collection: Collection
    record: RerankRecord

    @property
    def sha256(self) -> str:
        """Over the texts of all queries and documents that are ranked, and the first stage's order."""
        return texts_sha256(self.collection, self.record.rankings)


@dataclass(frozen=True)
class Evaluation:
    """What the ablations are evaluated on; `n_shared` queries of the data were left out, as the run's own."""

    loaded: PairSet
    pairs: list[RelevancePair]
    n_shared: int
    asked: list[Asked]
    ranked: ToRank | None


def asked_with(judge: JudgeModel, name: str, template: PromptTemplate, of_run: PairSet, loaded: PairSet) -> Asked:
    """A template's prompts of both sides of the split."""
    renderer = PromptRenderer(judge.tokenizer, template)
    selection, lost = align_for(judge, renderer, of_run)
    if not selection:
        raise InputError(f"{of_run.name}: no pair can be asked about with {name}: {lost[0].detail}")
    pairs, exclusions = align_for(judge, renderer, loaded)
    if not pairs:
        raise InputError(f"{loaded.name}: no pair can be asked about with {name}: {exclusions[0].detail}")
    left_out = [
        LeftOutRecord(prompt=name, what=one.pair_id, reason=one.reason, detail=one.detail) for one in exclusions
    ]
    return Asked(name, renderer, pairs, selection, left_out)


def to_rank(selection: Selection, options: AblationOptions, data: str) -> ToRank | None:
    """The collection that is ranked again, with its first stage; None where none is."""
    if options.rerank is False:
        return None
    whole = load_collection(data if options.rerank is True else options.rerank)
    collection = evaluation_collection(selection, whole, options.pairs)
    first = first_stage(collection, depth=options.depth, run=options.first_stage)
    queries = tuple(QueryRecord(query_id=q, query_text=collection.queries[q]) for q in first.rankings)
    record = RerankRecord(
        side=SideRecord(data=collection.name, queries=queries),
        first_stage=first.name,
        depth=options.depth,
        n_draws=min(options.rerank_draws, options.draws),
        rankings=dict(first.rankings),
    )
    return ToRank(dataclasses.replace(collection, run=first.rankings, run_is_ordered=True), record)


def identity_of_options(selection: Selection, options: AblationOptions, prompts: Iterable[str]) -> dict[str, Any]:
    """What of an ablation's identity is known before anything is read or loaded, as JSON values."""
    settings = dataclasses.asdict(options) | {"prompts": list(prompts)}
    known = {"run": selection.run.manifest.identity_hash, "settings": settings}
    return dict(json.loads(json.dumps(known)))


def header_of(
    selection: Selection,
    options: AblationOptions,
    conditions: Sequence[ConditionRecord],
    judge: JudgeModel,
    evaluation: Evaluation,
) -> AblationHeader:
    """What `ablation.json` says when the work begins."""
    loaded, ranked, asked = evaluation.loaded, evaluation.ranked, evaluation.asked
    members = json.dumps([condition.model_dump(mode="json") for condition in conditions])
    identity = {
        **identity_of_options(selection, options, [one.name for one in asked]),
        "model": dataclasses.asdict(judge.identity),
        "heads_sha256": hashlib.sha256(members.encode()).hexdigest(),
        "data": {"name": loaded.name, "sha256": loaded.sha256},
        "prompts": {
            one.name: one.renderer.template.model_dump(mode="json")
            | {"scaffold": one.renderer.scaffold_text, "token_sha256": one.token_sha256}
            for one in asked
        },
        "reranking": None if ranked is None else {"data": ranked.collection.name, "texts_sha256": ranked.sha256},
        "relscope_version": __version__,
    }
    identity = json.loads(json.dumps(identity))
    queries = {pair.query_id: pair.query_text for pair in evaluation.pairs}
    left_out = [
        LeftOutRecord(prompt="", what=one.pair_id, reason=one.reason, detail=one.detail) for one in loaded.refused
    ]
    return AblationHeader(
        identity=identity,
        identity_hash=identity_hash(identity),
        created=now(),
        relscope_version=__version__,
        run=str(selection.run.directory),
        model=selection.config.model,
        settings=identity["settings"],
        prompts=tuple(one.name for one in asked),
        selection=selection.side,
        held_out=selection.judged,
        evaluation=SideRecord(
            data=loaded.name,
            queries=tuple(QueryRecord(query_id=query_id, query_text=text) for query_id, text in queries.items()),
        ),
        shared_queries=evaluation.n_shared,
        query_of={pair.pair_id: pair.query_id for pair in evaluation.pairs},
        conditions=tuple(conditions),
        left_out=(*left_out, *(record for one in asked for record in one.left_out)),
        reranking=None if ranked is None else ranked.record,
    )
