"""When the disk is full or the folder cannot be written: one clear error, and nothing damaged."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_study
import pytest

from relscope.errors import InputError
from relscope.results import Run, RunError, create_or_resume, open_run
from relscope.results.files import make_folder, write_whole

ROWS = fake_study.measure(fake_study.planned().query("experiment == 'heads'"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = create_or_resume(tmp_path / "run", fake_study.manifest())
    opened.write_part("heads", ROWS.iloc[:10])
    return opened


class FullDisk:
    """A file that takes some bytes and then has no room left."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def break_disk(patch: pytest.MonkeyPatch, where: str) -> None:
    if where == "write":
        patch.setattr("relscope.results.files.open", FullDisk, raising=False)
    else:
        patch.setattr(os, where, failing(errno.ENOSPC))


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_gives_an_error_and_leaves_no_part_and_the_run_goes_on_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    names = sorted(os.listdir(run.directory / "rows"))
    with monkeypatch.context() as patch:
        break_disk(patch, where)
        with pytest.raises(RunError, match=r"heads-00001\.parquet: the disk is full") as caught:
            run.write_part("heads", ROWS.iloc[10:])
    assert isinstance(caught.value, InputError)  # the command line prints it in one line
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(run.directory / "rows")) == names
    assert len(open_run(run.directory).rows()) == 10
    run.write_part("heads", ROWS.iloc[10:])
    assert len(open_run(run.directory).rows()) == len(ROWS)


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_manifest_whole(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    complete = run.manifest.model_copy(update={"status": "complete"})
    with monkeypatch.context() as patch:
        break_disk(patch, where)
        with pytest.raises(RunError, match=r"manifest\.json: the disk is full"):
            run.save_manifest(complete)
    assert run.manifest.status == "running"
    assert open_run(run.directory).manifest == run.manifest


def test_a_part_whose_folder_could_not_be_flushed_is_not_written_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("relscope.results.run.sync_folder", lambda _: write_whole(Path("/dev/null/x"), b""))
        with pytest.raises(RunError):
            run.write_part("heads", ROWS.iloc[10:20])
    with pytest.raises(InputError, match="is stored already"):
        run.write_part("heads", ROWS.iloc[10:20])
    run.write_part("heads", ROWS.iloc[20:])
    assert len(run.rows()) == len(ROWS)


def test_an_interrupt_while_a_part_is_written_leaves_none_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.write_part("heads", ROWS.iloc[10:])
    assert sorted(os.listdir(run.directory / "rows")) == ["heads-00000.parquet"]
    run.write_part("heads", ROWS.iloc[10:])
    assert len(run.rows()) == len(ROWS)


def test_a_disk_that_really_takes_no_more_bytes_gives_the_error_and_a_sound_run(tmp_path: Path) -> None:
    # A file size limit makes the kernel itself refuse the rest of a file, after some of it was written.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    program = subprocess.run(
        [sys.executable, fake_study.__file__, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert program.returncode == 1
    assert "RunError" in program.stderr
    assert "cannot be written (File too large)" in program.stderr
    assert [path.name for path in (tmp_path / "run").rglob("*.partial")] == []
    fake_study.run(tmp_path / "run")
    assert len(open_run(tmp_path / "run").rows()) == len(fake_study.planned())


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot make this folder"):
        create_or_resume(tmp_path / "file" / "run", fake_study.manifest())
    with pytest.raises(InputError, match="is a file; give a folder"):
        create_or_resume(tmp_path / "file", fake_study.manifest())


def test_a_folder_without_permission_gives_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # chmod does not stop root, so the refusal is made by hand.
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EACCES))
        with pytest.raises(RunError, match=r"\.lock: cannot be written \(Permission denied\)"):
            create_or_resume(tmp_path / "run", fake_study.manifest())
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing(errno.EACCES))
        with pytest.raises(RunError, match=r"run: cannot be read \(Permission denied\)"):
            create_or_resume(tmp_path / "run", fake_study.manifest())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing(errno.EROFS))
        with pytest.raises(RunError, match="Read-only file system"):
            make_folder(tmp_path / "other")


def test_rows_taken_away_under_a_run_are_an_error_and_not_an_empty_run(run: Run) -> None:
    (run.directory / "rows").rename(run.directory / "elsewhere")
    with pytest.raises(RunError, match="rows: cannot be read"):
        run.rows()
    with pytest.raises(RunError, match="cannot be written"):
        run.write_part("heads", ROWS.iloc[10:])


def test_a_disk_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relscope.results.files._lock", failing(errno.ENOLCK))
    with pytest.warns(RuntimeWarning, match="offers no locks"):
        create_or_resume(tmp_path / "run", fake_study.manifest()).close()
