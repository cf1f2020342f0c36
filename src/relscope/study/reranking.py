"""Does the judge rank documents better than the first stage did? Each query's documents, ranked again by verdicts.

    first stage -> documents cut and checked -> verdicts that the method asks for, of all queries together -> rankings

The methods, their formulas and their cost in prompts are in `relscope.study.ranking_methods`; which documents can be
asked about is in `relscope.study.rerank_queries`. Prompts of one query are judged together, so that what they begin
with is run once (`JudgeModel.relevance`). The method attention asks for no verdict: it reads heads, and does not rank
the queries by which they were chosen.

Nothing is dropped: a document that cannot be asked about stands behind all that can, in the order of the first stage,
and is told with its reason; a query of which the first stage finds nothing has an empty ranking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from relscope.analysis import HeadSet
from relscope.data import Collection, FirstStage, LeftOut, first_stage
from relscope.data.text import folded_words
from relscope.errors import InputError
from relscope.interventions import CONTENT_FREE_QUERY, relevance_scores
from relscope.models import JudgeModel, check_readable
from relscope.prompts import PromptRenderer, PromptTemplate
from relscope.results import Asked, Spent, Verdicts
from relscope.study.prepare import Progress, Silent
from relscope.study.ranking_methods import METHODS, Ranked, Ranking, most_prompts
from relscope.study.rerank_options import Reranking
from relscope.study.rerank_queries import AskedQuery, asked_queries
from relscope.version import __version__

_PROMPTS_TOGETHER = 64
"""Prompts judged and stored together: a kill costs no more."""


@dataclass(frozen=True)
class Reranked:
    """Rankings by verdicts, beside those that they began with.

    Attributes:
        method: that was used.
        first: the first stage, cut to the depth.
        rankings: query id to (document id, value), best first, every document of the first stage in it. Values fall
            strictly, in float32: LDs, relevance scores or numbers of wins, lowered by the least step where they tie;
            places otherwise.
        n_prompts: prompts that were judged, those included that were stored before.
        left_out: queries that have no ranking, and documents that could not be asked about.
    """

    method: str
    first: FirstStage
    rankings: Mapping[str, tuple[tuple[str, float], ...]]
    n_prompts: int
    left_out: tuple[LeftOut, ...]

    @property
    def documents(self) -> dict[str, list[str]]:
        """Query id to document ids, best first."""
        return {query_id: [doc_id for doc_id, _ in ranked] for query_id, ranked in self.rankings.items()}


def rerank(
    judge: JudgeModel,
    collection: Collection,
    template: PromptTemplate,
    options: Reranking | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Reranked:
    """Rank the first stage's documents of each query by the judge's verdicts.

    Args:
        judge: gives LDs (`JudgeModel.relevance`).
        collection: queries and documents; judgements only say which queries are ranked where there is no run.
        template: its format decides which methods there are.
        options: None: the defaults of `Reranking`.
        folder: keeps every verdict, so that an interrupted reranking goes on; None: nothing is kept.
        progress: is told of stages, prompts and warnings.

    Raises:
        InputError: an option, the first stage or the folder cannot be used, or an answer is not one token.
    """
    progress = Silent() if progress is None else progress
    options = Reranking() if options is None else options
    options.method_of(template)
    progress.stage("ranking the first stage")
    first = first_of(collection, options)
    return rerank_first(judge, collection, template, first, options, folder=folder, progress=progress)


def first_of(collection: Collection, options: Reranking) -> FirstStage:
    """What is ranked again: without the queries by which heads were chosen, and others that their run judged.

    Raises:
        InputError: the first stage cannot be used, or no query is left.
    """
    held_out = {} if options.heads is None else _held_out(collection, options.heads)
    return first_stage(
        collection, depth=options.depth, limit=options.queries, run=options.first_stage, held_out=held_out
    )


def _held_out(collection: Collection, heads: HeadSet) -> dict[str, str]:
    """What is said of each query that the heads have seen: it is known by its text, and by its id where that is all."""
    said: dict[str, str] = {}
    for query_ids, what in (
        (heads.held_out, "was judged by the run that chose the heads"),
        (heads.chosen_on, "is one that chose the heads"),
    ):
        texts = {folded_words(heads.query_texts[q]) for q in query_ids if q in heads.query_texts}
        ids = {q for q in query_ids if q not in heads.query_texts}
        said |= {q: what for q, text in collection.queries.items() if q in ids or folded_words(text) in texts}
    return said


def rerank_first(
    judge: JudgeModel,
    collection: Collection,
    template: PromptTemplate,
    first: FirstStage,
    options: Reranking,
    *,
    folder: str | Path | None,
    progress: Progress,
) -> Reranked:
    """As `rerank`, from a first stage that is known (`first_of`)."""
    method = options.method_of(template)
    if options.heads is not None:
        _check_heads(judge, options.heads, progress)
        check_readable(judge, options.model_heads)
    progress.stage("cutting documents")
    renderer = PromptRenderer(judge.tokenizer, template)
    queries, left_out = asked_queries(judge, renderer, collection, first)
    _warn_of(collection, first, left_out, progress)
    if not any(query.documents for query in queries.values()):
        detail = left_out[0].detail if left_out else "the first stage finds nothing"
        raise InputError(f"{collection.name}: no document can be asked about; for example {detail}")
    asker = _Asker(judge, renderer, queries, options, progress)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            identity = _identity(asker, collection)
            value = "ld" if options.heads is None else "relevance_score"
            asker.kept = stack.enter_context(Verdicts(Path(folder), identity, asker.token_sha256_of, value))
            asker.known.update(asker.kept.known)
        n_most = sum(most_prompts(method, len(query.documents), options.top) for query in queries.values())
        progress.stage(f"judging at most {n_most:,} prompts of {len(queries)} queries, {method}")
        progress.start(n_most, float(n_most))
        ranking_of = METHODS[template.format][method]
        begun = {query_id: ranking_of(list(query.documents), options.top) for query_id, query in queries.items()}
        ranked = _finish(begun, asker)
    rankings = {
        query_id: _with_the_others(ranked[query_id], documents) for query_id, documents in first.rankings.items()
    }
    return Reranked(method, first, rankings, len(asker.asked), (*first.left_out, *left_out))


def _check_heads(judge: JudgeModel, heads: HeadSet, progress: Progress) -> None:
    """Refuse heads of a model of other shape; warn of another model, and of what the head set does not say."""
    doubt = heads.check_use(dataclasses.asdict(judge.identity), judge.shape.n_layers, judge.shape.n_heads)
    if heads.source is None:
        doubt = f"{heads.name}: does not say in which model its heads were chosen; use them in no other"
    if doubt is not None:
        progress.warn(doubt)
    if not heads.chosen_on:
        progress.warn(f"{heads.name}: says of no query that it chose the heads; measure on none that did")


class _Asker:
    """Gives the LDs of prompts, or the relevance scores, from what is known or from the judge; keeps what it learns."""

    def __init__(
        self,
        judge: JudgeModel,
        renderer: PromptRenderer,
        queries: Mapping[str, AskedQuery],
        options: Reranking,
        progress: Progress,
    ) -> None:
        self.judge, self.renderer, self.queries, self.progress = judge, renderer, queries, progress
        self.options = options
        self.known: dict[Asked, float] = {}
        self.asked: set[Asked] = set()
        self.kept: Verdicts | None = None

    def __call__(self, prompts: Sequence[Asked]) -> list[float]:
        self.progress.advance(known := sum(prompt in self.known for prompt in prompts), float(known))
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        if missing and self.kept is not None:
            _ = self.judge.contract  # which takes passes of its own, before the clock starts
        for together in _together(missing):
            cpu, wall = time.process_time(), time.perf_counter()
            measured = self._judge(together) if self.options.heads is None else self._read(together)
            spent = Spent(time.process_time() - cpu, time.perf_counter() - wall, self.judge.device.type)
            if self.kept is not None:
                self.kept.add(measured, spent)
            self.known |= measured
            self.progress.advance(len(together), float(len(together)))
        self.asked.update(prompts)
        return [self.known[prompt] for prompt in prompts]

    def token_sha256_of(self, prompt: Asked) -> str | None:
        """Over what the model reads of a prompt's query and documents; None: it cannot be asked here."""
        query = self.queries.get(prompt[0])
        return None if query is None else query.token_sha256_of(prompt[1:])

    def _judge(self, prompts: Sequence[Asked]) -> dict[Asked, float]:
        measured: dict[Asked, float] = {}
        for answer_ids in dict.fromkeys(self.queries[query_id].answer_ids for query_id, *_ in prompts):
            chosen = [prompt for prompt in prompts if self.queries[prompt[0]].answer_ids == answer_ids]
            rendered = []
            for query_id, *documents in chosen:
                query = self.queries[query_id]
                rendered.append(self.renderer.render(query.text, [query.documents[doc_id] for doc_id in documents]))
            assert answer_ids is not None  # of a query with documents
            measured.update(zip(chosen, self.judge.relevance(rendered, answer_ids).tolist(), strict=True))
        return measured

    def _read(self, prompts: Sequence[Asked]) -> dict[Asked, float]:
        rendered = []
        for query_id, doc_id in prompts:
            query = self.queries[query_id]
            texts = (query.text, CONTENT_FREE_QUERY) if self.options.calibrated else (query.text,)
            rendered.append(tuple(self.renderer.render(text, [query.documents[doc_id]]) for text in texts))
        scores = relevance_scores(self.judge, rendered, self.options.model_heads, self.options.reading)
        return dict(zip(prompts, scores.tolist(), strict=True))


def _together(prompts: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Prompts to be judged together: of one query where it asks for many, else of many queries."""
    few: list[Asked] = []
    for _, of_query in groupby(prompts, key=lambda prompt: prompt[0]):
        group = list(of_query)
        if len(group) < _PROMPTS_TOGETHER // 4:
            few += group
            continue
        for start in range(0, len(group), _PROMPTS_TOGETHER):
            yield group[start : start + _PROMPTS_TOGETHER]
    for start in range(0, len(few), _PROMPTS_TOGETHER):
        yield few[start : start + _PROMPTS_TOGETHER]


def _finish(begun: Mapping[str, Ranking], ask: _Asker) -> dict[str, Ranked]:
    """Run the queries' methods side by side: what they ask for at one time is judged together."""
    ranked: dict[str, Ranked] = {}
    lds: dict[str, list[float] | None] = dict.fromkeys(begun)
    while lds:
        wanted: list[Asked] = []
        n_wanted: dict[str, int] = {}
        for query_id, answer in lds.items():
            try:
                # None begins a method
                asked = begun[query_id].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                ranked[query_id] = end.value
                continue
            n_wanted[query_id] = len(asked)
            wanted += [(query_id, *documents) for documents in asked]
        answers = iter(ask(wanted))
        lds = {query_id: [next(answers) for _ in range(n)] for query_id, n in n_wanted.items()}
    return ranked


def _with_the_others(ranked: Ranked, documents: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """A ranking of all documents of the first stage, with values that fall strictly as float32."""
    found = {doc_id for doc_id, _ in ranked}
    order = [*ranked, *((doc_id, -np.inf) for doc_id in documents if doc_id not in found)]
    falling: list[tuple[str, float]] = []
    last = np.float32(np.inf)
    for doc_id, value in order:
        below = np.nextafter(last, np.float32(-np.inf))
        last = min(np.float32(value), below) if np.isfinite(value) else np.float32(below)
        falling.append((doc_id, float(last)))
    return tuple(falling)


def _warn_of(collection: Collection, first: FirstStage, of_documents: Sequence[LeftOut], progress: Progress) -> None:
    """Say who is left out, and which queries count nothing or not at all."""
    if first.left_out:
        progress.warn(f"{len(first.left_out)} queries are left out: {_counted(first.left_out)}")
    if of_documents:
        progress.warn(
            f"{len(of_documents)} documents cannot be asked about and stand behind the others: {_counted(of_documents)}"
        )
    empty = [query_id for query_id, ranking in first.rankings.items() if not ranking]
    if empty:
        progress.warn(
            f"of {len(empty)} queries the first stage finds nothing, such as {empty[0]!r}; their measures are 0 where "
            "they are judged"
        )
    not_judged = [query_id for query_id in first.rankings if not collection.qrels.get(query_id)]
    if not_judged:
        progress.warn(
            f"{len(not_judged)} queries have no judgement, such as {not_judged[0]!r}; they are ranked, and not measured"
        )


def _counted(left_out: Sequence[LeftOut]) -> str:
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(one.reason for one in left_out).most_common())
    return f"{counts}; for example {left_out[0].detail}"


def _identity(asker: _Asker, collection: Collection) -> dict[str, Any]:
    """Whatever decides LDs, but for the texts, which each verdict is of; not which prompts are asked."""
    judge, renderer, options = asker.judge, asker.renderer, asker.options
    asked: dict[str, Any] = {}
    if options.heads is not None:
        content_free = judge.tokenizer.encode(CONTENT_FREE_QUERY, add_special_tokens=False)
        asked = {"heads": options.model_heads, "reading": options.reading, "calibrated": options.calibrated}
        asked |= {"content_free_ids": content_free} if options.calibrated else {}
    return {
        "model": dataclasses.asdict(judge.identity),
        "prompt": renderer.template.model_dump(mode="json") | {"scaffold": renderer.scaffold_text},
        "data": {"name": collection.name},
        "reranking": asked,
        "edits": {str(n): edit.identity for n, edit in enumerate(judge.edits, start=1)},
        "relscope_version": __version__,
    }
