"""Pairs from JSONL files: which pairs, which refusals, and what every malformed line is called."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscope.data import MAX_DOCUMENT_CHARACTERS, NegativeSampling, PairSet, load_pairs
from relscope.errors import InputError

Write = Callable[..., Path]
RANDOM = NegativeSampling(kind="random")


def line(query: str = "q", positive: str = "p", hard: Any = ("n",), random: Any = ("r",)) -> dict[str, Any]:
    return {
        "query": query,
        "positive_document": positive,
        "hard_negative_document": hard,
        "random_negative_document": random,
    }


def test_a_line_becomes_a_pair_with_the_negative_of_the_asked_kind(write_jsonl: Write) -> None:
    path = write_jsonl(line("what", "yes", ["hard no"], ["random no"]))
    (hard,) = load_pairs(path).pairs
    (random,) = load_pairs(path, negatives=RANDOM).pairs
    assert (hard.pair_id, hard.query_id, hard.query_text) == ("line1:0", "line1", "what")
    assert (hard.positive_text, hard.negative_text, hard.negative_kind) == ("yes", "hard no", "hard")
    assert (random.negative_text, random.negative_kind) == ("random no", "random")


def test_blank_lines_byte_order_mark_windows_line_ends_and_gzip_change_nothing(tmp_path: Path) -> None:
    plain, odd, packed = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"))
    content = json.dumps(line("été", "naïve"), ensure_ascii=False)
    plain.write_text(content + "\n", encoding="utf-8")
    odd.write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\r\n\r\n  \n")
    packed.write_bytes(gzip.compress(content.encode()))
    pairs = load_pairs(plain).pairs
    assert load_pairs(odd).pairs == pairs
    assert load_pairs(packed).pairs == pairs
    assert pairs[0].query_text == "été"


def test_a_line_separator_inside_a_string_does_not_end_the_line(write_jsonl: Write) -> None:
    record = json.dumps(line(positive="one\u2028two\x85three"), ensure_ascii=False)
    (pair,) = load_pairs(write_jsonl(record)).pairs
    assert pair.positive_text == "one\u2028two\x85three"


# --- sampling


def many_lines(n: int = 30) -> list[dict[str, Any]]:
    return [line(f"query {i}", f"pos {i}", [f"neg {i} {k}" for k in range(5)]) for i in range(n)]


def chosen(pairs: PairSet) -> dict[str, str]:
    return {p.query_text: p.negative_text for p in pairs.pairs}


def test_limit_and_the_order_of_lines_change_no_querys_negative(write_jsonl: Write) -> None:
    records = many_lines()
    whole = chosen(load_pairs(write_jsonl(*records)))
    turned = chosen(load_pairs(write_jsonl(*reversed(records), name="turned.jsonl")))
    first = chosen(load_pairs(write_jsonl(*records), limit=7))
    assert turned == whole
    assert first == {f"query {i}": whole[f"query {i}"] for i in range(7)}


def test_another_seed_draws_other_negatives_and_the_same_seed_the_same(write_jsonl: Write) -> None:
    path = write_jsonl(*many_lines())
    assert load_pairs(path).sha256 == load_pairs(path).sha256
    assert chosen(load_pairs(path)) != chosen(load_pairs(path, negatives=NegativeSampling(seed=1)))


def test_each_of_five_negatives_is_drawn_about_as_often(write_jsonl: Write) -> None:
    records = many_lines(500)
    places = Counter(p.pair_id.split(":")[1] for p in load_pairs(write_jsonl(*records)).pairs)
    # 500 fair draws of 5: mean 100, standard deviation 8.9; four and a half of them either way
    assert set(places) == set("01234")
    assert all(60 <= count <= 140 for count in places.values())


def test_more_negatives_a_query_are_the_fewer_ones_and_others_without_repetition(write_jsonl: Write) -> None:
    path = write_jsonl(*many_lines())
    one = load_pairs(path).pairs
    three = load_pairs(path, negatives=NegativeSampling(per_query=3)).pairs
    assert len({(p.query_id, p.negative_text) for p in three}) == len(three) == 90
    assert len({p.pair_id for p in three}) == 90
    assert set(one) <= set(three)


def test_limit_counts_pairs_and_reads_no_further(write_jsonl: Write) -> None:
    path = write_jsonl(*many_lines(3), "not json")
    pairs = load_pairs(path, negatives=NegativeSampling(per_query=2), limit=5).pairs
    assert [p.query_text for p in pairs] == ["query 0", "query 0", "query 1", "query 1", "query 2"]
    with pytest.raises(InputError, match="line 4"):
        load_pairs(path)


# --- refusals


def refusals(pairs: PairSet) -> list[tuple[str, str]]:
    return [(refusal.pair_id, refusal.reason) for refusal in pairs.refused]


@pytest.mark.parametrize(
    ("record", "refusal"),
    [
        (line(query=" \n"), ("line1", "empty_query")),
        (line(query="x" * 5_000), ("line1", "query_too_long")),
        (line(positive=" \x00 "), ("line1", "empty_document")),
        (line(hard=["\t"]), ("line1:0", "empty_document")),
        (line(positive="a  b\n", hard=["a b"]), ("line1:0", "positive_equals_negative")),
        (line(hard=[]), ("line1", "no_hard_negative")),
        (line(hard=None), ("line1", "no_hard_negative")),
    ],
)
def test_an_unusable_line_is_refused_with_its_reason_and_the_next_is_used(
    write_jsonl: Write, record: dict[str, Any], refusal: tuple[str, str]
) -> None:
    pairs = load_pairs(write_jsonl(record, line("good")))
    assert refusals(pairs) == [refusal]
    assert [p.query_text for p in pairs.pairs] == ["good"]
    assert "line" in pairs.refused[0].detail


def test_a_missing_list_is_a_refusal_only_for_its_own_kind(write_jsonl: Write) -> None:
    record = {"query": "q", "positive_document": "p", "hard_negative_document": ["n"]}
    path = write_jsonl(record, line("other"))
    assert len(load_pairs(path).pairs) == 2
    assert refusals(load_pairs(path, negatives=RANDOM)) == [("line1", "no_random_negative")]


def test_a_refused_negative_is_replaced_by_another_of_the_same_query(write_jsonl: Write) -> None:
    path = write_jsonl(line(positive="p", hard=["p", " ", "P ", "good"]))
    for seed in range(20):
        pairs = load_pairs(path, negatives=NegativeSampling(seed=seed))
        assert [p.negative_text for p in pairs.pairs] in (["good"], ["P"])
        assert len(pairs.refused) == len({refusal.pair_id for refusal in pairs.refused}) <= 2


def test_too_few_negatives_are_said(write_jsonl: Write) -> None:
    pairs = load_pairs(write_jsonl(line(hard=["a", "b"])), negatives=NegativeSampling(per_query=3))
    assert len(pairs.pairs) == 2
    assert refusals(pairs) == [("line1", "too_few_negatives")]
    assert pairs.refused[0].detail == "3 asked for, 2 found"


def test_the_same_query_twice_has_two_ids_and_the_same_pair_twice_is_refused(write_jsonl: Write) -> None:
    pairs = load_pairs(write_jsonl(line(), line(hard=["m"]), line(query="q ", positive=" p")))
    assert [p.query_id for p in pairs.pairs] == ["line1", "line2"]
    assert refusals(pairs) == [("line3:0", "duplicate")]
    assert "line1:0" in pairs.refused[0].detail


def test_a_megabyte_document_is_cut_and_counted(write_jsonl: Write) -> None:
    huge = "word " * 200_000
    pairs = load_pairs(
        write_jsonl(line(positive=huge, hard=["n", huge + "!", "m"])), negatives=NegativeSampling(per_query=3)
    )
    assert len(pairs.pairs) == 2  # the two huge ones are the same document once they are cut
    assert refusals(pairs) == [("line1:1", "positive_equals_negative")]
    assert pairs.n_cut == 1  # the positive, once, though it is in two pairs
    assert all(len(p.positive_text) <= MAX_DOCUMENT_CHARACTERS for p in pairs.pairs)


def test_a_lone_surrogate_and_a_nul_reach_no_tokenizer(write_jsonl: Write) -> None:
    raw = '{"query": "q\\ud800", "positive_document": "a\\u0000b", "hard_negative_document": ["\\udfff"]}'
    (pair,) = load_pairs(write_jsonl(raw)).pairs
    assert (pair.query_text, pair.positive_text, pair.negative_text) == ("q\ufffd", "a b", "\ufffd")


def test_when_nothing_is_usable_the_error_counts_the_reasons(write_jsonl: Write) -> None:
    path = write_jsonl(line(hard=[]), line(hard=[]), line(query=""))
    with pytest.raises(InputError, match=r"no usable pair \(2 no_hard_negative, 1 empty_query"):
        load_pairs(path)


# --- errors


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ('{"query": "a"', ["line 2", "not valid JSON"]),
        ('["a"]', ["line 2", "JSON list", "one JSON object"]),
        ("[" * 100_000, ["line 2"]),
        ('{"query": ' + "1" * 5_000 + "}", ["line 2"]),
        ({"positive_document": "p"}, ["line 2", '"query"', "missing"]),
        ({"query": "q", "hard_negative_document": ["n"]}, ["line 2", '"positive_document"', "missing"]),
        (line(query=3), ["line 2", '"query"', "string", "number"]),  # type: ignore[arg-type]
        (line(positive=["p"]), ["line 2", '"positive_document"', "list"]),  # type: ignore[arg-type]
        (line(hard="n"), ["line 2", '"hard_negative_document"', '["..."]']),
        (line(hard=["n", 7]), ["line 2", '"hard_negative_document[1]"', "number"]),
        (line(random=["n", None]), ["line 2", '"random_negative_document[1]"', "null"]),
    ],
)
def test_a_malformed_line_names_file_line_and_field(write_jsonl: Write, record: Any, told: list[str]) -> None:
    path = write_jsonl(line(), record)
    with pytest.raises(InputError) as error:
        load_pairs(path)
    assert "\n" not in str(error.value)
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_a_file_that_is_not_utf8_is_told_with_line_and_byte(write_jsonl: Write) -> None:
    first = json.dumps(line()).encode()
    path = write_jsonl(first, '{"query": "café"}'.encode("latin-1"))
    # the second line begins after the first and its line feed; é is its 15th byte
    with pytest.raises(InputError, match=rf"line 2: byte {len(first) + 1 + 14} .*UTF-8"):
        load_pairs(path)


def test_a_utf16_file_is_refused_with_the_encoding_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(line()), encoding="utf-16")
    with pytest.raises(InputError, match=r"line 1: byte 0 .*UTF-8"):
        load_pairs(path)


def test_a_damaged_gzip_file_an_empty_file_and_a_missing_one_are_told(tmp_path: Path) -> None:
    damaged, empty = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"
    damaged.write_bytes(gzip.compress(json.dumps(line()).encode() * 100)[:-20])
    empty.touch()
    for path, told in ((damaged, "cannot be read"), (empty, "no queries"), (tmp_path / "c.jsonl", "no such")):
        with pytest.raises(InputError, match=told):
            load_pairs(path)


# --- robustness

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(ANY_TEXT, value, max_size=3),
    max_leaves=5,
)
FIELD = ANY_TEXT | JSON_VALUE
RECORD = st.fixed_dictionaries(
    {"query": FIELD, "positive_document": FIELD},
    optional={
        "hard_negative_document": st.lists(ANY_TEXT, max_size=4) | JSON_VALUE,
        "random_negative_document": st.lists(ANY_TEXT, max_size=4) | JSON_VALUE,
    },
)


def load_or_refuse(content: bytes, per_query: int = 1) -> PairSet | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_bytes(content)
        try:
            return load_pairs(path, negatives=NegativeSampling(per_query=per_query))
        except InputError as error:
            message = str(error)
    message.encode("utf-8")
    assert "\n" not in message
    return None


def check_texts(pairs: PairSet) -> None:
    assert len({p.pair_id for p in pairs.pairs}) == len(pairs.pairs) >= 1
    for p in pairs.pairs:
        for text in (p.query_text, p.positive_text, p.negative_text):
            text.encode("utf-8")
            assert text == text.strip() != ""
            assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
        assert p.positive_text.split() != p.negative_text.split()


@settings(deadline=None)
@given(
    st.lists(st.builds(line, ANY_TEXT, ANY_TEXT, st.lists(ANY_TEXT, max_size=4)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(1, 3),
)
def test_every_well_formed_file_gives_usable_pairs_or_counts_why_not(
    records: list[dict[str, Any]], escaped: bool, per_query: int
) -> None:
    lines = [json.dumps(record, ensure_ascii=escaped) for record in records]
    content = "\n".join(lines).encode("utf-8", errors="replace")
    pairs = load_or_refuse(content, per_query)
    if pairs is not None:
        check_texts(pairs)
        # each line either gave all its pairs or something of it was refused
        for number in range(1, len(records) + 1):
            query_id = f"line{number}"
            made = sum(p.query_id == query_id for p in pairs.pairs)
            refused = sum(r.pair_id.split(":")[0] == query_id for r in pairs.refused)
            assert made == per_query or refused


@settings(deadline=None)
@given(st.lists(RECORD | JSON_VALUE, min_size=1, max_size=3))
def test_any_json_loads_or_is_an_input_error(records: list[Any]) -> None:
    pairs = load_or_refuse("\n".join(json.dumps(record) for record in records).encode())
    if pairs is not None:
        check_texts(pairs)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_an_input_error(content: bytes) -> None:
    assert load_or_refuse(content) is None or content


def test_a_surrogate_in_a_field_can_be_printed_in_the_error(write_jsonl: Write) -> None:
    path = write_jsonl('{"query": "q", "positive_document": {"\\ud800": 1}}')
    with pytest.raises(InputError) as error:
        load_pairs(path)
    str(error.value).encode("utf-8")


def test_the_published_pairs_load_as_they_are(shared_data: Path) -> None:
    path = shared_data / "msmarco-pairs.jsonl"
    for kind in ("hard", "random"):
        pairs = load_pairs(path, negatives=NegativeSampling(kind=kind, per_query=2))  # type: ignore[arg-type]
        assert len(pairs.pairs) == 200
        assert pairs.refused == ()
        assert pairs.n_cut == 0
