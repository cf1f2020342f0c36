"""A file of pairs as a collection: its passages, who judged what, and what malformed lines are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relscope.data import first_stage, load_collection, load_pairs
from relscope.errors import InputError

Write = Callable[..., Path]


def line(query: str, positive: str, hard: list[str] | None = None, random: list[str] | None = None) -> dict[str, Any]:
    return {
        "query": query,
        "positive_document": positive,
        "hard_negative_document": hard,
        "random_negative_document": random,
    }


def test_a_line_judges_its_passages_for_its_query(write_jsonl: Write) -> None:
    path = write_jsonl(line("red fox", "a fox", ["a red car", "a red hat"], ["a tree"]))
    collection = load_collection(path)
    assert collection.name == load_pairs(path).name
    assert collection.queries == {"line1": "red fox"}
    assert collection.documents == {
        "line1.positive": "a fox",
        "line1.hard0": "a red car",
        "line1.hard1": "a red hat",
        "line1.random0": "a tree",
    }
    assert collection.qrels == {
        "line1": {"line1.positive": 1, "line1.hard0": 0, "line1.hard1": 0, "line1.random0": 0},
    }
    assert collection.run is None


def test_a_text_is_one_document_however_often_it_occurs(write_jsonl: Write) -> None:
    first, second = line("one", "a", ["b"]), line("two", " b\n", ["a"], ["c"])
    collection = load_collection(write_jsonl(first, second))
    assert list(collection.documents) == ["line1.positive", "line1.hard0", "line2.random0"]
    assert collection.qrels["line2"] == {"line1.hard0": 1, "line1.positive": 0, "line2.random0": 0}


def test_a_query_of_several_lines_has_the_judgements_of_all(write_jsonl: Write) -> None:
    collection = load_collection(write_jsonl(line("what", "a", ["b"]), line("what ", "b", ["c", "a"])))
    assert collection.queries == {"line1": "what"}
    assert collection.qrels == {"line1": {"line1.positive": 1, "line1.hard0": 1, "line2.hard0": 0}}


def test_bm25_ranks_passages_of_other_lines_too(write_jsonl: Write) -> None:
    collection = load_collection(write_jsonl(line("red fox", "fox fox"), line("red car", "a car, a red red car")))
    assert first_stage(collection).rankings["line1"] == ("line1.positive", "line2.positive")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "holds no lines"),
        (["{}"], 'line 1: field "query" is missing'),
        (['{"query": "q", "positive_document": "p", "random_negative_document": "r"}'], "must be a list of strings"),
    ],
)
def test_a_malformed_file_is_refused(write_jsonl: Write, lines: list[str], told: str) -> None:
    with pytest.raises(InputError) as error:
        load_collection(write_jsonl(*lines))
    assert told in str(error.value)


def test_the_published_pairs_are_a_collection_whose_first_stage_finds_what_is_relevant(shared_data: Path) -> None:
    collection = load_collection(shared_data / "msmarco-pairs.jsonl")
    assert len(collection.queries) == 100
    found = first_stage(collection, depth=10).rankings
    relevant = [q for q, grades in collection.qrels.items() if any(grades.get(d) == 1 for d in found[q])]
    assert len(relevant) >= 90
