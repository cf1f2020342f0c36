"""Which questions is a judge tuned on, and which are held out?

A training question is a query with a relevant passage and hard negatives; its random negatives are drawn from the
passages of other questions, less what is relevant to it. Everything that `load_pairs` reads can be trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from relscope.data import (
    Collection,
    NegativeSampling,
    RelevancePair,
    is_pair_file,
    load_collection,
    load_pairs,
    pairs_from_collection,
)
from relscope.data.text import cut_document
from relscope.errors import InputError


@dataclass(frozen=True)
class Question:
    """A query with its relevant passage and hard negatives.

    `relevant_texts` are all passages of the source that are known to be relevant: never a random negative.
    """

    question_id: str
    source: str
    query_text: str
    positive_text: str
    hard_negative_texts: tuple[str, ...]
    relevant_texts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SourceRecord:
    """What a training source gave, for the card.

    `n_refused` counts queries and pairs that could not be used; `sha256` is over all of its pairs.
    """

    name: str
    n_questions: int
    n_refused: int
    sha256: str


def read_questions(
    source: str, *, hard_negatives: int, depth: int, seed: int, limit: int | None = None
) -> tuple[list[Question], SourceRecord]:
    """The questions of one source, in its order.

    Args:
        source: what `load_pairs` reads.
        hard_negatives: at most so many for a question; with 0, random negatives alone are asked of the source.
        depth: hard negatives of a collection are drawn from so many top documents of BM25.
        seed: decides the draws.
        limit: at most so many questions, spread evenly over the source.

    Raises:
        InputError: the source cannot be read or has no usable pair.
    """
    per_query = max(1, hard_negatives)
    sampling = NegativeSampling(
        kind="hard" if hard_negatives else "random", per_query=per_query, seed=seed, depth=max(depth, per_query)
    )
    collection = None if is_pair_file(source) else load_collection(source)
    if collection is None:
        loaded = load_pairs(source, negatives=sampling)
    else:
        loaded = pairs_from_collection(collection, negatives=sampling)
    negatives: dict[str, list[str]] = {}
    first: dict[str, RelevancePair] = {}
    relevant: dict[str, set[str]] = {}
    for pair in loaded.pairs:
        first.setdefault(pair.query_id, pair)
        negatives.setdefault(pair.query_id, []).extend([pair.negative_text] if hard_negatives else [])
        relevant.setdefault(as_typed(pair.query_text), set()).add(pair.positive_text)
    chosen = list(first.items())
    if limit is not None and limit < len(chosen):
        chosen = [chosen[len(chosen) * i // limit] for i in range(limit)]
    questions = [
        Question(
            f"{loaded.name}:{query_id}", loaded.name, pair.query_text, pair.positive_text, tuple(negatives[query_id]),
            frozenset(relevant[as_typed(pair.query_text)] | _judged_relevant(collection, query_id)),
        )
        for query_id, pair in chosen
    ]  # fmt: skip
    refused = [refusal for refusal in loaded.refused if refusal.reason != "too_few_negatives"]
    return questions, SourceRecord(loaded.name, len(questions), len(refused), loaded.sha256)


def _judged_relevant(collection: Collection | None, query_id: str) -> set[str]:
    """Texts of a collection's documents that are judged relevant to a query, as pairs have them."""
    if collection is None:
        return set()
    relevant = (doc_id for doc_id, grade in collection.qrels.get(query_id, {}).items() if grade > 0)
    return {cut_document(collection.documents[doc_id])[0] for doc_id in relevant if doc_id in collection.documents}


def as_typed(query_text: str) -> str:
    """A question as it is typed into a search box: lower case, without the final mark."""
    return query_text.lower().rstrip(" ?.!") or query_text


def hold_out(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Split into (train, held out): queries that are equal, as typed into a search box, are never on both sides.

    A question's side depends on its query and the seed alone, so more data moves no question to the other side.

    Raises:
        InputError: either side is empty.
    """
    train: list[Question] = []
    held: list[Question] = []
    for question in questions:
        (held if _draw(seed, question.query_text) < share else train).append(question)
    if not train or not held:
        raise InputError(
            f"validation: a share of {share} of {len(questions)} questions leaves {len(train)} to train on and "
            f"{len(held)} to validate with; both need at least one"
        )
    return train, held


def _draw(seed: int, text: str) -> float:
    """A number in [0, 1) that is drawn by the seed and the words of a query, however it is written."""
    words = " ".join(as_typed(text).split())
    return int.from_bytes(hashlib.sha256(f"{seed}\n{words}".encode()).digest()[:8]) / 2**64
