"""Which documents stand against the positive one?

`hard`: drawn from the top `depth` of a first-stage ranking (the collection's own run, else BM25 over its
documents), judged-relevant ones excluded; those judged not relevant come before those that nobody judged,
because the latter may be relevant after all. `random`: drawn from the whole corpus, judged-relevant ones
excluded.

Draws are ordered by SHA-256 of (seed, query, candidate) rather than by a shared random stream. So a query
keeps its negatives whatever other queries there are, in whatever order, on every Python version; and asking
for two negatives gives the one that asking for one gave, and another.

BM25 is bm25s's default (Lucene's variant, k1 1.5, b 0.75, English stop words) with PyStemmer's English
stems. Only documents that share a term with the query are ranked. Cost: one pass over the corpus, then one
sparse sum a query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from relscope.data.collection import Collection
from relscope.errors import InputError

NegativeKind = Literal["hard", "random"]


@dataclass(frozen=True)
class NegativeSampling:
    """How negatives are drawn, without replacement.

    Attributes:
        kind: "hard" or "random".
        per_query: how many each query gets.
        seed: another seed, other draws.
        depth: hard: how far down the ranking is drawn from. Both kinds: at most so many candidates are tried
            for a query. A file that brings its own negatives is not limited by it.

    Raises:
        InputError: a value out of its range.
    """

    kind: NegativeKind = "hard"
    per_query: int = 1
    seed: int = 0
    depth: int = 100

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "random"):
            raise InputError(f'negatives: kind must be "hard" or "random", not "{self.kind}"')
        if self.per_query < 1:
            raise InputError(f"negatives: per_query must be at least 1, not {self.per_query}")
        if self.depth < self.per_query:
            raise InputError(f"negatives: depth must be at least per_query ({self.per_query}), not {self.depth}")


def in_drawing_order(candidates: Iterable[str], seed: int, query_key: str) -> list[tuple[int, str]]:
    """The candidates with their places (from 0), in the order in which they are drawn.

    Equal candidates stay in their order.
    """
    return sorted(enumerate(candidates), key=lambda item: _draw(seed, query_key, item[1]))


def candidate_documents(collection: Collection, sampling: NegativeSampling) -> Callable[[str], list[str]]:
    """Make the function that gives, for a query's id, the document ids to try as negatives, in drawing order.

    At most `sampling.depth` ids. BM25 is indexed at the first query that needs it.
    """
    draw = _random_candidates if sampling.kind == "random" else _hard_candidates
    return draw(collection, sampling)


def _random_candidates(collection: Collection, sampling: NegativeSampling) -> Callable[[str], list[str]]:
    document_ids = collection.document_ids()

    def candidates(query_id: str) -> list[str]:
        grades = collection.qrels.get(query_id, {})
        drawn = random_order(document_ids, sampling.seed, query_id)
        return list(islice((doc_id for doc_id in drawn if grades.get(doc_id, 0) < 1), sampling.depth))

    return candidates


def _hard_candidates(collection: Collection, sampling: NegativeSampling) -> Callable[[str], list[str]]:
    @cache
    def bm25() -> Bm25:
        return Bm25(collection.documents)

    def candidates(query_id: str) -> list[str]:
        grades = collection.qrels.get(query_id, {})
        if collection.run is not None:
            top: Sequence[str] = collection.run.get(query_id, ())[: sampling.depth]
        else:
            top = bm25().rank(collection.queries[query_id], sampling.depth)
        kept = [doc_id for doc_id in top if grades.get(doc_id, 0) < 1]
        drawn = [doc_id for _, doc_id in in_drawing_order(kept, sampling.seed, query_id)]
        # known to be negative before not known to be positive; the sort keeps the drawn order within both
        return sorted(drawn, key=lambda doc_id: doc_id not in grades)

    return candidates


def random_order(items: Sequence[str], seed: int, query_key: str) -> Iterator[str]:
    """Yield each item once, in an order drawn from the seed and the query.

    Draws places and skips those already drawn, so that the first few of millions cost no more than of a
    hundred.
    """
    drawn: set[int] = set()
    attempt = 0
    while len(drawn) < len(items):
        place = int.from_bytes(_draw(seed, query_key, str(attempt))) % len(items)
        attempt += 1
        if place not in drawn:
            drawn.add(place)
            yield items[place]


class Bm25:
    """BM25 ranking of a set of documents, kept in memory.

    Args:
        documents: document id to text.
    """

    def __init__(self, documents: Mapping[str, str]) -> None:
        import bm25s
        import Stemmer

        self._stemmer = Stemmer.Stemmer("english")
        self._doc_ids: list[str] = []
        texts: list[str] = []
        for doc_id, text in documents.items():
            self._doc_ids.append(doc_id)
            texts.append(text)
        tokens = bm25s.tokenize(texts, stemmer=self._stemmer, show_progress=False)
        self._index = None
        if any(tokens.ids):  # a corpus without a single term has no mean length to divide by
            self._index = bm25s.BM25()
            self._index.index(tokens, show_progress=False)

    def rank(self, query_text: str, depth: int) -> list[str]:
        """The ids of the best `depth` documents that share a term with the query, best first.

        Equal values keep the order of the corpus, so the ranking is the same on every machine.
        """
        import bm25s
        import numpy as np

        terms = bm25s.tokenize(query_text, stemmer=self._stemmer, return_ids=False, show_progress=False)[0]
        if self._index is None or not terms:
            return []
        values = self._index.get_scores(terms)
        matching = np.flatnonzero(values > 0)
        best = matching[np.argsort(-values[matching], kind="stable")[:depth]]
        return [self._doc_ids[place] for place in best]


def _draw(seed: int, query_key: str, candidate: str) -> bytes:
    # JSON, so that no two different triples read the same and lone surrogates are escaped
    return hashlib.sha256(json.dumps([seed, query_key, candidate]).encode()).digest()
