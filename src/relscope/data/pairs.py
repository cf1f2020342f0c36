"""Which query-positive-negative pairs does a source give, and what could not become one?

Readers hand over `JudgedQuery` objects: a query with its candidate positives and negatives, each in the
order in which they are to be tried. `build_pairs` takes the first usable positive and as many usable
negatives as asked for. Whatever it passes over becomes a `Refusal` with its reason; nothing is dropped in
silence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from relscope.data.collection import Collection
from relscope.data.negatives import NegativeSampling, candidate_documents, in_drawing_order
from relscope.data.text import MAX_QUERY_CHARACTERS, clean_text, cut_document, same_words
from relscope.errors import InputError


@dataclass(frozen=True)
class RelevancePair:
    """One query with one positive and one negative document.

    `pair_id` is unique in its `PairSet`: the query's id and the number of the negative among the query's
    candidates.
    """

    pair_id: str
    query_id: str
    query_text: str
    positive_text: str
    negative_text: str
    negative_kind: str


@dataclass(frozen=True)
class Refusal:
    """A query or a pair that could not become a `RelevancePair`.

    Attributes:
        pair_id: the pair's id, or the query's where no pair of the query was reached.
        reason: one of unknown_query, empty_query, query_too_long, no_positive, missing_document,
            empty_document, positive_equals_negative, duplicate, no_hard_negative, no_random_negative,
            too_few_negatives.
        detail: what exactly, in words.
    """

    pair_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class PairSet:
    """The pairs of a source, and its refusals.

    Attributes:
        name: of the source.
        pairs: at least one, in the order of the source.
        refused: what was met on the way to these pairs and could not become one.
        sha256: over all fields of all pairs, in order: equal if and only if the pairs are.
        n_cut: documents of the pairs that were cut to `MAX_DOCUMENT_CHARACTERS` (a query's positive counts
            once).
    """

    name: str
    pairs: tuple[RelevancePair, ...]
    refused: tuple[Refusal, ...]
    sha256: str
    n_cut: int


@dataclass(frozen=True)
class Candidate:
    """A document that may become part of a pair.

    Attributes:
        name: what messages call it.
        text: as the source has it; None if the source names the document but lacks it.
    """

    name: str
    text: str | None


@dataclass(frozen=True)
class JudgedQuery:
    """What a source knows of one query. Texts are as the source has them.

    Attributes:
        query_id: unique in the source.
        query_text: None if the source judges a query that it does not hold.
        positives: relevant documents; the first usable one is taken, and no negative may equal any of them.
        negatives: (number, candidate) in the order in which they are to be tried; the number goes into the
            pair's id.
        no_negative: says, for a refusal, where negatives were looked for.
    """

    query_id: str
    query_text: str | None
    positives: Sequence[Candidate]
    negatives: Iterable[tuple[int, Candidate]]
    no_negative: str


def build_pairs(
    name: str, queries: Iterable[JudgedQuery], sampling: NegativeSampling, limit: int | None = None
) -> PairSet:
    """Make the pairs of the queries, in their order, until there are `limit` of them.

    Raises:
        InputError: limit below 1, or not a single pair could be made; the message counts the reasons.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: must be at least 1 pair, not {limit}")
    builder = _Builder(sampling, limit)
    for query in queries:
        builder.add(query)
        if builder.full:
            break
    if not builder.pairs:
        counts = Counter(refusal.reason for refusal in builder.refused).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts) or "it holds no queries"
        example = f"; for example {builder.refused[0].detail}" if builder.refused else ""
        raise InputError(f"{name}: gives no usable pair ({reasons}{example})")
    return PairSet(name, tuple(builder.pairs), tuple(builder.refused), pairs_sha256(builder.pairs), builder.n_cut)


def pairs_from_collection(
    collection: Collection,
    *,
    negatives: NegativeSampling | None = None,
    limit: int | None = None,
    relevant_grade: int = 1,
) -> PairSet:
    """Pairs of a collection: a document of the query's highest grade against drawn negatives.

    Args:
        collection: where from.
        negatives: how negatives are drawn; None: one hard negative a query.
        limit: at most so many pairs, the first in the order of the queries.
        relevant_grade: the lowest grade that makes a document positive. Documents of grade 1 and above are
            never negatives, whatever this is.

    The positive is drawn, with the seed, among the documents of the highest grade that are there and not
    empty.

    Raises:
        InputError: an option out of its range, or not a single pair could be made.
    """
    if relevant_grade < 1:
        raise InputError(f"relevant_grade: must be at least 1, not {relevant_grade}")
    sampling = negatives or NegativeSampling()
    queries = _judged_queries(collection, sampling, relevant_grade)
    return build_pairs(collection.name, queries, sampling, limit)


def _judged_queries(collection: Collection, sampling: NegativeSampling, relevant_grade: int) -> Iterator[JudgedQuery]:
    candidates = candidate_documents(collection, sampling)
    ranking = "run" if collection.run is not None else "BM25 ranking"
    place = f"the top {sampling.depth} of its {ranking}" if sampling.kind == "hard" else "the corpus"

    def candidate(doc_id: str) -> Candidate:
        return Candidate(f'document "{doc_id}"', collection.documents.get(doc_id))

    def negative_candidates(query_id: str) -> Iterator[tuple[int, Candidate]]:
        for number, doc_id in enumerate(candidates(query_id)):
            yield number, candidate(doc_id)

    unknown = [query_id for query_id in collection.qrels if query_id not in collection.queries]
    for query_id in (*collection.queries, *unknown):
        grades = collection.qrels.get(query_id, {})
        drawn = [doc_id for _, doc_id in in_drawing_order(grades, sampling.seed, query_id)]
        positives = sorted((d for d in drawn if grades[d] >= relevant_grade), key=lambda d: -grades[d])
        yield JudgedQuery(
            query_id,
            collection.queries.get(query_id),
            [candidate(doc_id) for doc_id in positives],
            negative_candidates(query_id),
            f"no document but judged-relevant ones in {place}",
        )


@dataclass
class _Builder:
    sampling: NegativeSampling
    limit: int | None
    pairs: list[RelevancePair] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    n_cut: int = 0
    _seen: dict[tuple[str, str, str], str] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self.pairs) >= self.limit

    def add(self, query: JudgedQuery) -> None:
        query_text = self._query_text(query)
        if query_text is None:
            return
        positive = self._positive(query)
        if positive is None:
            return
        positive_text, positive_cut = positive
        relevant = {same_words(cut_document(clean_text(c.text))[0]) for c in query.positives if c.text is not None}
        n_before, n_refused = len(self.pairs), 0
        for number, candidate in query.negatives:
            if self.full or len(self.pairs) - n_before == self.sampling.per_query:
                break
            pair_id = f"{query.query_id}:{number}"
            text, cut, problem = _usable(candidate)
            key = (same_words(query_text), same_words(positive_text), same_words(text))
            if problem is None and key[2] in relevant:
                problem = (
                    "positive_equals_negative",
                    f"{candidate.name} has the text of a relevant document",
                )
            elif problem is None and key in self._seen:
                problem = ("duplicate", f"the same query and documents as pair {self._seen[key]}")
            if problem is not None:
                self.refused.append(Refusal(pair_id, *problem))
                n_refused += 1
                continue
            self._seen[key] = pair_id
            self.n_cut += cut + (positive_cut and len(self.pairs) == n_before)
            self.pairs.append(
                RelevancePair(pair_id, query.query_id, query_text, positive_text, text, self.sampling.kind)
            )
        self._count_shortfall(query, len(self.pairs) - n_before, n_refused)

    def _query_text(self, query: JudgedQuery) -> str | None:
        if query.query_text is None:
            problem = ("unknown_query", f'query "{query.query_id}" is judged but has no text')
        elif not (text := clean_text(query.query_text)):
            problem = ("empty_query", f'query "{query.query_id}" is empty')
        elif len(text) > MAX_QUERY_CHARACTERS:
            problem = (
                "query_too_long",
                f'query "{query.query_id}" has {len(text)} characters, more than {MAX_QUERY_CHARACTERS}',
            )
        else:
            return text
        self.refused.append(Refusal(query.query_id, *problem))
        return None

    def _positive(self, query: JudgedQuery) -> tuple[str, bool] | None:
        for candidate in query.positives:
            text, cut, problem = _usable(candidate)
            if problem is None:
                return text, cut
            self.refused.append(Refusal(query.query_id, *problem))
        if not query.positives:
            detail = f'query "{query.query_id}" has no document judged relevant'
            self.refused.append(Refusal(query.query_id, "no_positive", detail))
        return None

    def _count_shortfall(self, query: JudgedQuery, n_made: int, n_refused: int) -> None:
        # refused candidates already account for as many of the pairs that are lacking
        if self.full or n_made + n_refused >= self.sampling.per_query:
            return
        reason = f"no_{self.sampling.kind}_negative" if n_made + n_refused == 0 else "too_few_negatives"
        detail = f"{self.sampling.per_query} asked for, {n_made + n_refused} found"
        if n_made + n_refused == 0:
            detail = query.no_negative
        self.refused.append(Refusal(query.query_id, reason, detail))


def _usable(candidate: Candidate) -> tuple[str, bool, tuple[str, str] | None]:
    """(Text as it goes into a pair, whether it was cut, and why it is unusable or None)."""
    if candidate.text is None:
        return "", False, ("missing_document", f"{candidate.name} is not among the documents")
    text, cut = cut_document(clean_text(candidate.text))
    return text, cut, None if text else ("empty_document", f"{candidate.name} is empty")


def pairs_sha256(pairs: Iterable[RelevancePair]) -> str:
    """SHA-256 (hex) over all fields of all pairs, in order."""
    digest = hashlib.sha256()
    for p in pairs:
        fields = [p.pair_id, p.query_id, p.query_text, p.positive_text, p.negative_text, p.negative_kind]
        digest.update(json.dumps(fields).encode() + b"\n")  # escaped, so that a line is one pair
    return digest.hexdigest()
