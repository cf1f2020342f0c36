"""Questions and paragraphs in SQuAD's format, as a collection of questions and passage windows."""

from __future__ import annotations

import json
import random
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


def with_answer(tmp_path: Path, answer: str, *others: str) -> list[str]:
    """Which of the other paragraphs (each one window) are judged to contain the answer's text."""
    found = {"id": "a", "question": "What?", "answers": [{"text": answer, "answer_start": 0}]}
    paragraphs = [{"context": answer, "qas": [found]}, *({"context": other, "qas": []} for other in others)]
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    collection = load_squad(tmp_path / "q.json")
    assert collection.qrels["a"]["p0.0"] == 2
    return [collection.documents[doc_id] for doc_id, grade in collection.qrels["a"].items() if grade == 1]


@pytest.mark.parametrize(
    ("answer", "has", "has_not"),
    [
        ("rain", ["rain", "Then rain, again", "(RAIN)", "the rain's end"], ["the train", "rains", "rai n"]),
        ("New York City", ["in new york\ncity.", "New York, City", "New  York-City"],
         ["New York", "York City, New", "New York's City", "New York Cityscape", "New in York City"]),
        ("self-made", ["a self made man", "Self–Made!"], ["selfmade", "self, home-made"]),
        ("$1.2 million", ["for US$1.2 Million.", "$1.2-million"], ["1.2 million", "$1, 2 million", "$11.2 million"]),
        ("19.3%", ["(19.3%)", "19.3 %"], ["19.3", "119.3%", "19, 3%", "19.35%"]),
        ("1990", ["In 1990, it", "1990-1994", "by 1990."], ["the 1990s", "11990", "1,990"]),
        ("北京大学", ["他在北京大学学习。"], ["北京的大学"]),
    ],
)  # fmt: skip
def test_an_answer_is_found_as_whole_words_in_sequence(
    tmp_path: Path, answer: str, has: list[str], has_not: list[str]
) -> None:
    assert with_answer(tmp_path, answer, *has, *has_not) == has


def test_punctuation_does_not_make_a_short_answer_long_enough_to_look_for(tmp_path: Path) -> None:
    assert with_answer(tmp_path, "two.", "one, two.", "two") == []
    assert with_answer(tmp_path, "U.S.", "the U.S. Army", "give us some") == []


def test_an_answer_of_punctuation_alone_is_found_nowhere_else(tmp_path: Path) -> None:
    assert with_answer(tmp_path, "-----", "a ----- b", "a b", "") == []


def test_the_index_finds_what_a_scan_of_every_window_finds(tmp_path: Path) -> None:
    rng = random.Random(0)
    vocabulary = ["rain", "train", "rains", "New", "new", "York", "1.2", "12", "2", "$", "a", "the", "Straße", "naïve"]
    weights = [1, 1, 2, 3, 3, 1, 1, 2, 2, 2, 9, 9, 1, 1]

    def written(words: list[str]) -> str:
        cased = [rng.choice([word, word.upper() if word.isascii() else word]) for word in words]
        return "".join(word + rng.choice([" ", "  ", ", ", " - ", "-", "; ", '" ', "\n"]) for word in cased)

    paragraphs = [rng.choices(vocabulary, weights, k=rng.randrange(1, 13)) for _ in range(100)]
    answers: dict[str, list[tuple[list[str], str]]] = {}
    content: list[dict[str, Any]] = []
    for number, words in enumerate(paragraphs):
        chosen = [words[:2], *(rng.choices(vocabulary, weights, k=rng.randrange(1, 4)) for _ in range(2))]
        answers[f"q{number}"] = [(answer, written(answer)) for answer in chosen]
        given = [{"text": text, "answer_start": 0} for _, text in answers[f"q{number}"]]
        content.append(
            {"context": written(words), "qas": [{"id": f"q{number}", "question": "What?", "answers": given}]}
        )
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": content}]}))

    def contains(words: list[str], answer: list[str]) -> bool:
        low, wanted = [word.lower() for word in words], [word.lower() for word in answer]
        return any(low[i : i + len(wanted)] == wanted for i in range(len(low)))

    expected: dict[str, dict[str, int]] = {}
    for number, given_answers in enumerate(answers.values()):
        sought = [answer for answer, text in given_answers if min(len(text.strip()), len(" ".join(answer))) > 3]
        holding = [i for i, words in enumerate(paragraphs) if any(contains(words, answer) for answer in sought)]
        expected[f"q{number}"] = {f"p{i}.0": 1 for i in holding} | {f"p{number}.0": 2}
    assert load_squad(tmp_path / "q.json").qrels == expected
    assert sum(map(len, expected.values())) > 2 * len(expected)  # the text is such that answers recur


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
