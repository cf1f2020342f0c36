"""Which collection does a question-answering file in SQuAD's format make?

    {"data": [{"title": "...", "paragraphs": [{"context": "...", "qas": [
        {"id": "...", "question": "...", "answers": [{"text": "...", "answer_start": 12}]}]}]}]}

Every paragraph is cut into windows of whole sentences, which are the documents. The window that holds an answer is
its question's positive (grade 2). Windows that merely contain an answer's text may answer it too: they get grade 1,
which keeps them from being drawn as negatives. So the hard negatives are BM25 neighbours without the answer.
Questions that have no answer (SQuAD 2.0's `is_impossible`) have no positive and become refusals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from relscope.data.collection import Collection
from relscope.data.files import json_type
from relscope.data.text import clean_text, same_words
from relscope.errors import InputError

WINDOW_WORDS = 60
"""A window ends with the sentence that reaches so many words: about the length of a web search passage."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_COMMON_ANSWER_CHARACTERS = 3
"""An answer this short (a digit, "US") is in so many windows that its text says nothing about them."""


@dataclass(frozen=True)
class _Window:
    doc_id: str
    start: int
    stop: int
    text: str


def load_squad(path: str | Path) -> Collection:
    """Read a file in SQuAD's format as a collection of questions and passage windows.

    Raises:
        InputError: the file cannot be read, is not JSON, or is not of this format; the message names the field.
    """
    path = Path(path)
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    answers: dict[str, tuple[str | None, list[str]]] = {}
    for number, (where, paragraph) in enumerate(_paragraphs(path)):
        context = _field(paragraph, "context", str, path, where)
        windows = _windows(context, f"p{number}")
        documents |= {window.doc_id: window.text for window in windows}
        for place, question in enumerate(_field(paragraph, "qas", list, path, where)):
            at = f"{where}.qas[{place}]"
            query_id = str(question.get("id", at) if isinstance(question, dict) else at)
            if query_id in queries:
                raise InputError(f'{path}, {at}.id: "{query_id}" occurs twice; ids must be unique')
            queries[query_id] = clean_text(_field(question, "question", str, path, at))
            answers[query_id] = _answer(question, windows, path, at)
    if not queries:
        raise InputError(f"{path}: holds no questions")
    return Collection(path.name.split(".json")[0], queries, documents, _judged(answers, documents))


def is_squad(path: Path) -> bool:
    """Whether a JSON file begins like one of this format."""
    try:
        with path.open(encoding="utf-8") as stream:
            head = stream.read(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(r'"(data|paragraphs|version)"\s*:', head) is not None


def _judged(answers: dict[str, tuple[str | None, list[str]]], documents: dict[str, str]) -> dict[str, dict[str, int]]:
    folded = {doc_id: same_words(text).lower() for doc_id, text in documents.items()}
    qrels: dict[str, dict[str, int]] = {}
    for query_id, (gold, texts) in answers.items():
        wanted = [same_words(t).lower() for t in texts if len(t.strip()) > _COMMON_ANSWER_CHARACTERS]
        qrels[query_id] = {doc_id: 1 for doc_id, text in folded.items() if any(answer in text for answer in wanted)} | (
            {} if gold is None else {gold: 2}
        )
    return qrels


def _answer(question: Any, windows: list[_Window], path: Path, where: str) -> tuple[str | None, list[str]]:
    """The window with the first answer, and the texts of all answers."""
    found = question.get("answers") or []
    if not isinstance(found, list):
        raise InputError(f"{path}, {where}.answers: must be a list, but is a JSON {json_type(found)}")
    texts = [_field(answer, "text", str, path, f"{where}.answers[{i}]") for i, answer in enumerate(found)]
    if not found:
        return None, []
    start = _field(found[0], "answer_start", int, path, f"{where}.answers[0]")
    gold = next((window.doc_id for window in windows if window.start <= start < window.stop), None)
    return gold, texts


def _windows(context: str, name: str) -> list[_Window]:
    """Whole sentences, as many as reach `WINDOW_WORDS`; a short rest goes with the window before it."""
    ends = [*(match.end() for match in _SENTENCE_END.finditer(context)), len(context)]
    cuts = [0]
    for end in ends:
        if len(context[cuts[-1] : end].split()) >= WINDOW_WORDS or end == len(context):
            cuts.append(end)
    if len(cuts) > 2 and len(context[cuts[-2] :].split()) < WINDOW_WORDS // 3:
        del cuts[-2]
    return [
        _Window(f"{name}.{i}", start, stop, clean_text(context[start:stop]))
        for i, (start, stop) in enumerate(pairwise(cuts))
    ]


def _paragraphs(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file with the encoding UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    for i, article in enumerate(_field(content, "data", list, path, "")):
        for j, paragraph in enumerate(_field(article, "paragraphs", list, path, f"data[{i}]")):
            yield f"data[{i}].paragraphs[{j}]", paragraph


def _field(record: Any, name: str, kind: type, path: Path, where: str) -> Any:
    at = f"{where}.{name}".lstrip(".")
    if not isinstance(record, dict) or name not in record:
        raise InputError(f'{path}: field "{at}" is missing; a file in SQuAD\'s format has it')
    if not isinstance(record[name], kind):
        wanted = {str: "a string", list: "a list", int: "a whole number"}[kind]
        raise InputError(f'{path}, field "{at}": must be {wanted}, but is a JSON {json_type(record[name])}')
    return record[name]
