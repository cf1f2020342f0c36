"""What is there of a comparison of two models? Header, run folders and tables of changes, as far as it went.

    comparison.json   base/ tuned/ into_base/ into_tuned/   changes/heads.parquet changes/weights.parquet

A part that is not there yet is None or empty; one that is there and damaged is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from relscope.errors import InputError
from relscope.results import HEAD_CHANGES, WEIGHT_CHANGES, Manifest, open_run, read_changes
from relscope.results.comparison import COMPARISON, COMPARISON_NAME
from relscope.results.run import MANIFEST_NAME

MODELS: Final = ("base", "tuned")


class TransferModels(NamedTuple):
    """Whose activations went into whom: each is one of MODELS."""

    donor: str
    receiver: str


TRANSFER_FOLDERS: Final = {
    "into_base": TransferModels(donor="tuned", receiver="base"),
    "into_tuned": TransferModels(donor="base", receiver="tuned"),
}
"""The run folder of each transfer, and its models."""


@dataclass(frozen=True)
class Part:
    """One run folder of the comparison: its manifest and rows."""

    manifest: Manifest
    rows: pd.DataFrame

    @property
    def complete(self) -> bool:
        """True once whoever writes the folder has said so."""
        return self.manifest.status == "complete"


@dataclass(frozen=True)
class StoredComparison:
    """What a comparison has on disk.

    Attributes:
        base: the base model as the user named it; `tuned` the tuned one.
        complete: the comparison has said so.
        config: the study's configuration, as JSON values.
        parts: by folder name ("base", "tuned", "into_base", "into_tuned"), those that are there.
        head_changes: `changes/heads.parquet`, or None.
        weight_changes: `changes/weights.parquet`, or None.
    """

    directory: Path
    base: str
    tuned: str
    complete: bool
    created: str
    config: Mapping[str, Any]
    relscope_version: str
    parts: Mapping[str, Part]
    head_changes: pd.DataFrame | None
    weight_changes: pd.DataFrame | None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest that speaks for the pairs and prompts: the base model's, or any other that is there."""
        return next((self.parts[name].manifest for name in (*MODELS, *TRANSFER_FOLDERS) if name in self.parts), None)

    @property
    def query_of(self) -> dict[str, str]:
        """The query of each pair of any of the runs."""
        return {pair: query for part in self.parts.values() for pair, query in part.manifest.query_of.items()}

    def rows(self, name: str) -> pd.DataFrame | None:
        """The rows of one part, or None where there are none yet."""
        part = self.parts.get(name)
        return part.rows if part is not None and len(part.rows) else None


def is_comparison(folder: str | Path) -> bool:
    """True if `folder` is what `relscope compare-models` writes."""
    return (Path(folder) / COMPARISON_NAME).is_file()


def read_comparison(folder: str | Path) -> StoredComparison:
    """Read whatever is there of a comparison; it may still be growing.

    Raises:
        InputError: the folder is no comparison, or its header, a manifest or a table is damaged.
        RunError: a part of the rows is damaged.
    """
    directory = Path(folder)
    if not is_comparison(directory):
        raise InputError(
            f"{directory}: not a comparison (no {COMPARISON_NAME}); give the folder of `relscope compare-models`"
        )
    header = COMPARISON.read(directory / COMPARISON_NAME)
    parts = {}
    for name in (*MODELS, *TRANSFER_FOLDERS):
        if (directory / name / MANIFEST_NAME).is_file():
            run = open_run(directory / name)
            parts[name] = Part(run.manifest, run.rows())
    return StoredComparison(
        directory=directory,
        base=header.base,
        tuned=header.tuned,
        complete=header.status == "complete",
        created=header.created,
        config=header.config,
        relscope_version=header.relscope_version,
        parts=parts,
        head_changes=_measured(read_changes(directory, HEAD_CHANGES)),
        weight_changes=_measured(read_changes(directory, WEIGHT_CHANGES)),
    )


def _measured(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return table if table is not None and len(table) else None
