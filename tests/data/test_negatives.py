"""Drawing negatives, and BM25 against its formula worked out term by term."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given
from hypothesis import strategies as st

from relscope.data import Bm25, NegativeSampling, load_collection
from relscope.data.negatives import in_drawing_order, random_order
from relscope.errors import InputError

WORDS = st.sampled_from(["boil", "boiling", "lentils", "the", "soup", "a", "lighthouse", "keeper", "salt"])
TEXT = st.lists(WORDS, max_size=8).map(" ".join)


def terms(text: str) -> list[str]:
    words = [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOPWORDS_EN]
    return Stemmer.Stemmer("english").stemWords(words)


def slow_bm25(documents: dict[str, str], query: str) -> dict[str, float]:
    """Lucene's BM25 with k1 1.5 and b 0.75, one query term and one document at a time."""
    texts = {doc_id: terms(text) for doc_id, text in documents.items()}
    mean_length = sum(map(len, texts.values())) / len(texts)
    values = {}
    for doc_id, words in texts.items():
        value = 0.0
        for term in terms(query):
            df = sum(term in other for other in texts.values())
            tf = words.count(term)
            if tf:
                idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                value += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean_length))
        if value:
            values[doc_id] = value
    return values


@given(st.lists(TEXT, min_size=1, max_size=6), TEXT)
def test_bm25_ranks_by_the_formula_and_only_what_shares_a_term(texts: list[str], query: str) -> None:
    documents = {f"d{i}": text for i, text in enumerate(texts)}
    values = slow_bm25(documents, query)
    ranking = Bm25(documents).rank(query, depth=100)
    assert set(ranking) == set(values)
    # the index holds float32: two documents may change places if their values differ by rounding only
    for better, worse in pairwise(ranking):
        assert values[better] >= values[worse] * (1 - 1e-5)


def test_equal_documents_keep_the_order_of_the_corpus() -> None:
    documents = {f"d{i}": "salt soup" if i % 2 else "lighthouse" for i in range(50)}
    assert Bm25(documents).rank("soup", depth=10) == [f"d{i}" for i in range(1, 20, 2)]


def test_a_corpus_or_query_without_a_term_ranks_nothing() -> None:
    assert Bm25({"d1": "the", "d2": "!?"}).rank("soup", depth=5) == []
    assert Bm25({"d1": "soup"}).rank("the", depth=5) == []
    assert Bm25({"d1": "soup"}).rank("unheard", depth=5) == []


def test_hash_randomisation_does_not_change_the_pairs() -> None:
    program = (
        "from relscope.data import load_pairs; from relscope.data import NegativeSampling as N\n"
        "print(load_pairs('demo').sha256, load_pairs('demo', negatives=N(kind='random')).sha256)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# --- drawing


@given(st.lists(st.text(max_size=5), unique=True), st.integers(), st.text(max_size=5), st.randoms())
def test_the_drawing_order_is_a_permutation_that_does_not_depend_on_the_given_order(
    candidates: list[str], seed: int, query: str, shuffler: object
) -> None:
    drawn = in_drawing_order(candidates, seed, query)
    assert sorted(place for place, _ in drawn) == list(range(len(candidates)))
    assert all(candidates[place] == text for place, text in drawn)
    shuffled = list(candidates)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [text for _, text in in_drawing_order(shuffled, seed, query)] == [text for _, text in drawn]


def test_first_draws_are_spread_evenly_over_queries() -> None:
    first = Counter(in_drawing_order("abcd", 0, f"q{i}")[0][1] for i in range(4_000))
    # mean 1,000, standard deviation sqrt(4000 * 1/4 * 3/4) = 27; five of them either way
    assert all(863 <= first[letter] <= 1_137 for letter in "abcd")


def test_random_order_goes_through_every_item_once() -> None:
    items = [f"d{i}" for i in range(100)]
    assert sorted(random_order(items, 0, "q")) == sorted(items)
    assert list(random_order(items, 0, "q")) != list(random_order(items, 1, "q"))
    assert list(random_order([], 0, "q")) == []


def test_a_few_of_ten_million_are_drawn_without_going_through_all() -> None:
    class Counted(list[str]):
        reads = 0

        def __len__(self) -> int:
            return 10_000_000

        def __getitem__(self, place: object) -> str:  # type: ignore[override]
            Counted.reads += 1
            return f"d{place}"

    drawn = list(islice(random_order(Counted(), 0, "q"), 100))
    assert len(set(drawn)) == 100
    assert Counted.reads == 100


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("kind", "easy", '"hard" or "random"'), ("per_query", 0, "per_query"), ("depth", 0, "depth")],
)
def test_a_sampling_option_out_of_range_is_named(option: str, value: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        NegativeSampling(**{option: value})  # type: ignore[arg-type]


def test_depth_below_per_query_is_refused() -> None:
    with pytest.raises(InputError, match=r"depth must be at least per_query \(3\), not 2"):
        NegativeSampling(per_query=3, depth=2)


def test_the_index_reads_every_document_once(beir_folder: Path) -> None:
    collection = load_collection(beir_folder)
    ranking = Bm25(collection.documents).rank(collection.queries["1"], depth=100)
    # boil: D1 D3; lentil(s): D1 D2 D3 D4; long(er) is another stem. D1 and D3 hold both terms.
    assert set(ranking) == {"D1", "D2", "D3", "D4"}
    assert set(ranking[:2]) == {"D1", "D3"}
