"""What does `comparison.json` say of a comparison of two models, and who may write into its folder?

comparison.json                   which models, which configuration, how far it is
base/ tuned/                      the run folders of both models
into_base/ into_tuned/            run folders whose patches come from the other model
changes/heads.parquet weights.parquet
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from relscope.errors import InputError
from relscope.results.files import FolderLock, make_folder, read_json, remove_leftovers, sync_folder, write_whole
from relscope.results.manifest import identity_differences, identity_hash

COMPARISON_NAME: Final = "comparison.json"
COMPARISON_SCHEMA_VERSION: Final = 1


class ComparisonHeader(BaseModel):
    """The content of `comparison.json`.

    `identity` holds whatever changes what the numbers mean; `config` is the part of it that the user chose.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = COMPARISON_SCHEMA_VERSION
    status: Literal["running", "complete"] = "running"
    base: str
    tuned: str
    identity: dict[str, Any]
    identity_hash: str
    config: dict[str, Any]
    created: str
    relscope_version: str


class ComparisonFolder:
    """A comparison's folder, open for writing; a context manager, which keeps other processes out.

    Attributes:
        directory: the folder.
        header: as it is on disk.
    """

    def __init__(self, directory: Path, header: ComparisonHeader, lock: FolderLock) -> None:
        self.directory = directory
        self.header = header
        self._lock = lock

    def mark(self, status: Literal["running", "complete"]) -> None:
        """Say how far the comparison is."""
        if self.header.status != status:
            self._save(self.header.model_copy(update={"status": status}))

    def _save(self, header: ComparisonHeader) -> None:
        text = json.dumps(header.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
        write_whole(self.directory / COMPARISON_NAME, (text + "\n").encode())
        sync_folder(self.directory)
        self.header = header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def create_or_resume_comparison(directory: Path, header: ComparisonHeader) -> ComparisonFolder:
    """Open a folder for writing: as a new comparison, or to go on with one of the same identity.

    Raises:
        InputError: the folder holds other things, or another comparison (each differing field is named with both
            values).
        RunError: another process writes there, or the folder cannot be made or written.
    """
    _refuse_foreign_folder(directory)
    make_folder(directory)
    lock = FolderLock(directory)
    try:
        remove_leftovers(directory)
        path = directory / COMPARISON_NAME
        stored = read_header(path) if path.exists() else None
        if stored is not None and stored.identity_hash != identity_hash(header.identity):
            differences = "; ".join(identity_differences(stored.identity, header.identity))
            raise InputError(
                f"{directory}: holds another comparison: {differences}; give another folder, or the same models and "
                "settings as before"
            )
        folder = ComparisonFolder(directory, header if stored is None else stored, lock)
        if stored is None:
            folder._save(header)
        return folder
    except BaseException:
        lock.release()
        raise


def read_header(path: Path) -> ComparisonHeader:
    """The content of a `comparison.json`.

    Raises:
        InputError: the file cannot be read, is damaged, or was written by another version.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != COMPARISON_SCHEMA_VERSION:
        raise InputError(f"{path}: has schema_version {version!r}; this relscope reads {COMPARISON_SCHEMA_VERSION}")
    try:
        header = ComparisonHeader.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    if header.identity_hash != identity_hash(header.identity):
        raise InputError(f"{path}: identity_hash does not belong to identity: one of them was changed by hand")
    return header


def _refuse_foreign_folder(directory: Path) -> None:
    """Refuse a folder that is neither a comparison, nor empty, nor left by one killed before it had a header."""
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise InputError(f"{directory}: is a file; give a folder for the comparison")
    names = sorted(path.name for path in directory.iterdir())
    others = [name for name in names if not name.startswith(".")]
    if others and COMPARISON_NAME not in names:
        raise InputError(
            f"{directory}: holds {others[0]!r} and no {COMPARISON_NAME}, so it is no comparison; "
            "give a new or empty folder"
        )
