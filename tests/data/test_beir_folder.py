"""BEIR folders: what is read, which split, and how each malformed line is told."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscope.data import load_beir, load_collection, load_pairs
from relscope.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def folder(beir_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(beir_folder, tmp_path / "lentils")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_folder_gives_texts_and_grades(folder: Path) -> None:
    collection = load_collection(folder)
    assert collection.name == "lentils"
    assert list(collection.queries) == ["1", "2", "3"]
    assert len(collection.documents) == 12
    assert collection.documents["D8"] == "The harbour café opens at seven and sells fresh rolls."
    assert collection.qrels["1"] == {"D1": 2, "D3": 1, "D2": 0}
    assert collection.run is None


def test_a_title_goes_before_the_text(folder: Path) -> None:
    replace(folder / "corpus.jsonl", '"title": "", "text": "Boil', '"title": " Lentils ", "text": "Boil')
    replace(folder / "corpus.jsonl", '"title": "", "text": "Lentils', '"title": null, "text": "Lentils')
    documents = load_beir(folder).documents
    assert documents["D1"].startswith("Lentils Boil the lentils")
    assert documents["D2"].startswith("Lentils are")


def test_gzipped_files_are_read_alike(folder: Path) -> None:
    plain = load_beir(folder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        path = folder / name
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_beir(folder) == plain


def test_queries_of_other_splits_are_left_out(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\tD6\t1\n")
    assert list(load_collection(folder).queries) == ["1", "2", "3"]
    dev = load_collection(f"{folder}:dev")
    assert list(dev.queries) == ["2"]
    assert dev.qrels == {"2": {"D6": 1}}


def test_the_only_split_needs_no_name_but_one_of_two_does(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert len(load_beir(folder).queries) == 3
    shutil.copy(folder / "qrels" / "dev.tsv", folder / "qrels" / "train.tsv")
    with pytest.raises(InputError, match=r"SPLIT.*dev, train"):
        load_beir(folder)
    with pytest.raises(InputError, match=r'no split "test".*dev, train'):
        load_collection(f"{folder}:test")


def test_qrels_without_a_header_lose_no_judgement(folder: Path) -> None:
    replace(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n", "")
    assert load_beir(folder).qrels["1"] == {"D1": 2, "D3": 1, "D2": 0}


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name.partition("/")[0]):
        load_beir(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("corpus.jsonl", '"_id": "D3"', '"_id": "D2"', r'line 3, field "_id": "D2" occurs twice'),
        ("corpus.jsonl", '"_id": "D3"', '"_id": 3', r'line 3, field "_id": must be a string'),
        ("corpus.jsonl", '"_id": "D3"', '"_id": " "', r'line 3, field "_id": is empty'),
        ("corpus.jsonl", '"_id": "D3", "title": "", "text"', '"_id": "D3", "txt"', r'line 3: field "text"'),
        ("corpus.jsonl", '"title": ""', '"title": 1', r'line 1, field "title"'),
        ("queries.jsonl", '"text": "sharpen a pencil"', '"text": null', r'line 3, field "text".*null'),
        ("qrels/test.tsv", "1\tD1\t2", "1 D1 2", r"line 2: must have 3 columns with tabs"),
        ("qrels/test.tsv", "1\tD1\t2", "1\t0\tD1\t2", r"line 2: must have 3 columns"),
        ("qrels/test.tsv", "1\tD1\t2", "1\tD1\thigh", r'line 2: the grade \(column 3\).*"high"'),
        ("qrels/test.tsv", "1\tD3\t1", "1\tD1\t1", r'line 3: document "D1" is judged twice.* 2 and 1'),
    ],
)
def test_a_malformed_line_names_file_line_and_field(folder: Path, name: str, old: str, new: str, told: str) -> None:
    replace(folder / name, old, new)
    with pytest.raises(InputError, match=told) as error:
        load_beir(folder)
    assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_an_empty_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="holds no"):
        load_beir(folder)


JSON_VALUE = st.none() | st.integers() | st.text(st.characters(exclude_categories=()), max_size=20)
RECORD = st.fixed_dictionaries({"_id": JSON_VALUE, "text": JSON_VALUE}, optional={"title": JSON_VALUE})


@settings(deadline=None)
@given(
    name=st.sampled_from(["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]),
    tail=st.binary(max_size=80) | RECORD.map(lambda record: json.dumps(record).encode()),
)
def test_any_bytes_in_any_file_load_or_are_an_input_error(name: str, tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = shutil.copytree(FIXTURES / "beir", Path(parent) / "b")
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
