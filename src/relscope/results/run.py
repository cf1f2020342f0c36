"""Where do the rows of a run live, and which of them are there already?

A run is a folder: `manifest.json` and `rows/<experiment>-<n>.parquet`. Parts are written whole and renamed
into place, never changed afterwards. Resuming is: planned keys minus stored keys, under the same identity.
Killing the writer at any moment loses at most the part in progress.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from relscope.errors import InputError
from relscope.results.files import (
    FolderLock,
    LockedFolder,
    RunError,
    make_folder,
    remove_leftovers,
    sync_folder,
    write_whole,
)
from relscope.results.manifest import (
    Manifest,
    Resumption,
    checked,
    chosen_differences,
    manifest_bytes,
    read_manifest,
)
from relscope.results.schema import KEY_COLUMNS, SCHEMA, TEXT_COLUMNS, Rows, key_index, rows_table

MANIFEST_NAME: Final = "manifest.json"
ROWS_FOLDER: Final = "rows"

_PART_NAME = re.compile(r"(?P<experiment>[a-z][a-z0-9_]*)-(?P<number>[0-9]+)\.parquet")
_Site = tuple[str | int, ...]


@dataclass
class _Stored:
    """What is on disk of one experiment: the number of the next part, and the sites of each pair."""

    next_number: int
    sites: defaultdict[str, set[_Site]] = field(default_factory=lambda: defaultdict(set))


class Run(LockedFolder):
    """A run folder, open for reading (`open_run`) or for writing (`create_or_resume`).

    Use a writing run as a context manager, or close it: until then no other process (and no other `Run`)
    may write into the folder.

    Attributes:
        directory: the run folder.
        manifest: as it is on disk.
    """

    def __init__(self, directory: Path, manifest: Manifest, lock: FolderLock | None) -> None:
        self.directory = directory
        self.manifest = manifest
        self._lock = lock
        self._rows_folder = directory / ROWS_FOLDER
        self._stored: dict[str, _Stored] = {}
        self._sites: dict[_Site, _Site] = {}

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace `manifest.json` atomically, and with it `self.manifest`.

        Raises:
            InputError: its identity is not the run's: rows written so far would change their meaning.
            RunError: the run is open for reading only, or the disk refuses.
        """
        self._require_writing()
        given = checked(manifest)
        if given.identity_hash != self.manifest.identity_hash:
            raise InputError(identity_problem(self.directory, self.manifest.identity, given.identity))
        self._replace_manifest(given)

    def write_part(self, experiment: str, rows: Rows | pa.Table | pd.DataFrame) -> Path:
        """Store `rows` as one new part, whole and flushed to the disk when this returns.

        Args:
            rows: one sequence per column of SCHEMA, as `rows_table` describes them. A part costs a flush of the disk,
                so let it hold some seconds of work (a batch of pairs) rather than one row.

        Returns:
            The part's path.

        Raises:
            InputError: the rows are not valid, or a key is stored already.
            RunError: the run is open for reading only, the disk is full, or the folder cannot be written; no part is
                left.
        """
        self._require_writing()
        table = rows_table(experiment, rows)
        if experiment not in self._stored:
            self._stored[experiment] = self._load_stored(experiment)
        stored = self._stored[experiment]
        fresh = self._fresh_sites(stored, experiment, table)
        path = self._rows_folder / f"{experiment}-{stored.next_number:05d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        try:
            write_whole(path, sink.getvalue().to_pybytes())
            stored.next_number += 1
            for pair_id, sites in fresh.items():
                stored.sites[pair_id] |= sites
            sync_folder(self._rows_folder)
        except BaseException:
            # Interrupted here, only the folder itself knows whether the part is there: look again next time.
            del self._stored[experiment]
            raise
        return path

    def rows(self, experiment: str | None = None) -> pd.DataFrame:
        """All stored rows, or those of one experiment, in the order they were written within each experiment.

        Returns:
            The columns of SCHEMA: text as categoricals, layer and head as Int16 (nullable), values as float32 (null is
            NaN). No rows yet: a frame of length 0.

        Raises:
            RunError: a part is damaged, does not belong here (both named), or repeats a key of another part.
        """
        frame = self._read(experiment, SCHEMA.names)
        repeated = frame.duplicated(subset=list(KEY_COLUMNS))
        if repeated.any():
            key = frame.loc[repeated, list(KEY_COLUMNS)].iloc[0].dropna()
            raise RunError(
                f"{self._rows_folder}: {int(repeated.sum())} rows are stored twice, such as "
                f"{', '.join(f'{name} {value}' for name, value in key.items())}; were parts copied here?"
            )
        return frame

    def stored_keys(self, experiment: str) -> pd.MultiIndex:
        """Keys of the stored rows of `experiment`, in the form of `key_index`.

        A MultiIndex over KEY_COLUMNS[1:], in which "" and -1 stand for null. Compare with
        `key_index(planned).isin(run.stored_keys(...))`, or use `missing`.

        Raises:
            RunError: a part is damaged (named).
        """
        return key_index(self._read(experiment, KEY_COLUMNS))

    def missing(self, planned: pd.DataFrame) -> pd.DataFrame:
        """The rows of `planned` whose keys are not stored, in their order and with their index.

        Args:
            planned: has at least KEY_COLUMNS, None or NaN for null; may mix experiments.

        Raises:
            InputError: a key column is missing.
            RunError: a part is damaged (named).
        """
        if "experiment" not in planned.columns:
            raise InputError("planned keys need the column experiment")
        wanted = pd.Series(True, index=range(len(planned)))
        experiments = planned["experiment"].astype(str).to_numpy()
        for experiment in dict.fromkeys(experiments):
            here = experiments == experiment
            is_stored = key_index(planned[here]).isin(self.stored_keys(experiment))
            wanted[here] = ~is_stored
        return planned[wanted.to_numpy()]

    def _replace_manifest(self, manifest: Manifest) -> None:
        write_whole(self.directory / MANIFEST_NAME, manifest_bytes(manifest))
        sync_folder(self.directory)
        self.manifest = manifest

    def _require_writing(self) -> None:
        if self._lock is None:
            raise RunError(f"{self.directory}: this run is not open for writing (use create_or_resume)")

    def _parts(self, experiment: str | None = None) -> list[Path]:
        numbered = []
        for name in _names_in(self._rows_folder):
            if name.startswith("."):
                continue  # a part in the making, or what a file manager left
            part = _PART_NAME.fullmatch(name)
            if part is None:
                raise RunError(f"{self._rows_folder / name}: not a part of a run; take it out of the folder")
            if experiment in (None, part["experiment"]):
                numbered.append((part["experiment"], int(part["number"]), self._rows_folder / name))
        return [path for _, _, path in sorted(numbered)]

    def _read(self, experiment: str | None, columns: Iterable[str]) -> pd.DataFrame:
        names = list(columns)
        tables = [_read_part(path, names) for path in self._parts(experiment)]
        table = pa.concat_tables([_no_rows().select(names), *tables]).unify_dictionaries()
        frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int16(): pd.Int16Dtype()}.get)
        return frame

    def _load_stored(self, experiment: str) -> _Stored:
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._parts(experiment)]
        stored = _Stored(next_number=max(numbers, default=-1) + 1)
        for pair_id, site in self._by_pair(self.stored_keys(experiment)):
            stored.sites[pair_id].add(site)
        return stored

    def _fresh_sites(self, stored: _Stored, experiment: str, table: pa.Table) -> dict[str, set[_Site]]:
        """The sites of each pair in `table`, none of which is stored."""
        fresh: dict[str, set[_Site]] = defaultdict(set)
        for pair_id, site in self._by_pair(key_index(table.select(KEY_COLUMNS).to_pandas())):
            if site in stored.sites[pair_id]:
                key = zip(KEY_COLUMNS[1:], (pair_id, *site), strict=True)
                named = ", ".join(f"{name} {value}" for name, value in key if value not in ("", -1))
                raise InputError(f"{experiment} rows: {named} is stored already")
            fresh[pair_id].add(site)
        return fresh

    def _by_pair(self, keys: pd.MultiIndex) -> Iterable[tuple[str, _Site]]:
        # Pairs share their sites, so one tuple each is kept for all of them.
        for pair_id, *rest in keys:
            site = tuple(rest)
            yield pair_id, self._sites.setdefault(site, site)


def create_or_resume(run_dir: Path, manifest: Manifest, extend: Callable[[Manifest], Manifest] | None = None) -> Run:
    """Open `run_dir` for writing: as a new run, or to go on with a run of the same identity.

    When it goes on, the stored manifest is kept (its times, filter decisions and exclusions); an
    environment other than the stored one is added to its `resumptions`. Unfinished files of a killed
    process are removed.

    Args:
        run_dir: the run folder; made if absent.
        manifest: of the run that is asked for.
        extend: from the stored manifest of another identity to the one with which that run goes on, in which every
            stored row means what it meant; raises InputError where there is none. None: a run of another identity is
            refused.

    Raises:
        InputError: the folder holds other things, or a run of another identity (each differing field is named with both
            values).
        RunError: another process writes there, or the folder cannot be made or written.
    """
    directory = Path(run_dir)
    given = checked(manifest)
    require_run_folder(directory)
    make_folder(directory)
    lock = FolderLock(directory)
    try:
        remove_leftovers(directory)
        make_folder(directory / ROWS_FOLDER)
        remove_leftovers(directory / ROWS_FOLDER)
        path = directory / MANIFEST_NAME
        if not path.exists():
            write_whole(path, manifest_bytes(given))
            sync_folder(directory)
            sync_folder(directory.parent)
            return Run(directory, given, lock)
        stored = read_manifest(path)
        run = Run(directory, stored, lock)
        if stored.identity_hash != given.identity_hash:
            if extend is None:
                raise InputError(identity_problem(directory, stored.identity, given.identity))
            run._replace_manifest(checked(extend(stored)))
            stored = run.manifest
        environments = [stored.environment, *(entry.environment for entry in stored.resumptions)]
        if given.environment != environments[-1]:
            entry = Resumption(resumed=given.created, environment=given.environment)
            run.save_manifest(stored.model_copy(update={"resumptions": [*stored.resumptions, entry]}))
        return run
    except BaseException:
        lock.release()
        raise


def open_run(run_dir: Path) -> Run:
    """Open an existing run for reading; it may still be growing.

    Raises:
        InputError: `run_dir` is not a run folder, or its manifest is damaged.
    """
    directory = Path(run_dir)
    if not os.path.isfile(directory / MANIFEST_NAME):
        raise InputError(f"{directory}: not a run folder (no {MANIFEST_NAME}); give the folder of `relscope run`")
    return Run(directory, read_manifest(directory / MANIFEST_NAME), lock=None)


def require_run_folder(directory: Path) -> None:
    """Refuse a folder that is neither a run, nor empty, nor left by a run killed before it had a manifest.

    Raises:
        InputError: it is a file, or holds something else.
        RunError: it cannot be read.
    """
    if not os.path.lexists(directory):
        return
    if not os.path.isdir(directory):
        raise InputError(f"{directory}: is a file; give a folder for the run")
    names = _names_in(directory)
    if MANIFEST_NAME in names:
        return
    others = [name for name in names if name != ROWS_FOLDER and not name.startswith(".")]
    if ROWS_FOLDER in names:
        rows = _names_in(directory / ROWS_FOLDER)
        others += [f"{ROWS_FOLDER}/{name}" for name in rows if not name.startswith(".")]
    if others:
        raise InputError(
            f"{directory}: holds {min(others)!r} and no {MANIFEST_NAME}, so it is no run folder; "
            "give a new or empty folder"
        )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror})") from error


def identity_problem(
    directory: Path,
    stored: dict[str, Any],
    given: dict[str, Any],
    advice: str = "give another folder, or the same settings as before",
) -> str:
    """What a user is told of a folder that holds a run of another identity."""
    return f"{directory}: holds another run: {chosen_differences(stored, given)}; {advice}"


def _no_rows() -> pa.Table:
    fields = [
        field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in TEXT_COLUMNS else field
        for field in SCHEMA
    ]
    return pa.schema(fields).empty_table()


def _read_part(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path, read_dictionary=TEXT_COLUMNS, page_checksum_verification=True) as part:
            table = part.read(columns=columns).select(columns)
        return table.cast(_no_rows().select(columns).schema)
    except KeyError as error:
        raise RunError(f"{path}: its columns are not those of a part; take it out of the folder") from error
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{path}: damaged ({str(error).splitlines()[0]}); delete it and resume: its rows are then measured again"
        ) from error
