"""Data sets of the ir_datasets catalogue, without network: files of ours registered in its registry."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from relscope.data import NegativeSampling, first_stage, load_collection, load_pairs, load_trec
from relscope.data.irds import StoredDocuments
from relscope.errors import InputError

ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is an optional extra")
NUMBERS = count()


@pytest.fixture
def files(trec_folder: Path, tmp_path: Path) -> Path:
    # a copy, because ir_datasets builds its document store beside the passages
    return shutil.copytree(trec_folder, tmp_path / "files")


def register(*parts: Any) -> str:
    dataset_id = f"relscope-test/{next(NUMBERS)}"
    ir_datasets.registry.register(dataset_id, ir_datasets.Dataset(*parts))
    return dataset_id


@pytest.fixture
def source(files: Path) -> Iterator[str]:
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(files / "passages.tsv"),
        queries_tsv=str(files / "topics.tsv"),
        qrels_trec=str(files / "qrels.txt"),
    )
    return "ir_datasets:" + register(dataset)


def local(path: Path) -> Any:
    return ir_datasets.util.LocalDownload(path)


def test_a_data_set_gives_the_same_collection_as_its_files(source: str, files: Path) -> None:
    collection, trec = load_collection(source), load_trec(files)
    assert collection.name == source
    assert collection.queries == trec.queries
    assert collection.qrels == trec.qrels
    assert collection.run is None
    assert dict(collection.documents) == trec.documents
    assert dict(collection.documents.items()) == trec.documents
    assert list(collection.document_ids()) == list(trec.documents)


@pytest.mark.parametrize("kind", ["hard", "random"])
def test_a_data_set_gives_the_same_pairs_as_its_files(source: str, files: Path, kind: Any) -> None:
    for seed in range(5):
        sampling = NegativeSampling(kind=kind, per_query=2, seed=seed)
        assert load_pairs(source, negatives=sampling).sha256 == load_pairs(files, negatives=sampling).sha256


def test_scoreddocs_are_the_run_and_then_documents_are_only_looked_up(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "top.txt").write_text(
        "1 Q0 D12 1 0.5 t\n1 Q0 D1 2 0.9 t\n1 Q0 D8 3 0.7 t\n2 Q0 D5 1 1 t\n3 Q0 D11 1 1 t\n7 Q0 D11 1 1 t\n"
    )
    dataset_id = register(
        ir_datasets.formats.TsvDocs(local(files / "passages.tsv")),
        ir_datasets.formats.TsvQueries(local(files / "topics.tsv")),
        ir_datasets.formats.TrecQrels(local(files / "qrels.txt"), {}),
        ir_datasets.formats.TrecScoredDocs(local(files / "top.txt")),
    )
    for name in ("__iter__", "stream"):
        monkeypatch.delattr(StoredDocuments, name)
    monkeypatch.setattr(StoredDocuments, "__abstractmethods__", frozenset())
    collection = load_collection("ir_datasets:" + dataset_id)
    assert collection.run == {"1": ["D1", "D8", "D12"], "2": ["D5"], "3": ["D11"]}
    (files / "run.txt").write_bytes((files / "top.txt").read_bytes())
    assert load_pairs("ir_datasets:" + dataset_id).pairs == load_pairs(files).pairs


@pytest.mark.parametrize(("lines", "ordered"), [("1\tD12\n1\tD1\n2\tD5\n", False), ("1 D12 0.5\n1 D1 0.9\n", True)])
def test_scoreddocs_without_scores_are_a_run_without_an_order(files: Path, lines: str, ordered: bool) -> None:
    (files / "top.txt").write_text(lines)
    dataset_id = register(
        ir_datasets.formats.TsvDocs(local(files / "passages.tsv")),
        ir_datasets.formats.TsvQueries(local(files / "topics.tsv")),
        ir_datasets.formats.TrecQrels(local(files / "qrels.txt"), {}),
        ir_datasets.formats.TrecScoredDocs(local(files / "top.txt")),
    )
    collection = load_collection("ir_datasets:" + dataset_id)
    assert collection.run_is_ordered is ordered
    if ordered:
        assert first_stage(collection).rankings["1"] == ("D1", "D12")
    else:
        with pytest.raises(InputError, match="names documents without ranking them"):
            first_stage(collection)


def test_ids_of_a_store_are_a_sequence(source: str) -> None:
    ids = load_collection(source).document_ids()
    assert (len(ids), ids[0], ids[11], ids[2:4]) == (12, "D1", "D12", ["D3", "D4"])
    with pytest.raises(KeyError):
        load_collection(source).documents["D99"]


def test_a_document_judged_twice_has_its_highest_grade(files: Path) -> None:
    (files / "qrels.txt").write_text("1 a D1 1\n1 b D1 2\n1 a D3 0\n1 b D3 -1\n")
    dataset_id = register(
        ir_datasets.formats.TsvDocs(local(files / "passages.tsv")),
        ir_datasets.formats.TsvQueries(local(files / "topics.tsv")),
        ir_datasets.formats.TrecSubQrels(local(files / "qrels.txt"), {}),
    )
    collection = load_collection("ir_datasets:" + dataset_id)
    assert collection.qrels == {"1": {"D1": 2, "D3": 0}}
    assert list(collection.queries) == ["1"]


def test_an_unknown_id_is_told_with_the_nearest_ones() -> None:
    with pytest.raises(InputError, match=r"knows no such id; did you mean .*vaswani"):
        load_collection("ir_datasets:vaswanii")


def test_a_data_set_without_qrels_is_refused(files: Path) -> None:
    dataset_id = register(ir_datasets.formats.TsvDocs(local(files / "passages.tsv")))
    with pytest.raises(InputError, match="has no queries"):
        load_collection("ir_datasets:" + dataset_id)


def test_files_that_cannot_be_fetched_are_an_input_error(source: str, files: Path) -> None:
    (files / "qrels.txt").unlink()
    with pytest.raises(InputError, match="cannot be read or fetched"):
        load_collection(source)


def test_without_ir_datasets_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'relscope\[datasets\]'"):
        load_collection("ir_datasets:vaswani")
