"""Can the data and the folder that were given be used at all? Asked before torch is loaded and anything is read.

What passes may still be refused when it is read or opened: here only what is plainly not there, or in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from relscope.data import require_source
from relscope.errors import InputError
from relscope.results import ABLATION, COMPARISON, require_circuit_folder, require_folder, require_run_folder

FolderKind = Literal["run", "comparison", "ablation", "circuit"]
_REFUSE: Mapping[FolderKind, Callable[[Path], None]] = {
    "run": require_run_folder,
    "comparison": COMPARISON.refuse_foreign,
    "ablation": ABLATION.refuse_foreign,
    "circuit": require_circuit_folder,
}


def require_sources(sources: Iterable[str | None]) -> None:
    """Refuse data that are not there; None is passed over.

    Raises:
        InputError: names the first that is missing.
    """
    for source in sources:
        if source is not None:
            require_source(source)


def require_out(folder: Path, kind: FolderKind) -> None:
    """Refuse a folder that holds something else than what is to be written or continued there, or cannot be made.

    Raises:
        InputError: says what is in the way.
    """
    _REFUSE[kind](folder)
    require_folder(folder)


def require_run_file(file: Path, kept: Path) -> None:
    """Refuse a file that is not one of reranking; `kept` is the folder of its verdicts.

    Raises:
        InputError: it is a folder, or was written by something else, or its folder cannot be made.
    """
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give a file for the run, such as {file / 'run.trec'}")
    if file.exists() and not kept.is_dir():
        raise InputError(f"{file}: is there already, and not from reranking; give another file with --out")
    require_folder(file.parent)
