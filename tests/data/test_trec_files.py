"""TREC files: folders, specifications, topic formats, runs, and how each malformed line is told."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscope.data import load_beir, load_collection, load_pairs, load_trec
from relscope.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures"
CLASSIC_TOPICS = """\
<top>
<num> Number: 1
<title> how long to boil
 lentils
<desc> Description:
Not part of the query.
</top>

<top><num>2</num><title>Topic: what did a lighthouse keeper do</title></top>
<TOP>
<num> Number:  3
<dom> Domain: Tools
<title> Topic:  sharpen a pencil
</TOP>
"""


@pytest.fixture
def folder(trec_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trec_folder, tmp_path / "lentils")


def test_the_same_collection_as_trec_files_and_as_a_beir_folder_is_the_same(folder: Path, beir_folder: Path) -> None:
    trec, beir = load_trec(folder), load_beir(beir_folder)
    assert (trec.queries, trec.documents, trec.qrels) == (beir.queries, beir.documents, beir.qrels)
    assert load_pairs(folder).sha256 == load_pairs(beir_folder).sha256


def test_classic_topics_give_their_titles(folder: Path) -> None:
    plain = load_trec(folder)
    (folder / "topics.tsv").unlink()
    (folder / "topics.txt").write_text(CLASSIC_TOPICS)
    assert load_trec(folder) == plain


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("</top>\n\n", "", r"line 1: .*no </top>"),
        ("<title> how long to boil\n lentils\n", "", "line 1: .*no <title>"),
        ("<num> Number:  3\n", "", "line 10: .*no <num>"),
        ("<top><num>2", "<num>2", "line 9: this </top> has no <top>"),
        ("Number:  3", "Number:  2", 'the query id "2" occurs twice'),
    ],
)
def test_a_broken_classic_topic_is_told_with_its_first_line(folder: Path, old: str, new: str, told: str) -> None:
    (folder / "topics.tsv").unlink()
    assert old in CLASSIC_TOPICS
    (folder / "topics.txt").write_text(CLASSIC_TOPICS.replace(old, new, 1))
    with pytest.raises(InputError, match=told):
        load_trec(folder)


def test_what_only_looks_like_a_tag_stays_in_the_title(folder: Path) -> None:
    (folder / "topics.tsv").unlink()
    (folder / "topics.txt").write_text(
        "<top>\n<num> 1 </num>\n<title> is a<b and c>d true\n<description lang='en'>\nNo.\n</top>\n"
    )
    assert load_trec(folder).queries == {"1": "is a<b and c>d true"}


def test_a_specification_names_files_relative_to_itself(folder: Path) -> None:
    specification = folder.parent / "study.yaml"
    specification.write_text(
        "topics: lentils/topics.tsv\nqrels: lentils/qrels.txt\npassages: lentils/passages.tsv\nname: soup\n"
    )
    collection = load_collection(specification)
    assert collection.name == "soup"
    assert collection.documents == load_trec(folder).documents
    as_json = folder.parent / "study.json"
    as_json.write_text('{"topics": "lentils/topics.tsv", "qrels": "lentils/qrels.txt",\n'
                       '"passages": "lentils/passages.tsv"}')  # fmt: skip
    assert load_collection(as_json).name == "study"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("topic: a\n", "unknown key \"topic\": did you mean 'topics'"),
        ("topics: a\nqrels: b\n", 'key "passages" is missing'),
        ("topics: [a]\n", 'key "topics": must be a file name'),
        ("- a\n", "must hold the keys"),
        ("topics: {\n", "not valid YAML"),
    ],
)
def test_a_wrong_specification_is_told_by_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as error:
        load_collection(path)
    assert str(path) in str(error.value)


def test_a_file_that_the_specification_names_but_is_not_there_is_told(folder: Path) -> None:
    path = folder.parent / "s.yaml"
    path.write_text("topics: nowhere.tsv\nqrels: lentils/qrels.txt\npassages: lentils/passages.tsv\n")
    with pytest.raises(InputError, match=r"nowhere\.tsv: there is no such file"):
        load_collection(path)


def test_a_run_is_ordered_by_value_then_rank_whatever_the_order_of_its_lines(folder: Path) -> None:
    (folder / "run.txt").write_text(
        "1 Q0 D2 1 0.5 tag\n1 Q0 D4 3 9.5 tag\n1 Q0 D12 2 0.5 tag\n1 Q0 D7 4 -1e3 tag\n2 Q0 D5 1 1 tag\n"
    )
    run = load_trec(folder).run
    # by hand: 9.5, then the two 0.5 by rank 1 and 2, then -1000
    assert run == {"1": ["D4", "D2", "D12", "D7"], "2": ["D5"]}


def test_gzipped_files_are_read_alike(folder: Path) -> None:
    plain = load_trec(folder)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_collection(folder) == plain


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("passages.tsv", "D13 no tab", r"line 13: must be the document's id, a tab"),
        ("passages.tsv", "\tno id", r"line 13: the document's id is empty"),
        ("passages.tsv", "D1\tagain", r'line 13: the document id "D1" occurs twice'),
        ("topics.tsv", "four", r"line 4: must be the query's id, a tab"),
        ("qrels.txt", "1 D4 0", r"line 8: must have 4 columns \(query 0 document grade\), but has 3"),
        ("qrels.txt", "1 0 D4 1.5", r'line 8: the grade \(column 4\).*"1.5"'),
        ("qrels.txt", "1 0 D1 0", r"line 8: document \"D1\" is judged twice.* 2 and 0"),
        ("run.txt", "1 D4 1 0.5", r"line 1: must have 6 columns"),
        ("run.txt", "1 Q0 D4 first 0.5 t", r"line 1: the rank \(column 4\)"),
        ("run.txt", "1 Q0 D4 1 nan t", r'line 1: the value \(column 5\).*"nan"'),
        ("run.txt", "1 Q0 D4 1 1 t\n1 Q0 D4 2 0 t", r'line 2: document "D4" is ranked twice'),
    ],
)
def test_a_malformed_line_names_file_line_and_column(folder: Path, name: str, line: str, told: str) -> None:
    with (folder / name).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=told) as error:
        load_trec(folder)
    assert str(folder / name) in str(error.value)


@settings(deadline=None)
@given(
    name=st.sampled_from(["passages.tsv", "topics.tsv", "qrels.txt", "run.txt"]),
    tail=st.binary(max_size=80) | st.text(st.sampled_from("1 \t\n<>/topnumtile"), max_size=80).map(str.encode),
)
def test_any_bytes_in_any_file_load_or_are_an_input_error(name: str, tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = shutil.copytree(FIXTURES / "trec", Path(parent) / "t")
        with (folder / name).open("ab") as stream:
            stream.write(tail)
        try:
            pairs = load_pairs(folder)
        except InputError as error:
            message = str(error)
        else:
            message = " ".join(refusal.detail for refusal in pairs.refused)
            assert len(pairs.pairs) + len(pairs.refused) >= 3
    message.encode("utf-8")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["passages.tsv", "topics.tsv", "qrels.txt"])
def test_an_empty_or_missing_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\n")
    with pytest.raises(InputError, match="holds no"):
        load_trec(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_trec(folder)


def test_two_files_for_one_part_are_ambiguous(folder: Path) -> None:
    shutil.copy(folder / "topics.tsv", folder / "topics.txt")
    with pytest.raises(InputError, match=r"topics\.tsv and topics\.txt; keep one"):
        load_trec(folder)
