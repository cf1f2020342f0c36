"""Which reader a source gets, what is told about one that none can read, and what importing loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relscope.data import load_collection, load_pairs
from relscope.errors import InputError


def test_demo_is_the_bundled_collection_unless_it_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_collection("demo").name == "demo"
    (tmp_path / "demo").mkdir()
    assert load_collection("demo").name == "demo"
    for source in ("./demo", Path("demo")):
        with pytest.raises(InputError, match="demo: not a kind of data"):
            load_collection(source)


def test_a_path_and_its_string_are_the_same_source(beir_folder: Path) -> None:
    assert load_pairs(beir_folder) == load_pairs(str(beir_folder)) == load_pairs(f"{beir_folder}:test")


def test_a_source_that_is_not_there_is_told_with_the_choices(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", f"{tmp_path}/nowhere:test", "demo2"):
        with pytest.raises(InputError, match='there is no such data; give "demo", a file of pairs'):
            load_pairs(source)


def test_a_file_or_folder_of_another_kind_is_told_with_the_choices(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for source in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="not a kind of data that can be read; give"):
            load_pairs(source)


def test_a_split_of_what_is_no_beir_folder_is_refused(trec_folder: Path) -> None:
    with pytest.raises(InputError, match='":dev" chooses a split of a BEIR folder'):
        load_collection(f"{trec_folder}:dev")


def test_importing_the_room_loads_no_heavy_package() -> None:
    program = (
        "import sys, relscope.data\n"
        "heavy = {'torch', 'transformers', 'bm25s', 'Stemmer', 'pandas', 'numpy', 'ir_datasets', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
