"""Which pairs does a file hold that brings its own negatives, one JSON object a line?

    {"query": "...", "positive_document": "...",
     "hard_negative_document": ["...", ...], "random_negative_document": ["...", ...]}

Either list may be missing, null or empty; other fields are ignored. A query's id is its line (`line12`); its
draws depend on its text and not on its line, so that sorting or shortening a file changes no query's
negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relscope.data.files import json_type, read_objects, string_field
from relscope.data.negatives import NegativeSampling, in_drawing_order
from relscope.data.pairs import Candidate, JudgedQuery, PairSet, build_pairs
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


def _judged_queries(path: Path, sampling: NegativeSampling) -> Iterator[JudgedQuery]:
    for number, record in read_objects(path):
        query_text = string_field(record, "query", path, number)
        positive = string_field(record, "positive_document", path, number)
        # both lists are checked, also the one that is not asked for: a malformed line is malformed
        documents = {kind: _string_list(record, name, path, number) for kind, name in NEGATIVE_FIELDS.items()}
        name = NEGATIVE_FIELDS[sampling.kind]
        drawn = in_drawing_order(documents[sampling.kind], sampling.seed, query_text)
        yield JudgedQuery(
            f"line{number}",
            query_text,
            [Candidate(f'line {number}, field "positive_document"', positive)],
            [(place, Candidate(f'line {number}, field "{name}[{place}]"', text)) for place, text in drawn],
            f'line {number}: field "{name}" is missing or empty',
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
