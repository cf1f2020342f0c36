"""Does the judge rank documents better than the first stage did? Each query's documents, ranked again by verdicts.

    first stage -> documents cut and checked -> verdicts that the method asks for, of all queries together -> rankings

The methods, their formulas and their cost in prompts are in `relscope.study.ranking_methods`. Each document is cut
alone to the template's `max_document_tokens`. Prompts of one query are judged together, so that what they begin with is
run once (`JudgeModel.relevance`). The method attention asks for no verdict: it reads heads, and does not rank the
queries by which they were chosen.

Nothing is dropped: a document that cannot be asked about stands behind all that can, in the order of the first stage,
and is told with its reason; a query of which the first stage finds nothing has an empty ranking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from relscope.analysis import HeadSet
from relscope.data import Collection, FirstStage, LeftOut, first_stage
from relscope.data.text import cut_document
from relscope.errors import InputError, did_you_mean
from relscope.interventions import CONTENT_FREE_QUERY, READINGS, relevance_scores
from relscope.models import JudgeModel, check_readable
from relscope.prompts import PartError, PromptRenderer, PromptTemplate, render_cut
from relscope.results import Asked, Verdicts
from relscope.study.prepare import Progress, Silent
from relscope.study.ranking_methods import ATTENTION, METHODS, Ranked, Ranking, most_prompts
from relscope.version import __version__

_PROMPTS_TOGETHER = 64
"""Prompts judged and stored together: a kill costs no more."""


@dataclass(frozen=True)
class Reranking:
    """What is ranked again, and how.

    Attributes:
        method: pointwise or attention; of pairwise prompts sliding-window, heapsort or all-pairs; None: the first of
            these that the prompt's format allows.
        depth: at most so many documents of a query, the best of the first stage.
        top: places that sliding-window and heapsort settle; the others sort every document.
        queries: at most so many queries, the first of the collection; None: all.
        run: the first stage: a TREC run file, or "bm25"; None: the collection's own run, else BM25.
        heads: that the method attention reads, each once whatever its regions; queries of `chosen_on` are not ranked.
        reading: what attention makes of a head's pattern: total or largest (`relscope.interventions`).
        calibrated: whether attention takes away what the document gets from a content-free query.

    Raises:
        InputError: there is no such method or reading, a number is below 1, or heads are given without the method
            attention or the other way round.
    """

    method: str | None = None
    depth: int = 100
    top: int = 10
    queries: int | None = None
    run: str | Path | None = None
    heads: HeadSet | None = None
    reading: str = "total"
    calibrated: bool = True

    def __post_init__(self) -> None:
        known = [name for methods in METHODS.values() for name in methods]
        if self.method is not None and self.method not in known:
            raise InputError(f"method: {self.method!r} does not exist: {did_you_mean(self.method, known)}")
        if (self.method == ATTENTION) != (self.heads is not None):
            given = "heads are given" if self.heads is not None else "no heads are given"
            raise InputError(
                f"heads: belong to the method attention, and with the method {self.method or 'left open'} {given}; "
                "relscope heads RUN chooses them"
            )
        if self.reading not in READINGS:
            raise InputError(f"reading: {self.reading!r} does not exist: {did_you_mean(self.reading, READINGS)}")
        for name in ("depth", "top", "queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, not {value}")

    @property
    def model_heads(self) -> list[tuple[int, int]]:
        """Layer and head of each of the heads, each once, in order."""
        return sorted({(head.layer, head.head) for head in self.heads or ()})

    def method_of(self, template: PromptTemplate) -> str:
        """The method, for prompts of this format.

        Raises:
            InputError: the method needs prompts of the other format.
        """
        methods = METHODS[template.format]
        method = next(iter(methods)) if self.method is None else self.method
        if method not in methods:
            other = "pairwise" if template.format == "pointwise" else "pointwise"
            order = "idq" if template.order == "idq" else "dqi"
            raise InputError(
                f"method: {method} needs a {other} prompt, and this one is {template.format}: use the prompt "
                f"{other}-{order}, or the method {' or '.join(methods)}"
            )
        if method == ATTENTION and template.order == "qdi":
            raise InputError(
                "method: attention needs the query behind the document, where it can look back at it; use the prompt "
                "pointwise-dqi or pointwise-idq"
            )
        return method


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


@dataclass(frozen=True)
class _Query:
    """A query that is asked: its text, the documents that can be asked about, cut, and the ids of its answers."""

    text: str
    documents: Mapping[str, str]
    answer_ids: tuple[int, int] | None


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
    method = options.method_of(template)
    if options.heads is not None:
        check_readable(judge, options.model_heads)
    progress.stage("ranking the first stage")
    held_out = dict.fromkeys(() if options.heads is None else options.heads.chosen_on, "is one that chose the heads")
    first = first_stage(collection, depth=options.depth, limit=options.queries, run=options.run, held_out=held_out)
    progress.stage("cutting documents")
    renderer = PromptRenderer(judge.tokenizer, template)
    queries, left_out = _prepare(judge, renderer, collection, first)
    _warn_of(collection, first, left_out, progress)
    if not any(query.documents for query in queries.values()):
        detail = left_out[0].detail if left_out else "the first stage finds nothing"
        raise InputError(f"{collection.name}: no document can be asked about; for example {detail}")
    if options.heads is not None and not held_out:
        progress.warn(f"{options.heads.name}: says of no query that it chose the heads; measure on none that did")
    asker = _Asker(judge, renderer, queries, options, progress)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            identity = _identity(asker, collection, first, dataclasses.replace(options, method=method))
            value = "ld" if options.heads is None else "relevance_score"
            asker.kept = stack.enter_context(Verdicts(Path(folder), identity, value))
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


def _prepare(
    judge: JudgeModel, renderer: PromptRenderer, collection: Collection, first: FirstStage
) -> tuple[dict[str, _Query], list[LeftOut]]:
    """Cut every document, and find those that cannot be asked about."""
    queries: dict[str, _Query] = {}
    left_out: list[LeftOut] = []
    limit = getattr(judge.config, "max_position_embeddings", None)
    for query_id, ranking in first.rankings.items():
        query_text = collection.queries[query_id]
        documents: dict[str, str] = {}
        answer_ids = None

        def leave_out(doc_id: str, reason: str, detail: str, query_id: str = query_id) -> None:
            left_out.append(LeftOut(query_id, doc_id, reason, f'query "{query_id}", document "{doc_id}": {detail}'))

        for doc_id in ranking:
            text = collection.documents.get(doc_id)
            if text is None:
                leave_out(doc_id, "missing_document", f"it is not in {collection.name}")
                continue
            try:
                head, prompt = render_cut(renderer, query_text, cut_document(text)[0])
            except PartError as error:
                leave_out(doc_id, error.reason, str(error))
                continue
            if limit is not None and len(prompt) > limit:
                detail = f"the prompt has {len(prompt)} tokens, the model reads {limit}; lower max_document_tokens"
                leave_out(doc_id, "longer_than_context", detail)
                continue
            documents[doc_id] = head
            # What follows the last document is the query's own, so that one prompt speaks for all.
            answer_ids = renderer.answer_ids(prompt) if answer_ids is None else answer_ids
        queries[query_id] = _Query(query_text, documents, answer_ids)
    return queries, left_out


class _Asker:
    """Gives the LDs of prompts, or the relevance scores, from what is known or from the judge; keeps what it learns."""

    def __init__(
        self,
        judge: JudgeModel,
        renderer: PromptRenderer,
        queries: Mapping[str, _Query],
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
        for together in _together(missing):
            measured = self._judge(together) if self.options.heads is None else self._read(together)
            if self.kept is not None:
                self.kept.add(measured)
            self.known |= measured
            self.progress.advance(len(together), float(len(together)))
        self.asked.update(prompts)
        return [self.known[prompt] for prompt in prompts]

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


def _identity(asker: _Asker, collection: Collection, first: FirstStage, options: Reranking) -> dict[str, Any]:
    """Whatever decides which prompts are asked, and their LDs."""
    digest = hashlib.sha256()
    for query_id, query in asker.queries.items():
        digest.update(json.dumps([query_id, query.text, list(query.documents.items())]).encode() + b"\n")
    asked = dataclasses.asdict(options) | {"run": first.name}
    if options.heads is None:
        del asked["heads"], asked["reading"], asked["calibrated"]
    else:
        asked["heads"] = options.model_heads
    return {
        "model": dataclasses.asdict(asker.judge.identity),
        "prompt": asker.renderer.template.model_dump(mode="json") | {"scaffold": asker.renderer.scaffold_text},
        "data": {"name": collection.name, "texts_sha256": digest.hexdigest()},
        "reranking": asked,
        "relscope_version": __version__,
    }
