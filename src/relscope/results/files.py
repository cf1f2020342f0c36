"""How does a file appear whole or not at all, and how does one process keep a run folder to itself?

A file is written under a temporary name in its own folder, flushed to the disk, and renamed into place: a
reader, or a later run after a SIGKILL or a power cut, sees either all of it or none of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from relscope.errors import InputError

TEMPORARY_SUFFIX = ".partial"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class RunError(InputError):
    """A run folder cannot be written, locked or read: disk full, no permission, in use, or a damaged file."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that `path` holds all of it or is left as it was.

    Raises:
        RunError: the disk is full, the folder cannot be written, or the device failed. Nothing half-written stays
            behind.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        # Where even this fails, the first failure is the one to report: a resume removes leftovers too.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RunError(write_problem(path, error)) from error
        raise


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        InputError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # also what UnicodeDecodeError is
        raise InputError(f"{path}: damaged, not JSON ({error})") from error


def sync_folder(folder: Path) -> None:
    """Flush the folder's own list of names, without which a rename may not survive a power cut.

    Raises:
        RunError: the device failed. Systems that cannot open or flush a folder (Windows, some network disks) are let
            be.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open a folder; there the rename is all that can be asked for
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise RunError(write_problem(folder, error)) from error
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents; nothing happens where it exists.

    Raises:
        RunError: the folder cannot be made (a parent is a file, no permission, a read-only or full disk).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot make this folder ({_reason(error)}); give a folder that can be written"
        ) from error


def require_folder(folder: Path) -> None:
    """Refuse what cannot be made a folder or written, without making it.

    Raises:
        RunError: a parent is a file, or may not be written.
    """
    nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path.cwd())
    reason = errno.ENOTDIR if not nearest.is_dir() else 0 if os.access(nearest, os.W_OK) else errno.EACCES
    if reason:
        raise RunError(f"{folder}: cannot make this folder ({os.strerror(reason)}); give a folder that can be written")


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that a killed process left in `folder`; returns how many there were.

    Raises:
        RunError: one of them cannot be removed.
    """
    leftovers = list(folder.glob(f".*{TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        try:
            leftover.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{leftover}: cannot remove this unfinished file ({_reason(error)})") from error
    return len(leftovers)


class FolderLock:
    """Keeps every other process from writing into the same run folder, for as long as this object lives.

    The operating system holds the lock (`flock`), so it ends with the process however that ends, SIGKILL
    included: there is no stale lock to detect. Two opens in one process exclude each other too.

    Raises:
        RunError: another process (or another open `Run` of this one) is writing there, or the lock file cannot be made.
    """

    NAME = ".lock"

    def __init__(self, folder: Path) -> None:
        path = folder / self.NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(write_problem(path, error)) from error
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                warnings.warn(
                    f"{folder}: this disk offers no locks; see to it that only one process writes here",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                os.close(descriptor)
                raise RunError(
                    f"{folder}: another process writes this run; wait for it to end, or give another folder"
                ) from error
        # Also releases when the run is dropped without close(), so that a failed study can be resumed in
        # one session.
        self._finalizer = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let others write. Calling it again does nothing."""
        self._finalizer()


class LockedFolder:
    """A folder into which one process writes; a context manager, which lets others write at its end."""

    _lock: FolderLock | None

    def close(self) -> None:
        """Let other processes write into the folder. Reading goes on to work; closing twice is harmless."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def write_problem(path: Path, error: OSError) -> str:
    """What a user is told of a file that cannot be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{path}: the disk is full ({_reason(error)}); free some space and resume: what is stored is safe"
    return f"{path}: cannot be written ({_reason(error)}); make the folder writable, or give another one"
