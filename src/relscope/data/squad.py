"""Which collection does a question-answering file in SQuAD's format make?

    {"data": [{"title": "...", "paragraphs": [{"context": "...", "qas": [
        {"id": "...", "question": "...", "answers": [{"text": "...", "answer_start": 12}]}]}]}]}

Every paragraph is cut into windows of whole sentences, which are the documents. The window that holds an answer is
its question's positive (grade 2). Windows that merely contain an answer's text, as whole words in sequence, may answer
it too: they get grade 1, which keeps them from being drawn as negatives. So the hard negatives are BM25 neighbours
without the answer. An answer is looked for only in the windows that hold its rarest word, so the cost grows with the
windows that share a word, not with questions x windows. Questions that have no answer (SQuAD 2.0's `is_impossible`)
have no positive and become refusals.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from relscope.data.collection import Collection
from relscope.data.files import json_type
from relscope.data.text import clean_text
from relscope.errors import InputError

WINDOW_WORDS = 60
"""A window ends with the sentence that reaches so many words: about the length of a web search passage."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_COMMON_ANSWER_CHARACTERS = 3
"""An answer this short (a digit, "US") is in so many windows that its text says nothing about them."""

# South-East Asian scripts, kana and Han have no space between words, and Korean particles cling to theirs: there
# each character is a word, or no answer would ever be found.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[$€£¥₹%{_UNSPACED}]|[^\W{_UNSPACED}]+(?:(?<=\d)[.,](?=\d)[^\W{_UNSPACED}]+)*")


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
    """Grade 2 for the window that holds the answer, 1 for others with an answer's words in sequence."""
    doc_ids = list(documents)
    folded = [_words(text) for text in documents.values()]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(folded):
        for word in set(text.split()):
            holders[word].append(place)
    qrels: dict[str, dict[str, int]] = {}
    for query_id, (gold, texts) in answers.items():
        places: set[int] = set()
        for answer in {_words(t) for t in texts if len(t.strip()) > _COMMON_ANSWER_CHARACTERS}:
            if len(answer.strip()) <= _COMMON_ANSWER_CHARACTERS:
                continue  # "two." says no more than "two"
            fewest = min((holders.get(word, []) for word in answer.split()), key=len, default=[])
            places.update(place for place in fewest if answer in folded[place])
        qrels[query_id] = {doc_ids[place]: 1 for place in sorted(places)} | ({} if gold is None else {gold: 2})
    return qrels


def _words(text: str) -> str:
    """The words in lower case, with a space before and after each: then `in` matches whole words in sequence.

    A number keeps its inner points and commas ("1.2", "1,600"), and a currency or percent sign is a word, so that
    "$1.2 million" is found neither in "1.2 million" nor in "$1, 2 million". Other punctuation only separates.
    """
    return f" {' '.join(_WORD.findall(text.lower()))} "


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
