"""Which ranking reranking begins with, what a run file must be, and who is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relscope.data import (
    Bm25,
    Collection,
    first_stage,
    load_collection,
    qrels_sha256,
    read_run,
    run_text,
    texts_sha256,
)
from relscope.errors import InputError

COLLECTION = Collection(
    "small",
    {"q1": "red fox", "q2": "blue whale", "q3": "green tea", "q4": ""},
    {"d1": "a red fox", "d2": "a fox", "d3": "the blue whale", "d4": "salt"},
    {"q1": {"d1": 1}, "q2": {"d3": 1}, "q4": {"d4": 1}, "q9": {"d1": 1}},
)


def test_without_a_run_judged_queries_are_ranked_by_bm25_and_others_are_told() -> None:
    first = first_stage(COLLECTION, depth=2)
    bm25 = Bm25(COLLECTION.documents)
    assert first.name == "BM25"
    assert first.rankings == {"q1": tuple(bm25.rank("red fox", 2)), "q2": ("d3",)}
    assert {(one.query_id, one.reason) for one in first.left_out} == {
        ("q9", "unknown_query"), ("q3", "not_judged"), ("q4", "empty_query"),
    }  # fmt: skip


def test_with_a_run_its_queries_are_ranked_and_judged_ones_that_it_lacks_have_an_empty_ranking() -> None:
    first = first_stage(replace(COLLECTION, run={"q3": ["d4", "d1", "d2"], "q1": ["d2"]}), depth=2)
    assert first.rankings == {"q1": ("d2",), "q2": (), "q3": ("d4", "d1")}
    assert first.name == "run of small"
    assert first_stage(replace(COLLECTION, run={"q3": ["d4"]}), run="bm25").name == "BM25"


def test_a_run_file_goes_before_the_collections_own_run_and_the_limit_takes_the_first_queries(tmp_path: Path) -> None:
    file = tmp_path / "mine.trec"
    file.write_text("q2 Q0 d1 1 2.5 t\nq1 Q0 d2 1 0.5 t\nq1 Q0 d1 2 0.75 t\n")
    first = first_stage(replace(COLLECTION, run={"q1": ["d4"]}), run=file, limit=1)
    assert (first.name, first.rankings) == ("mine.trec", {"q1": ("d1", "d2")})


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "ranks no query of small; it is empty"),
        ("q7 Q0 d1 1 1 t\n", 'ranks no query of small, but for example "q7"; is it a run of other data?'),
        ("q1 Q0 D1 1 1 t\n", 'small holds none of its documents, such as "D1"; is it a run of other data?'),
        ("q1 Q0 d1 1 t\n", r"line 1: must have 6 columns"),
    ],
)
def test_a_run_file_of_other_data_is_refused(tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "mine.trec"
    file.write_text(lines)
    with pytest.raises(InputError, match=told):
        first_stage(COLLECTION, run=file)


def test_a_run_without_an_order_is_no_first_stage() -> None:
    with pytest.raises(InputError, match="names documents without ranking them; give a TREC run file, or bm25"):
        first_stage(replace(COLLECTION, run={"q1": ["d1"]}, run_is_ordered=False))


@pytest.mark.parametrize(("option", "value"), [("depth", 0), ("limit", 0)])
def test_numbers_below_1_are_refused(option: str, value: int) -> None:
    with pytest.raises(InputError, match="must be at least 1, not 0"):
        first_stage(COLLECTION, **{option: value})  # type: ignore[arg-type]


def test_a_collection_without_a_query_that_can_be_asked_is_refused() -> None:
    with pytest.raises(InputError, match='no query can be ranked; for example query "q1" is neither judged nor'):
        first_stage(replace(COLLECTION, qrels={}))


def test_a_written_run_is_read_back_in_order_and_with_every_float32(tmp_path: Path) -> None:
    values = [float(np.float32(v)) for v in (12.345678, 1.0000001, 1.0, -3e-7)]
    rankings = {"q1": list(zip(("d3", "d1", "d2", "d4"), values, strict=True)), "q2": [("d1", 0.5)], "q3": []}
    file = tmp_path / "run.trec"
    file.write_text(run_text(rankings, "tag"))
    assert read_run(file) == {"q1": ["d3", "d1", "d2", "d4"], "q2": ["d1"]}
    lines = [line.split() for line in file.read_text().splitlines()]
    assert [float(np.float32(line[4])) for line in lines[:4]] == values
    assert [(line[1], line[3], line[5]) for line in lines] == [("Q0", str(n), "tag") for n in (1, 2, 3, 4, 1)]


@pytest.mark.parametrize("bad", ["two words", "", "tab\tbed"])
def test_an_id_that_a_line_cannot_hold_is_refused(bad: str) -> None:
    for rankings in ({bad: [("d1", 1.0)]}, {"q1": [(bad, 1.0)]}):
        with pytest.raises(InputError, match="a TREC run file cannot hold the id"):
            run_text(rankings, "tag")


def test_the_demo_collection_has_a_first_stage_for_every_query() -> None:
    demo = load_collection("demo")
    first = first_stage(demo, depth=10)
    assert list(first.rankings) == list(demo.queries)
    assert all(first.rankings.values())
    assert first.left_out == ()


def test_hashes_of_what_is_ranked_follow_texts_order_and_judgements_and_nothing_else() -> None:
    rankings = {"q1": ("d1", "d2"), "q2": ("d3",)}
    texts, qrels = texts_sha256(COLLECTION, rankings), qrels_sha256(COLLECTION, rankings)
    unranked = replace(
        COLLECTION,
        documents={**COLLECTION.documents, "d4": "pepper"},
        queries={**COLLECTION.queries, "q3": "black tea"},
        qrels={**COLLECTION.qrels, "q9": {"d2": 1}},
    )
    assert (texts_sha256(unranked, rankings), qrels_sha256(unranked, rankings)) == (texts, qrels)
    for other in (
        replace(COLLECTION, documents={**COLLECTION.documents, "d2": "a dog"}),
        replace(COLLECTION, queries={**COLLECTION.queries, "q2": "blue whales"}),
    ):
        assert texts_sha256(other, rankings) != texts
        assert qrels_sha256(other, rankings) == qrels
    assert texts_sha256(COLLECTION, {**rankings, "q1": ("d2", "d1")}) != texts
    both = {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 1}}
    of_both = qrels_sha256(replace(COLLECTION, qrels=both), rankings)
    assert of_both != qrels
    turned = {**both, "q1": {"d2": 0, "d1": 1}}
    assert qrels_sha256(replace(COLLECTION, qrels=turned), rankings) == of_both
