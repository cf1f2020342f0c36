"""The bundled demo collection keeps what its README promises."""

from __future__ import annotations

from collections import Counter

import bm25s
import ir_measures
import pytest
import Stemmer
from ir_measures import nDCG

from relscope.data import Bm25, Collection, NegativeSampling, load_collection, load_pairs
from relscope.data.sources import DEMO_FOLDER


@pytest.fixture(scope="module")
def demo() -> Collection:
    return load_collection("demo")


def test_it_has_64_queries_and_512_passages_all_different(demo: Collection) -> None:
    assert len(demo.queries) == len(set(demo.queries.values())) == 64
    assert len(demo.documents) == len(set(demo.documents.values())) == 512


def test_queries_are_web_style_and_passages_have_30_to_90_words(demo: Collection) -> None:
    assert all(3 <= len(text.split()) <= 10 for text in demo.queries.values())
    lengths = [len(text.split()) for text in demo.documents.values()]
    assert min(lengths) >= 30
    assert max(lengths) <= 90


def test_every_text_is_as_clean_as_it_was_written(demo: Collection) -> None:
    raw = (DEMO_FOLDER / "corpus.jsonl").read_text(encoding="utf-8")
    assert set(raw) - set(map(chr, range(32, 127))) <= set("\n°éç")
    assert all("  " not in text and "<" not in text for text in demo.documents.values())


def test_each_passage_is_judged_for_one_query_and_each_query_has_all_grades(demo: Collection) -> None:
    judged = Counter(doc_id for grades in demo.qrels.values() for doc_id in grades)
    assert judged == dict.fromkeys(demo.documents, 1)
    assert set(demo.qrels) == set(demo.queries)
    for grades in demo.qrels.values():
        counts = Counter(grades.values())
        assert set(counts) == {0, 1, 2}
        assert counts[1] <= 2
        assert counts[2] <= 2
        assert 4 <= counts[0] <= 6


def test_the_order_of_the_corpus_tells_nothing_about_grades(demo: Collection) -> None:
    grade_of = {doc_id: grade for grades in demo.qrels.values() for doc_id, grade in grades.items()}
    in_order = [grade_of[doc_id] > 0 for doc_id in demo.documents]
    # some 200 relevant ones in two halves at random: standard deviation about 5.6 in each; three of them
    assert abs(sum(in_order[:256]) - sum(in_order[256:])) <= 2 * 17


def test_ndcg_at_10_of_plain_bm25_lies_between_045_and_080(demo: Collection) -> None:
    stemmer = Stemmer.Stemmer("english")
    doc_ids = list(demo.documents)
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(list(demo.documents.values()), stemmer=stemmer, show_progress=False),
        show_progress=False,
    )
    tokens = bm25s.tokenize(list(demo.queries.values()), stemmer=stemmer, show_progress=False)
    places, values = index.retrieve(tokens, k=100, show_progress=False)
    run = {
        query_id: {doc_ids[place]: float(value) for place, value in zip(places[i], values[i], strict=True)}
        for i, query_id in enumerate(demo.queries)
    }
    plain = ir_measures.calc_aggregate([nDCG @ 10], demo.qrels, run)[nDCG @ 10]
    assert 0.45 <= plain <= 0.80
    ours = Bm25(demo.documents)
    ranked = {
        query_id: {doc_id: -float(place) for place, doc_id in enumerate(ours.rank(text, depth=100))}
        for query_id, text in demo.queries.items()
    }
    # the same values; only ties are broken in another way, and few of 64 queries have one in the top 10
    value = ir_measures.calc_aggregate([nDCG @ 10], demo.qrels, ranked)[nDCG @ 10]
    assert value == pytest.approx(plain, abs=0.01)


@pytest.mark.parametrize("kind", ["hard", "random"])
def test_every_query_gives_a_pair_of_each_kind_and_none_is_refused(demo: Collection, kind: str) -> None:
    sampling = NegativeSampling(kind=kind, per_query=2)  # type: ignore[arg-type]
    pairs = load_pairs("demo", negatives=sampling)
    assert Counter(p.query_id for p in pairs.pairs) == dict.fromkeys(demo.queries, 2)
    assert pairs.refused == ()
    assert pairs.n_cut == 0


def test_positives_answer_fully_and_hard_negatives_were_written_for_their_query(demo: Collection) -> None:
    doc_ids = {text: doc_id for doc_id, text in demo.documents.items()}
    for pair in load_pairs("demo").pairs:
        assert demo.qrels[pair.query_id][doc_ids[pair.positive_text]] == 2
        assert demo.qrels[pair.query_id][doc_ids[pair.negative_text]] == 0


def test_the_licence_is_said_beside_the_texts() -> None:
    readme = (DEMO_FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in readme
    assert "no text comes from elsewhere" in readme
