"""Questions and paragraphs in SQuAD's format, as a collection of questions and passage windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relscope.data import NegativeSampling, load_collection, load_pairs, load_squad
from relscope.errors import InputError

# Sentences of 20 words; a window ends with the sentence that reaches 60.
SENTENCES = [f"Sentence number {i} {'word ' * 15}ends in Town{i}." for i in range(7)]
CONTEXT = " ".join(SENTENCES)


def question(name: str, answer: str | None, text: str = "Where does it end?") -> dict[str, Any]:
    answers = [] if answer is None else [{"text": answer, "answer_start": CONTEXT.index(answer)}]
    return {"id": name, "question": text, "answers": answers}


def squad(path: Path, *questions: dict[str, Any], context: str = CONTEXT, more: str = "Town1 is far away.") -> Path:
    paragraphs = [{"context": context, "qas": list(questions)}, {"context": more, "qas": []}]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]}))
    return path


def test_windows_are_whole_sentences_and_together_the_paragraph(tmp_path: Path) -> None:
    collection = load_squad(squad(tmp_path / "q.json", question("a", "Town4")))
    assert list(collection.documents.values()) == [
        " ".join(SENTENCES[0:3]), " ".join(SENTENCES[3:6]), SENTENCES[6], "Town1 is far away.",
    ]  # fmt: skip
    assert collection.name == "q"


def test_a_short_rest_stays_with_the_window_before_it(tmp_path: Path) -> None:
    context = " ".join(SENTENCES[:3]) + " The end."
    collection = load_squad(squad(tmp_path / "q.json", question("a", "Town1"), context=context))
    assert next(iter(collection.documents.values())) == context


def test_the_window_with_the_answer_is_the_positive_and_others_with_its_text_are_no_negatives(tmp_path: Path) -> None:
    path = squad(tmp_path / "q.json", question("a", "Town1"))
    assert load_squad(path).qrels == {"a": {"p0.0": 2, "p1.0": 1}}
    pairs = load_pairs(path, negatives=NegativeSampling(kind="random", per_query=3)).pairs
    assert {pair.positive_text for pair in pairs} == {" ".join(SENTENCES[0:3])}
    assert {pair.negative_text for pair in pairs} == {" ".join(SENTENCES[3:6]), SENTENCES[6]}


def test_an_answer_of_a_few_characters_says_nothing_about_other_windows(tmp_path: Path) -> None:
    collection = load_squad(squad(tmp_path / "q.json", question("a", "4")))
    assert collection.qrels == {"a": {"p0.1": 2}}


def test_a_question_without_an_answer_is_refused_not_dropped(tmp_path: Path) -> None:
    path = squad(tmp_path / "q.json", question("a", "Town1"), question("b", None))
    pairs = load_pairs(path, negatives=NegativeSampling(kind="random"))
    assert [pair.query_id for pair in pairs.pairs] == ["a"]
    assert [(refusal.pair_id, refusal.reason) for refusal in pairs.refused] == [("b", "no_positive")]


def test_a_json_file_of_another_kind_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"topics": "t.txt"}')
    with pytest.raises(InputError, match=r"other\.json"):
        load_collection(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": {}}, 'field "data": must be a list, but is a JSON object'),
        ({"data": [{"title": "T"}]}, r'field "data\[0\].paragraphs" is missing'),
        ({"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}, r'paragraphs\[0\].context": must be a string'),
        ({"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a"}]}]}]}, r"qas\[0\].question\" is missing"),
        (
            {"data": [{"paragraphs": [{"context": "c", "qas": [
                {"id": "a", "question": "q", "answers": [{"text": "c"}]}]}]}]},
            r"answers\[0\].answer_start\" is missing",
        ),
        ({"data": []}, "holds no questions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_field(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "q.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_squad(tmp_path / "q.json")


def test_ids_that_come_twice_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='"a" occurs twice'):
        load_squad(squad(tmp_path / "q.json", question("a", "Town1"), question("a", "Town2")))


def test_what_is_not_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('{"data": [')
    with pytest.raises(InputError, match=r"q\.json: not valid JSON"):
        load_collection(tmp_path / "q.json")


def test_xquad_gives_every_question_a_window_with_its_answer(shared_data: Path) -> None:
    path = shared_data / "xquad.en.json"
    collection = load_squad(path)
    content = json.loads(path.read_text())
    answers = {
        q["id"]: q["answers"][0]["text"] for a in content["data"] for p in a["paragraphs"] for q in p["qas"]
    }  # fmt: skip
    assert len(collection.queries) == 1190
    missing = []
    for query_id, grades in collection.qrels.items():
        gold = next(doc_id for doc_id, grade in grades.items() if grade == 2)
        if answers[query_id].lower() not in collection.documents[gold].lower():
            missing.append(query_id)
    # Only an answer that runs over a sentence's end can be cut.
    assert len(missing) <= 6
