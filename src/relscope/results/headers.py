"""What holds a folder together that is no run: one JSON file at its head, and one writer at a time.

`comparison.json` and `ablation.json` are such headers: how far it is, what it depends on (`identity`, with its hash)
and what it is made of. A folder is opened for writing by its header's kind: a new one, or one of the same identity.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from pydantic import ValidationError

from relscope.errors import InputError
from relscope.results.files import (
    FolderLock,
    LockedFolder,
    make_folder,
    read_json,
    remove_leftovers,
    sync_folder,
    write_whole,
)
from relscope.results.manifest import identity_hash


class _Header(Protocol):
    """What every header has; the rest is its kind's own. All are frozen models of pydantic."""

    @property
    def status(self) -> Literal["running", "complete"]: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def identity_hash(self) -> str: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...
    def model_copy(self, *, update: dict[str, Any]) -> Self: ...


H = TypeVar("H", bound=_Header)


@dataclass(frozen=True)
class HeaderKind(Generic[H]):
    """One kind of header.

    Attributes:
        name: of the file.
        version: the `schema_version` that is read and written.
        noun: what the folder is called, such as "comparison".
        model: the header's class.
    """

    name: str
    version: int
    noun: str
    model: type[H]

    def read(self, path: Path) -> H:
        """The content of a header.

        Raises:
            InputError: the file cannot be read, is damaged, or was written by another version.
        """
        content = read_json(path)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != self.version:
            raise InputError(f"{path}: has schema_version {version!r}; this relscope reads {self.version}")
        try:
            header = self.model(**content)
        except ValidationError as error:
            problem = error.errors()[0]
            raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
        if header.identity_hash != identity_hash(header.identity):
            raise InputError(f"{path}: identity_hash does not belong to identity: one of them was changed by hand")
        return header

    def refuse_foreign(self, directory: Path) -> None:
        """Refuse a folder that is neither of this kind, nor empty, nor left by one killed before it had a header.

        Raises:
            InputError: names what it holds.
        """
        if not os.path.lexists(directory):
            return
        if not directory.is_dir():
            raise InputError(f"{directory}: is a file; give a folder for the {self.noun}")
        names = sorted(path.name for path in directory.iterdir())
        others = [name for name in names if not name.startswith(".")]
        if others and self.name not in names:
            raise InputError(
                f"{directory}: holds {others[0]!r} and no {self.name}, so it is no {self.noun}; "
                "give a new or empty folder"
            )


class HeaderFolder(LockedFolder, Generic[H]):
    """A folder with a header, open for writing; a context manager, which keeps other processes out.

    Args:
        kind: of the header.
        directory: the folder; made if absent.
        header: of a new folder.
        refusal_of: what a user is told of a stored header of another identity.

    Attributes:
        directory: the folder.
        header: as it is on disk.

    Raises:
        InputError: the folder holds other things, or is of another identity.
        RunError: another process writes there, or the folder cannot be made or written.
    """

    def __init__(self, kind: HeaderKind[H], directory: Path, header: H, refusal_of: Callable[[H], str]) -> None:
        self._kind, self.directory = kind, directory
        kind.refuse_foreign(directory)
        make_folder(directory)
        self._lock = FolderLock(directory)
        try:
            remove_leftovers(directory)
            path = directory / kind.name
            if path.exists():
                self.header = kind.read(path)
                if self.header.identity_hash != header.identity_hash:
                    raise InputError(refusal_of(self.header))
            else:
                self._save(header)
        except BaseException:
            self.close()
            raise

    def _save(self, header: H) -> None:
        text = json.dumps(header.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
        write_whole(self.directory / self._kind.name, (text + "\n").encode("utf-8", errors="replace"))
        sync_folder(self.directory)
        self.header = header
