"""LDs that are kept as they are measured: read back exactly, and no half of a line believed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from relscope.errors import InputError
from relscope.results import Asked, RunError, Verdicts

IDENTITY = {"model": {"name": "m"}, "prompt": {"order": "dqi"}, "data": {"texts_sha256": "1"}}
LDS = {("q1", "d1"): 0.1, ("q1", "d2"): -3.0000002384185791, ("q 2", "ü", "d1"): 2.5}


def sha256_of(prompt: Asked) -> str:
    return f"of {prompt}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run.trec.verdicts"
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        verdicts.add(LDS)
    return folder


def test_what_was_stored_is_known_when_it_is_opened_again(folder: Path) -> None:
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        assert verdicts.known == LDS
        verdicts.add({("q3", "d1"): 1.0})
        assert verdicts.known == LDS | {("q3", "d1"): 1.0}
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        assert verdicts.known == LDS | {("q3", "d1"): 1.0}


@pytest.mark.parametrize("n_bytes", [1, 5, 30])
def test_half_a_line_of_a_killed_process_is_cut_off_and_others_follow_it_whole(folder: Path, n_bytes: int) -> None:
    path = folder / "verdicts.jsonl"
    path.write_bytes(path.read_bytes()[:-n_bytes])
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        assert verdicts.known == {key: ld for key, ld in LDS.items() if key[0] == "q1"}
        verdicts.add({("q3", "d1"): 1.0})
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        assert list(verdicts.known) == [("q1", "d1"), ("q1", "d2"), ("q3", "d1")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"query_id": "q1", "documents": ["d1"]}',
        '{"query_id": "q", "ld": 1}',
        '{"query_id": "q", "documents": ["d"], "ld": 1}',
    ],
)
def test_a_damaged_line_is_named(folder: Path, line: str) -> None:
    path = folder / "verdicts.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunError, match=r"verdicts\.jsonl, line 1: damaged"):
        Verdicts(folder, IDENTITY, sha256_of)


def test_other_settings_are_refused_and_named_without_the_checksum_that_follows(folder: Path) -> None:
    other = {"model": {"name": "m"}, "prompt": {"order": "qdi"}, "data": {"texts_sha256": "2"}}
    with pytest.raises(InputError) as refused:
        Verdicts(folder, other, sha256_of)
    assert 'prompt.order: "dqi" in the folder, "qdi" now' in str(refused.value)
    assert "texts_sha256" not in str(refused.value)
    with pytest.raises(InputError, match="texts_sha256"):
        Verdicts(folder, {**IDENTITY, "data": {"texts_sha256": "2"}}, sha256_of)


def test_a_verdict_on_other_tokens_is_named_and_one_that_is_not_asked_now_stays(folder: Path) -> None:
    with Verdicts(folder, IDENTITY, lambda prompt: sha256_of(prompt) if prompt == ("q1", "d1") else None) as verdicts:
        assert verdicts.known == LDS
    with pytest.raises(
        InputError, match=r'jsonl, line 3: query "q 2", document ü and d1: the texts or the tokenizer are'
    ):
        Verdicts(folder, IDENTITY, lambda prompt: "other" if prompt[0] == "q 2" else sha256_of(prompt))
    assert Verdicts(folder, IDENTITY, sha256_of).known == LDS  # the refusal let go of the folder


def test_two_writers_at_once_are_refused(folder: Path) -> None:
    with Verdicts(folder, IDENTITY, sha256_of), pytest.raises(RunError, match="another process writes"):
        Verdicts(folder, IDENTITY, sha256_of)


def test_an_ld_that_is_not_finite_is_refused_and_nothing_is_written(folder: Path) -> None:
    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        with pytest.raises(InputError, match='query "q3", document d1 and d2: LD is nan'):
            verdicts.add({("q4", "d1", "d2"): 1.0, ("q3", "d1", "d2"): float("nan")})
        assert verdicts.known == LDS
    assert Verdicts(folder, IDENTITY, sha256_of).known == LDS


def test_a_full_disk_leaves_what_was_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Verdicts(folder, IDENTITY, sha256_of) as verdicts:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(RunError, match="the disk is full"):
                verdicts.add({("q3", "d1"): 1.0})
        assert verdicts.known == LDS
    assert Verdicts(folder, IDENTITY, sha256_of).known == LDS


def test_a_folder_of_other_things_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt' and no manifest.json"):
        Verdicts(tmp_path, IDENTITY, sha256_of)
    with pytest.raises(InputError, match="is a file"):
        Verdicts(tmp_path / "notes.txt", IDENTITY, sha256_of)
    (tmp_path / "empty").mkdir()
    with Verdicts(tmp_path / "empty", IDENTITY, sha256_of) as verdicts:
        assert verdicts.known == {}
