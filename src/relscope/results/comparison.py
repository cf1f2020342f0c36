"""What does `comparison.json` say of a comparison of two models, and who may write into its folder?

comparison.json                   which models, which configuration, how far it is
base/ tuned/                      the run folders of both models
into_base/ into_tuned/            run folders whose patches come from the other model
changes/heads.parquet weights.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from relscope.results.headers import HeaderFolder, HeaderKind
from relscope.results.manifest import identity_differences

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


COMPARISON: Final = HeaderKind(COMPARISON_NAME, COMPARISON_SCHEMA_VERSION, "comparison", ComparisonHeader)


class ComparisonFolder(HeaderFolder[ComparisonHeader]):
    """A comparison's folder, open for writing."""

    def mark(self, status: Literal["running", "complete"]) -> None:
        """Say how far the comparison is."""
        if self.header.status != status:
            self._save(self.header.model_copy(update={"status": status}))


def create_or_resume_comparison(directory: Path, header: ComparisonHeader) -> ComparisonFolder:
    """Open a folder for writing: as a new comparison, or to go on with one of the same identity.

    Raises:
        InputError: the folder holds other things, or another comparison (each differing field is named with both
            values).
        RunError: another process writes there, or the folder cannot be made or written.
    """

    def refusal_of(stored: ComparisonHeader) -> str:
        differences = "; ".join(identity_differences(stored.identity, header.identity))
        return (
            f"{directory}: holds another comparison: {differences}; give another folder, or the same models and "
            "settings as before"
        )

    return ComparisonFolder(COMPARISON, directory, header, refusal_of)
