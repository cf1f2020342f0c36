"""The folder of an ablation: rows come back, other settings and shared queries are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relscope.errors import InputError
from relscope.results import (
    QueryRecord,
    RunError,
    SideRecord,
    create_or_resume_ablation,
    identity_hash,
    is_ablation,
    read_ablation_header,
    read_ablation_qrels,
    read_ablation_rows,
)
from synthetic_ablation import CONDITIONS, ablation_header, write_synthetic_ablation


def test_header_rows_and_grades_come_back(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 3)
    header = read_ablation_header(folder)
    assert header.status == "complete"
    assert header.conditions == CONDITIONS
    assert len(read_ablation_rows(folder, "judging")) == 3 * len(CONDITIONS)
    assert len(read_ablation_rows(folder, "ranking")) == 2 * 3 * (len(CONDITIONS) - 2)
    assert read_ablation_qrels(folder) == {f"q{n}": {"right": 1} for n in range(3)}
    assert is_ablation(folder)
    assert not is_ablation(tmp_path)


def test_other_settings_are_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 3)
    with pytest.raises(InputError, match="holds an ablation of other settings: n: 3 in the folder, 4 now"):
        create_or_resume_ablation(folder, ablation_header(4))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt' and no ablation.json"):
        create_or_resume_ablation(tmp_path, ablation_header())
    with pytest.raises(InputError, match="not the folder of an ablation"):
        read_ablation_header(tmp_path)


def test_another_writer_is_kept_out(tmp_path: Path) -> None:
    with create_or_resume_ablation(tmp_path / "a", ablation_header()), pytest.raises(RunError, match="another process"):
        create_or_resume_ablation(tmp_path / "a", ablation_header())


@pytest.mark.parametrize("data", ["here", "elsewhere"])
def test_a_query_on_both_sides_is_refused(data: str) -> None:
    text = ablation_header().evaluation.queries[1].query_text
    side = SideRecord(data=data, queries=(QueryRecord(query_id="x", query_text=text),))
    with pytest.raises(ValueError, match="is both selected by and evaluated on"):
        ablation_header(selection=side)


@pytest.mark.parametrize("data", ["here", "elsewhere"])  # two files may have one name
def test_an_id_with_another_text_is_another_query(data: str) -> None:
    side = SideRecord(data=data, queries=(QueryRecord(query_id="q0", query_text="a text of its own"),))
    assert ablation_header(selection=side).selection == side


def test_a_header_changed_by_hand_is_refused(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 3)
    path = folder / "ablation.json"
    content = json.loads(path.read_text())
    content["identity"]["n"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="identity_hash does not belong to identity"):
        read_ablation_header(folder)
    assert identity_hash(content["identity"]) != content["identity_hash"]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 3)
    (folder / "rows" / "judging-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"judging-00002.parquet: damaged"):
        read_ablation_rows(folder, "judging")
