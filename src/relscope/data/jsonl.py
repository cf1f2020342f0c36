"""Which pairs does a file hold that brings its own negatives, one JSON object a line?

    {"query": "...", "positive_document": "...",
     "hard_negative_document": ["...", ...], "random_negative_document": ["...", ...]}

Either list may be missing, null or empty; other fields are ignored. A query's id is its line (`line12`); its
draws depend on its text and not on its line, so that sorting or shortening a file changes no query's
negatives.

To be ranked, the passages of all lines are one small collection (`collection_from_jsonl`): its first stage finds
passages of other lines too, which nobody judged for the query.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relscope.data.collection import Collection
from relscope.data.files import json_type, read_objects, string_field
from relscope.data.negatives import NegativeSampling, in_drawing_order
from relscope.data.pairs import Candidate, JudgedQuery, PairSet, build_pairs
from relscope.data.text import clean_text, same_words
from relscope.errors import InputError

NEGATIVE_FIELDS = {"hard": "hard_negative_document", "random": "random_negative_document"}


def pairs_from_jsonl(
    path: str | Path, *, negatives: NegativeSampling | None = None, limit: int | None = None
) -> PairSet:
    """Pairs of a JSONL file; `limit` stops reading once there are so many pairs.

    Raises:
        InputError: a line that is not such an object (the message names file, line and field), a file that
            can't be read or is not UTF-8, or not a single usable pair.
    """
    path = Path(path)
    sampling = negatives or NegativeSampling()
    return build_pairs(path.name, _judged_queries(path, sampling), sampling, limit)


def collection_from_jsonl(path: str | Path) -> Collection:
    """The passages of all lines as one collection: the positive of a line has grade 1 for its query, its negatives 0.

    A text that occurs more than once is one document, named by its first place (`line3.positive`, `line3.hard0`,
    `line3.random1`); a query that occurs more than once is the one of its first line, with the judgements of all.

    Raises:
        InputError: as `pairs_from_jsonl`, or a file without lines.
    """
    path = Path(path)
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    query_of_text: dict[str, str] = {}
    document_of_text: dict[str, str] = {}
    for number, query_text, positive, negatives in _lines(path):
        query_id = query_of_text.setdefault(same_words(clean_text(query_text)), f"line{number}")
        queries.setdefault(query_id, clean_text(query_text))
        grades = qrels.setdefault(query_id, {})
        judged = [("positive", positive, 1)]
        judged += [(f"{kind}{place}", text, 0) for kind, texts in negatives.items() for place, text in enumerate(texts)]
        for place_name, text, grade in judged:
            doc_id = document_of_text.setdefault(same_words(clean_text(text)), f"line{number}.{place_name}")
            documents.setdefault(doc_id, clean_text(text))
            grades[doc_id] = max(grade, grades.get(doc_id, 0))
    if not queries:
        raise InputError(f"{path}: holds no lines")
    return Collection(path.name, queries, documents, qrels)


def _judged_queries(path: Path, sampling: NegativeSampling) -> Iterator[JudgedQuery]:
    for number, query_text, positive, documents in _lines(path):
        name = NEGATIVE_FIELDS[sampling.kind]
        drawn = in_drawing_order(documents[sampling.kind], sampling.seed, query_text)
        yield JudgedQuery(
            f"line{number}",
            query_text,
            [Candidate(f'line {number}, field "positive_document"', positive)],
            [(place, Candidate(f'line {number}, field "{name}[{place}]"', text)) for place, text in drawn],
            f'line {number}: field "{name}" is missing or empty',
        )


def _lines(path: Path) -> Iterator[tuple[int, str, str, dict[str, list[str]]]]:
    """Of each line its number, query, positive, and the negatives of each kind.

    Both kinds are checked, also one that is not asked for: a malformed line is malformed.
    """
    for number, record in read_objects(path):
        query_text = string_field(record, "query", path, number)
        positive = string_field(record, "positive_document", path, number)
        yield (
            number,
            query_text,
            positive,
            {kind: _string_list(record, name, path, number) for kind, name in NEGATIVE_FIELDS.items()},
        )


def _string_list(record: dict[str, Any], field: str, path: Path, number: int) -> list[str]:
    value = record.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(
            f'{path}, line {number}, field "{field}": must be a list of strings, '
            f"but is a JSON {json_type(value)}"
            + ('; write ["..."] for a single document' if isinstance(value, str) else "")
        )
    for place, item in enumerate(value):
        if not isinstance(item, str):
            raise InputError(
                f'{path}, line {number}, field "{field}[{place}]": must be a string, but is a JSON {json_type(item)}'
            )
    return value
