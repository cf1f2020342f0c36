"""Which prompts are judged already? LDs of a reranking, a line each, appended as they are measured.

A folder: `manifest.json` says what the LDs depend on, `verdicts.jsonl` has one line a prompt:

    {"query_id": "q1", "documents": ["d7"], "ld": 1.25, "token_sha256": "5e88..."}

Pairwise prompts have two documents, in the order of the prompt. Where documents are ranked by another number than LD,
that number stands there under its own name. `token_sha256` is over what the model read of the query and the documents:
a verdict on other texts, or on what another tokenizer made of them, is refused. Verdicts on queries and documents that
are not asked about now stay, and are not used.

A line is there whole or not at all: what a killed process left of its last one is cut off, and the prompt judged again.
What prompts took to judge, and what was measured of the ranking, stands beside them (`relscope.results.reranking`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from relscope.errors import InputError
from relscope.results.files import (
    FolderLock,
    LockedFolder,
    RunError,
    make_folder,
    read_json,
    sync_folder,
    write_problem,
    write_whole,
)
from relscope.results.manifest import chosen_differences
from relscope.results.reranking import COSTS_NAME, Spent, cost_line, read_costs

VERDICTS_NAME: Final = "verdicts.jsonl"
_MANIFEST_NAME = "manifest.json"

Asked = tuple[str, ...]
"""A prompt: the query's id, then the ids of its documents in the order of the prompt."""


class Verdicts(LockedFolder):
    """The LDs of prompts, kept in a folder; a context manager that keeps other processes out meanwhile.

    Args:
        folder: made if absent; continued if it holds verdicts of the same identity.
        identity: whatever changes an LD, as JSON values.
        token_sha256_of: over the tokens of a prompt; None: it is not asked now.
        value: what the number of a prompt is called.

    Attributes:
        known: LD of each prompt that is judged.

    Raises:
        InputError: the folder holds other things, or verdicts of another identity (each differing field is named) or
            on other tokens (query and documents are named).
        RunError: another process writes there, a line is damaged, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        token_sha256_of: Callable[[Asked], str | None],
        value: str = "ld",
    ) -> None:
        _refuse_foreign_folder(folder)
        make_folder(folder)
        self.folder, self._value, self._token_sha256_of = folder, value, token_sha256_of
        self._lock = FolderLock(folder)
        try:
            _check_identity(folder, dict(identity))
            self._path = folder / VERDICTS_NAME
            self.known: dict[Asked, float] = self._read()
            _whole_lines(folder / COSTS_NAME)
            self._call = read_costs(folder).n_calls + 1
        except BaseException:
            self.close()
            raise

    def add(self, measured: Mapping[Asked, float], spent: Spent | None = None) -> None:
        """Store LDs, flushed to the disk when this returns, and what it took to judge them, if that is known.

        Raises:
            InputError: one of them is not finite.
            RunError: the disk is full, or the file cannot be written; what was stored before is left as it was.
        """
        for (query_id, *documents), ld in measured.items():
            if not math.isfinite(ld):
                raise InputError(
                    f'query "{query_id}", document {" and ".join(documents)}: {self._name} is {ld}; is the number '
                    "format too narrow for this model? Use float32"
                )
        rows = (
            {"query_id": prompt[0], "documents": prompt[1:], self._value: ld,
             "token_sha256": self._token_sha256_of(prompt)} for prompt, ld in measured.items()
        )  # fmt: skip
        _append(self._path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.known |= measured
        if spent is not None:
            _append(self.folder / COSTS_NAME, cost_line(self._call, len(measured), spent))

    def _read(self) -> dict[Asked, float]:
        known: dict[Asked, float] = {}
        for number, line in enumerate(_whole_lines(self._path), start=1):
            try:
                row = json.loads(line)
                prompt, token_sha256 = (row["query_id"], *row["documents"]), row["token_sha256"]
                known[prompt] = float(row[self._value])
            except (ValueError, TypeError, KeyError) as error:
                raise RunError(
                    f"{self._path}, line {number}: damaged; delete the line: its prompt is judged again"
                ) from error
            if self._token_sha256_of(prompt) not in (None, token_sha256):
                raise InputError(
                    f'{self._path}, line {number}: query "{prompt[0]}", document {" and ".join(prompt[1:])}: the texts '
                    "or the tokenizer are others than when this was measured; give another --out, or the same data "
                    "and tokenizer as before"
                )
        return known

    @property
    def _name(self) -> str:
        return "LD" if self._value == "ld" else self._value


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder}: is a file, where a folder for verdicts is needed")
    others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
    if others and _MANIFEST_NAME not in others:
        raise InputError(f"{folder}: holds {others[0]!r} and no {_MANIFEST_NAME}, so it holds no verdicts")


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / _MANIFEST_NAME
    if not path.exists():
        write_whole(path, json.dumps({"identity": identity}, indent=2, ensure_ascii=False).encode())
        sync_folder(folder)
        return
    content = read_json(path)
    stored = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: is no manifest of verdicts")
    if differences := chosen_differences(stored, identity):
        raise InputError(
            f"{folder}: holds verdicts of other settings: {differences}; give another --out, or the same settings as "
            "before"
        )


def _append(path: Path, lines: bytes) -> None:
    try:
        with open(path, "ab") as file:
            n_before = file.tell()
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(n_before)
                raise
    except OSError as error:
        raise RunError(write_problem(path, error)) from error


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of the file, from which half of a last one is cut off; none where there is no file."""
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    return whole.splitlines()
