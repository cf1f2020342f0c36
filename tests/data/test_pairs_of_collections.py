"""Pairs made from judgements: which positive, which negatives, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from relscope.data import (
    Collection,
    NegativeSampling,
    PairSet,
    load_collection,
    load_pairs,
    pairs_from_collection,
)
from relscope.errors import InputError

SEEDS = range(60)


@pytest.fixture
def collection(beir_folder: Path) -> Collection:
    return load_collection(beir_folder)


def negatives_of(collection: Collection, query_id: str, **options: object) -> Counter[str]:
    """How often each document is the query's negative over many seeds."""
    texts = {text: doc_id for doc_id, text in collection.documents.items()}
    drawn: Counter[str] = Counter()
    for seed in SEEDS:
        sampling = NegativeSampling(seed=seed, **options)  # type: ignore[arg-type]
        pairs = pairs_from_collection(collection, negatives=sampling).pairs
        drawn.update(texts[p.negative_text] for p in pairs if p.query_id == query_id)
    return drawn


def refusals(pairs: PairSet) -> list[tuple[str, str]]:
    return [(refusal.pair_id, refusal.reason) for refusal in pairs.refused]


def test_the_positive_has_the_highest_grade(collection: Collection) -> None:
    for seed in SEEDS:
        pairs = pairs_from_collection(collection, negatives=NegativeSampling(seed=seed)).pairs
        assert [p.positive_text for p in pairs] == [collection.documents[d] for d in ("D1", "D6", "D9")]


def test_among_equal_grades_the_seed_draws_the_positive(collection: Collection) -> None:
    tied = replace(collection, qrels={"1": {"D1": 1, "D3": 1, "D2": 0}})
    drawn = {
        pairs_from_collection(tied, negatives=NegativeSampling(seed=seed)).pairs[0].positive_text for seed in SEEDS
    }
    assert drawn == {collection.documents["D1"], collection.documents["D3"]}


def test_hard_negatives_share_a_term_and_are_never_judged_relevant(collection: Collection) -> None:
    unjudged = replace(collection, qrels={"1": {"D1": 2, "D3": 1}})
    # the ranking of query 1 is D1, D3, D2, D4 in some order; D1 and D3 are judged relevant
    assert set(negatives_of(unjudged, "1")) == {"D2", "D4"}


def test_what_is_judged_not_relevant_is_drawn_before_what_nobody_judged(collection: Collection) -> None:
    assert set(negatives_of(collection, "1")) == {"D2"}
    two = pairs_from_collection(collection, negatives=NegativeSampling(per_query=2)).pairs
    assert [p.negative_text for p in two if p.query_id == "1"] == [collection.documents[d] for d in ("D2", "D4")]


def test_random_negatives_come_from_the_whole_corpus_but_the_relevant_ones(collection: Collection) -> None:
    drawn = negatives_of(collection, "1", kind="random")
    assert "D1" not in drawn
    assert "D3" not in drawn
    assert {"D9", "D12"} < set(drawn) <= set(collection.documents)


def test_a_run_takes_the_place_of_bm25_down_to_its_depth(collection: Collection) -> None:
    ranked = replace(collection, run={"1": ["D1", "D12", "D8", "D3", "D5"]})
    assert set(negatives_of(ranked, "1")) == {"D12", "D8", "D5"}
    # the top 3 are D1 (relevant), D12 and D8
    assert set(negatives_of(ranked, "1", depth=3)) == {"D12", "D8"}


def test_a_query_without_a_ranking_is_refused(collection: Collection) -> None:
    pairs = pairs_from_collection(replace(collection, run={"1": ["D12"], "2": ["D6"]}))
    assert [p.query_id for p in pairs.pairs] == ["1"]
    assert refusals(pairs) == [("2", "no_hard_negative"), ("3", "no_hard_negative")]
    assert "top 100 of its run" in pairs.refused[0].detail


def test_limit_and_the_order_of_queries_change_no_querys_pair(collection: Collection) -> None:
    for kind in ("hard", "random"):
        sampling = NegativeSampling(kind=kind, seed=5)  # type: ignore[arg-type]
        whole = pairs_from_collection(collection, negatives=sampling).pairs
        turned = replace(collection, queries=dict(reversed(collection.queries.items())))
        assert pairs_from_collection(turned, negatives=sampling).pairs == whole[::-1]
        assert pairs_from_collection(collection, negatives=sampling, limit=2).pairs == whole[:2]


def test_a_judged_document_that_is_missing_is_refused_and_the_next_best_taken(collection: Collection) -> None:
    documents = {doc_id: text for doc_id, text in collection.documents.items() if doc_id not in ("D1", "D6")}
    pairs = pairs_from_collection(replace(collection, documents=documents))
    assert [p.query_id for p in pairs.pairs] == ["1", "3"]
    assert pairs.pairs[0].positive_text == documents["D3"]
    assert refusals(pairs) == [("1", "missing_document"), ("2", "missing_document")]
    assert 'document "D1"' in pairs.refused[0].detail


def test_missing_and_empty_candidates_of_a_run_are_counted(collection: Collection) -> None:
    documents = dict(collection.documents) | {"D5": " \n"}
    ranked = replace(collection, documents=documents, run={"1": ["D5", "gone", "D8"]}, qrels={"1": {"D1": 1}})
    pairs = pairs_from_collection(ranked, negatives=NegativeSampling(per_query=3))
    assert [p.negative_text for p in pairs.pairs if p.query_id == "1"] == [documents["D8"]]
    reasons = Counter(reason for pair_id, reason in refusals(pairs) if pair_id.startswith("1:"))
    assert reasons == {"missing_document": 1, "empty_document": 1}


def test_topics_without_judgements_and_judgements_without_topics_are_refused(collection: Collection) -> None:
    changed = replace(
        collection,
        queries=dict(collection.queries) | {"4": "who judged this", "5": "only bad ones"},
        qrels=dict(collection.qrels) | {"9": {"D1": 1}, "5": {"D5": 0, "D7": -1}},
    )
    pairs = pairs_from_collection(changed)
    assert len(pairs.pairs) == 3
    assert refusals(pairs) == [("4", "no_positive"), ("5", "no_positive"), ("9", "unknown_query")]


def test_a_negative_that_repeats_any_relevant_text_is_refused(collection: Collection) -> None:
    documents = dict(collection.documents) | {"D2": collection.documents["D3"] + "\n"}
    pairs = pairs_from_collection(replace(collection, documents=documents))
    assert ("1:0", "positive_equals_negative") in refusals(pairs)
    assert pairs.pairs[0].pair_id == "1:1"
    assert pairs.pairs[0].negative_text == documents["D4"]


def test_a_higher_relevant_grade_makes_no_negative_of_the_grades_below(collection: Collection) -> None:
    pairs = pairs_from_collection(collection, negatives=NegativeSampling(per_query=4), relevant_grade=2)
    assert {p.query_id for p in pairs.pairs} == {"1", "3"}
    assert ("2", "no_positive") in refusals(pairs)
    assert collection.documents["D3"] not in {p.negative_text for p in pairs.pairs if p.query_id == "1"}


def test_the_hash_is_sha256_of_one_json_line_a_pair(collection: Collection) -> None:
    pairs = pairs_from_collection(collection)
    lines = "".join(json.dumps(list(astuple(p))) + "\n" for p in pairs.pairs)
    assert pairs.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_the_hash_changes_with_any_pair(collection: Collection) -> None:
    sets = [
        pairs_from_collection(collection),
        pairs_from_collection(collection, limit=2),
        pairs_from_collection(collection, negatives=NegativeSampling(kind="random")),
        pairs_from_collection(replace(collection, queries=dict(collection.queries) | {"1": "boil lentils"})),
    ]
    assert len({pairs.sha256 for pairs in sets}) == len(sets)


def test_options_out_of_range_are_named(beir_folder: Path) -> None:
    with pytest.raises(InputError, match="limit: must be at least 1"):
        load_pairs(beir_folder, limit=0)
    with pytest.raises(InputError, match="relevant_grade: must be at least 1"):
        load_pairs(beir_folder, relevant_grade=0)


def test_a_collection_without_a_usable_pair_is_an_error(collection: Collection) -> None:
    with pytest.raises(InputError, match=r"beir: gives no usable pair \(3 no_positive"):
        pairs_from_collection(replace(collection, qrels={}))
