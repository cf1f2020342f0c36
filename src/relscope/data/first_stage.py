"""Which documents of each query are to be ranked again, in which order do they stand, and what cannot be asked about?

The first stage of a collection is a run file that is given for it, else its own run, else BM25 over its documents
(`relscope.data.negatives`). With a run, its queries are taken, whether anybody judged them or not; with BM25 those that
are judged. A judged query of which the first stage finds nothing stays, with an empty ranking: as trec_eval counts it,
its measures are 0.

Cost: with BM25 one pass over the corpus, then one sparse sum a query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relscope.data.collection import Collection
from relscope.data.negatives import Bm25
from relscope.data.text import MAX_QUERY_CHARACTERS, clean_text
from relscope.data.trec import read_run
from relscope.errors import InputError

BM25 = "bm25"


@dataclass(frozen=True)
class LeftOut:
    """A query, or a document of a query's ranking, that cannot be asked about.

    Attributes:
        query_id: of which query.
        doc_id: of which of its documents; None: the whole query.
        reason: one word for counting.
        detail: what exactly, in words.
    """

    query_id: str
    doc_id: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class FirstStage:
    """The rankings that reranking begins with.

    Attributes:
        name: of the ranking, for display.
        rankings: query id to document ids, best first, in the order of the collection's queries.
        left_out: queries that have no ranking here, and why.
    """

    name: str
    rankings: Mapping[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...]


def first_stage(
    collection: Collection,
    *,
    depth: int = 100,
    limit: int | None = None,
    run: str | Path | None = None,
    held_out: Mapping[str, str] | None = None,
) -> FirstStage:
    """The best `depth` documents of each query.

    Args:
        collection: whose queries.
        depth: at most so many documents of a query.
        limit: at most so many queries, the first of the collection; None: all.
        run: a TREC run file, or "bm25"; None: the collection's own run, else BM25.
        held_out: queries that are not to be ranked, each with what is said of it.

    Raises:
        InputError: an option out of its range, a run file that cannot be read or is of another collection, a run
            without an order, or no query is left.
    """
    for name, value in (("depth", depth), ("queries", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name}: must be at least 1, not {value}")
    name, ranked = _ranked(collection, run)
    chosen = {q: text for q, text in collection.queries.items() if q in collection.qrels or q in (ranked or ())}
    left_out = [
        LeftOut(query_id, None, "unknown_query", f'query "{query_id}" has no text in {collection.name}')
        for query_id in {**(ranked or {}), **collection.qrels}
        if query_id not in collection.queries
    ]
    left_out += [
        LeftOut(query_id, None, "not_judged", f'query "{query_id}" is neither judged nor in a run')
        for query_id in collection.queries
        if query_id not in chosen
    ]
    asked: dict[str, str] = {}
    for query_id, text in chosen.items():
        if (problem := _problem(query_id, clean_text(text))) is not None:
            left_out.append(problem)
        elif held_out is not None and query_id in held_out:
            left_out.append(LeftOut(query_id, None, "held_out", f'query "{query_id}" {held_out[query_id]}'))
        elif limit is None or len(asked) < limit:
            asked[query_id] = clean_text(text)
    if not asked:
        raise InputError(f"{collection.name}: no query can be ranked; {_example(left_out)}")
    if ranked is not None:
        _check_belongs(collection, name, ranked, chosen)
        rankings = {query_id: tuple(ranked.get(query_id, ())[:depth]) for query_id in asked}
    else:
        bm25 = Bm25(collection.documents)
        rankings = {query_id: tuple(bm25.rank(text, depth)) for query_id, text in asked.items()}
    return FirstStage(name, rankings, tuple(left_out))


def texts_sha256(collection: Collection, rankings: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 over the texts of all queries and documents that are ranked, and the order in which they stand."""
    digest = hashlib.sha256()
    for query_id, doc_ids in rankings.items():
        texts = [(doc_id, collection.documents.get(doc_id)) for doc_id in doc_ids]
        digest.update(json.dumps([query_id, collection.queries[query_id], texts]).encode() + b"\n")
    return digest.hexdigest()


def qrels_sha256(collection: Collection, query_ids: Iterable[str]) -> str:
    """SHA-256 over the judgements of some queries, whatever the order of their documents."""
    digest = hashlib.sha256()
    for query_id in query_ids:
        grades = sorted(collection.qrels.get(query_id, {}).items())
        digest.update(json.dumps([query_id, grades]).encode() + b"\n")
    return digest.hexdigest()


def _ranked(collection: Collection, run: str | Path | None) -> tuple[str, Mapping[str, Sequence[str]] | None]:
    """The name of the first stage, and its whole run; None: BM25."""
    if run is not None and str(run) != BM25:
        return Path(run).name, read_run(Path(run))
    if run is not None or collection.run is None:
        return "BM25", None
    if not collection.run_is_ordered:
        raise InputError(
            f"{collection.name}: its run names documents without ranking them; give a TREC run file, or bm25"
        )
    return f"run of {collection.name}", collection.run


def _check_belongs(
    collection: Collection, name: str, ranked: Mapping[str, Sequence[str]], queries: Mapping[str, str]
) -> None:
    if not any(query_id in ranked for query_id in queries):
        example = next(iter(ranked), None)
        raise InputError(
            f"{name}: ranks no query of {collection.name}"
            + ("; it is empty" if example is None else f', but for example "{example}"; is it a run of other data?')
        )
    doc_ids = [doc_id for query_id in queries for doc_id in ranked.get(query_id, ())]
    if not any(doc_id in collection.documents for doc_id in doc_ids):
        example = f'holds none of its documents, such as "{doc_ids[0]}"' if doc_ids else "has no document in it"
        raise InputError(f"{name}: {collection.name} {example}; is it a run of other data?")


def _problem(query_id: str, text: str) -> LeftOut | None:
    if not text:
        return LeftOut(query_id, None, "empty_query", f'query "{query_id}" is empty')
    if len(text) > MAX_QUERY_CHARACTERS:
        detail = f'query "{query_id}" has {len(text)} characters, more than {MAX_QUERY_CHARACTERS}'
        return LeftOut(query_id, None, "query_too_long", detail)
    return None


def _example(left_out: Sequence[LeftOut]) -> str:
    return f"for example {left_out[0].detail}" if left_out else "it holds no queries"
