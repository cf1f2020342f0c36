"""What was measured of sets of sites that were ablated together, and what does it depend on?

A folder: `manifest.json`, and in `rows` one file for each set: `NUMBER-verdicts.parquet`, its verdicts on every pair,
or `NUMBER-reranking.parquet`, the measure of every query. Files are written whole, renamed into place and never
changed; a killed process loses the set in progress.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from relscope.errors import InputError
from relscope.results.files import FolderLock, LockedFolder, RunError, make_folder, read_json, sync_folder, write_whole
from relscope.results.manifest import chosen_differences
from relscope.results.tables import Columns, as_frame, read_table, write_table

_SET = [
    pa.field("step", pa.string(), nullable=False),
    pa.field("set", pa.string(), nullable=False),
    pa.field("n_ablated", pa.int32(), nullable=False),
    pa.field("ablated", pa.string(), nullable=False),
]
SET_VERDICTS: Final = pa.schema(
    [
        *_SET,
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("ld_clean", pa.float32(), nullable=False),
        pa.field("ld_corrupted", pa.float32(), nullable=False),
    ]
)
"""One row is one pair's two verdicts without a set; `ablated` is the SHA-256 of the set's members."""
SET_RANKINGS: Final = pa.schema(
    [
        *_SET,
        pa.field("measure", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
)
"""One row is a measure of one query's reranking without a set."""
CIRCUIT_MANIFEST: Final = "manifest.json"
_KIND: Final = "relscope circuit"
_PART = re.compile(r"(?P<number>[0-9]{5})-(?P<what>[a-z_]+)\.parquet")
_RANKING: Final = "reranking"


class CircuitFolder(LockedFolder):
    """A circuit's folder, open for reading, or for writing by `create_or_resume_circuit`; a context manager.

    Attributes:
        directory: the folder.
        manifest: as it is on disk: identity, facts and status.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], lock: FolderLock | None) -> None:
        self.directory, self.manifest, self._lock = directory, manifest, lock
        self._rows = directory / "rows"
        self._n_parts = max((int(match["number"]) + 1 for match, _ in self._parts()), default=0)

    def add(self, columns: Columns, *, ranking: bool = False) -> None:
        """Store one set's rows, flushed to the disk when this returns.

        Raises:
            InputError: a column is missing, or holds what it may not (an LD that is not finite).
            RunError: the folder is open for reading only, or the disk refuses.
        """
        self._require_writing()
        name = f"{self._n_parts:05d}-{_RANKING if ranking else 'verdicts'}.parquet"
        write_table(self._rows / name, SET_RANKINGS if ranking else SET_VERDICTS, columns)
        self._n_parts += 1

    def rows(self, *, ranking: bool = False) -> pd.DataFrame:
        """All stored rows, in the order in which they were written.

        Raises:
            RunError: a part is damaged, or a set is stored twice.
        """
        schema = SET_RANKINGS if ranking else SET_VERDICTS
        paths = [path for match, path in self._parts() if (match["what"] == _RANKING) == ranking]
        frame: pd.DataFrame = pd.concat([as_frame(schema.empty_table()), *(read_table(path, schema) for path in paths)])
        frame = frame.reset_index(drop=True)
        repeated = frame.duplicated(["step", "set", *(("measure", "query_id") if ranking else ("pair_id",))])
        if repeated.any():
            raise RunError(
                f"{self._rows}: set {frame.loc[repeated, 'set'].iloc[0]!r} is stored twice; were parts copied?"
            )
        return frame

    def save(self, **facts: Any) -> None:
        """Put facts into the manifest, in place of those of the same name."""
        self._require_writing()
        self.manifest = self.manifest | json.loads(json.dumps(facts))
        _write(self.directory, self.manifest)

    def _require_writing(self) -> None:
        if self._lock is None:
            raise RunError(f"{self.directory}: this folder is not open for writing (use create_or_resume_circuit)")

    def _parts(self) -> list[tuple[re.Match[str], Path]]:
        found = []
        for path in sorted(self._rows.iterdir()) if self._rows.is_dir() else ():
            if path.name.startswith("."):
                continue
            part = _PART.fullmatch(path.name)
            if part is None:
                raise RunError(f"{path}: not a part of a circuit's rows; take it out of the folder")
            found.append((part, path))
        return found


def create_or_resume_circuit(directory: Path, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> CircuitFolder:
    """Open a circuit's folder for writing: a new one, or one of the same identity.

    Raises:
        InputError: the folder holds other things, or a circuit of other settings (each differing field is named).
        RunError: another process writes there, or it cannot be written.
    """
    given = json.loads(json.dumps({"kind": _KIND, "status": "running", "identity": identity, **facts}))
    require_circuit_folder(directory)
    make_folder(directory)
    lock = FolderLock(directory)
    try:
        path = directory / CIRCUIT_MANIFEST
        if not path.exists():
            _write(directory, given)
            return CircuitFolder(directory, given, lock)
        stored = _read(path)
        if differences := chosen_differences(stored["identity"], given["identity"]):
            raise InputError(
                f"{directory}: holds a circuit of other settings: {differences}; give another --out, or the same "
                "settings as before"
            )
        return CircuitFolder(directory, stored, lock)
    except BaseException:
        lock.release()
        raise


def open_circuit(directory: Path) -> CircuitFolder:
    """Open a circuit's folder for reading.

    Raises:
        InputError: it is none.
    """
    path = directory / CIRCUIT_MANIFEST
    if not path.is_file():
        raise InputError(f"{directory}: no folder of a circuit (no {CIRCUIT_MANIFEST}); give one of `relscope circuit`")
    return CircuitFolder(directory, _read(path), lock=None)


def holds_circuit(directory: Path) -> bool:
    """Whether a folder is one of a circuit."""
    path = directory / CIRCUIT_MANIFEST
    content = read_json(path) if path.is_file() else None
    return isinstance(content, dict) and content.get("kind") == _KIND


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != _KIND or not isinstance(content.get("identity"), dict):
        raise InputError(f"{path}: is no manifest of a circuit; give another folder")
    return content


def _write(directory: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=1)
    write_whole(directory / CIRCUIT_MANIFEST, (text + "\n").encode())
    sync_folder(directory)


def require_circuit_folder(directory: Path) -> None:
    """Refuse a folder that holds something else than a circuit.

    Raises:
        InputError: says what it holds.
    """
    if directory.is_file():
        raise InputError(f"{directory}: is a file; give a folder for the circuit")
    names = sorted(path.name for path in directory.iterdir() if path.name[0] != ".") if directory.is_dir() else []
    if names and CIRCUIT_MANIFEST not in names:
        raise InputError(f"{directory}: holds {names[0]!r} and no {CIRCUIT_MANIFEST}; give a new or empty folder")
