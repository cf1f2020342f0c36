"""What is left on disk of an ablation's evaluation, and how does it go on when it was interrupted?

    ablation.json                  settings, the split of the queries, every condition with its heads, who was left out
    rows/judging-<step>.parquet    LD of both prompts of every pair, of one condition, draw and prompt
    rows/ranking-<step>.parquet    the documents of every query, best first, likewise
    qrels.parquet                  grades of the documents of the queries that are ranked again
    verdicts/<step>/               every LD of a reranking, as it is measured (`relscope.results.verdicts`)

A step is one condition's draw with one prompt. Its part is written whole and renamed into place, so that a kill costs
at most the step in progress; resuming is planned steps minus stored ones, under the same identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from relscope.errors import InputError
from relscope.results.headers import HeaderFolder, HeaderKind
from relscope.results.manifest import chosen_differences
from relscope.results.tables import Columns, read_table, write_table

ABLATION_NAME: Final = "ablation.json"
ABLATION_SCHEMA_VERSION: Final = 1
FULL_MODEL: Final = "Full model"
"""The condition in which nothing is ablated."""

Task = Literal["judging", "ranking"]

_STEP = [
    pa.field("condition", pa.string(), nullable=False),
    pa.field("draw", pa.int16(), nullable=False),
    pa.field("prompt", pa.string(), nullable=False),
]
JUDGING: Final = pa.schema(
    [
        *_STEP,
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("ld_clean", pa.float32(), nullable=False),
        pa.field("ld_corrupted", pa.float32(), nullable=False),
    ]
)
RANKING: Final = pa.schema(
    [
        *_STEP,
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
)
QRELS: Final = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("grade", pa.int32(), nullable=False),
    ]
)
_SCHEMAS: Final[dict[Task, pa.Schema]] = {"judging": JUDGING, "ranking": RANKING}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConditionRecord(_Record):
    """One draw of a condition: heads that are ablated together, each as layer, head and region.

    `draw` counts from 1 where heads are drawn at random, and is 0 otherwise; `of` is the set that matched draws stand
    beside.
    """

    name: str
    kind: Literal["first", "full", "random", "matched", "bottom", "set", "mixed"]
    draw: int = 0
    of: str | None = None
    members: tuple[tuple[int, int, str], ...] = ()


class QueryRecord(_Record):
    """A query of one side of the split; `query_id` is unique within its data."""

    query_id: str
    query_text: str


class SideRecord(_Record):
    """One side of the split: its data and its queries."""

    data: str
    queries: tuple[QueryRecord, ...]


class LeftOutRecord(_Record):
    """A pair, query or document that could not be asked about with a prompt, and why."""

    prompt: str
    what: str
    reason: str
    detail: str = ""


class RerankRecord(_Record):
    """What is ranked again: the first stage's documents of each query, best first."""

    side: SideRecord
    first_stage: str
    depth: int
    n_draws: int
    rankings: dict[str, tuple[str, ...]]


class AblationHeader(_Record):
    """The content of `ablation.json`.

    `identity` holds whatever changes what the numbers mean. `selection` are the queries by which heads were chosen,
    `held_out` others of the same run, which it judged and did not patch, and `evaluation` those on which the ablation
    is judged; none of these is any of the others.
    """

    schema_version: int = ABLATION_SCHEMA_VERSION
    status: Literal["running", "complete"] = "running"
    identity: dict[str, Any]
    identity_hash: str
    created: str
    relscope_version: str
    run: str
    model: str
    settings: dict[str, Any]
    prompts: tuple[str, ...]
    selection: SideRecord
    held_out: tuple[QueryRecord, ...] = ()
    evaluation: SideRecord
    shared_queries: int
    query_of: dict[str, str]
    conditions: tuple[ConditionRecord, ...]
    left_out: tuple[LeftOutRecord, ...] = ()
    reranking: RerankRecord | None = None
    notes: tuple[str, ...] = Field(default=(), description="what the reader of the results should know")

    @model_validator(mode="after")
    def _sides_share_no_query(self) -> AblationHeader:
        for there in [self.evaluation] + ([] if self.reranking is None else [self.reranking.side]):
            evaluated = {query.query_text for query in there.queries}
            for queries, how in ((self.selection.queries, "selected by"), (self.held_out, "held out")):
                if shared := sorted(evaluated & {query.query_text for query in queries}):
                    raise ValueError(f"query {shared[0]!r} is both {how} and evaluated on")
        return self


ABLATION: Final = HeaderKind(ABLATION_NAME, ABLATION_SCHEMA_VERSION, "ablation", AblationHeader)


class AblationFolder(HeaderFolder[AblationHeader]):
    """An ablation's folder, open for writing."""

    def has(self, task: Task, step: int) -> bool:
        """True if a step is stored."""
        return _part(self.directory, task, step).is_file()

    def write(self, task: Task, step: int, columns: Columns) -> Path:
        """Store the rows of one step, whole and flushed to the disk when this returns.

        Raises:
            InputError: a column is missing or unknown, or a value is not finite.
            RunError: the disk refuses.
        """
        return write_table(_part(self.directory, task, step), _SCHEMAS[task], columns)

    def write_qrels(self, columns: Columns) -> None:
        """Store the grades of the queries that are ranked again."""
        write_table(self.directory / "qrels.parquet", QRELS, columns)

    def verdicts(self, step: int) -> Path:
        """Where the LDs of a step's reranking are kept."""
        return self.directory / "verdicts" / f"{step:05d}"

    def mark(self, status: Literal["running", "complete"], notes: tuple[str, ...]) -> None:
        """Say how far it is, and what is to be known of it."""
        if (self.header.status, self.header.notes) != (status, notes):
            self._save(self.header.model_copy(update={"status": status, "notes": notes}))


def require_same_ablation(directory: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder whose ablation has other fields than these of its identity; a new folder is passed over.

    Asked before a model is loaded; the whole identity is compared when the folder is opened for writing.

    Raises:
        InputError: names each differing field.
    """
    if is_ablation(directory):
        stored = read_ablation_header(directory).identity
        known = {name: stored.get(name) for name in identity}
        if known != identity:
            raise InputError(_other_settings(directory, known, identity))


def _other_settings(directory: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    differences = chosen_differences(dict(stored), dict(now))
    return (
        f"{directory}: holds an ablation of other settings: {differences}; give another --out, or the same "
        "settings as before"
    )


def create_or_resume_ablation(directory: Path, header: AblationHeader) -> AblationFolder:
    """Open a folder for writing: as a new ablation, or to go on with one of the same identity.

    Raises:
        InputError: the folder holds other things, or an ablation of other settings (each differing field is named).
        RunError: another process writes there, or the folder cannot be made or written.
    """
    return AblationFolder(
        ABLATION, directory, header, lambda stored: _other_settings(directory, stored.identity, header.identity)
    )


def is_ablation(directory: Path) -> bool:
    """True if the folder is one of `relscope ablate`."""
    return (directory / ABLATION_NAME).is_file()


def read_ablation_header(directory: Path) -> AblationHeader:
    """The content of a folder's `ablation.json`.

    Raises:
        InputError: there is none, it cannot be read, is damaged, or was written by another version.
    """
    path = directory / ABLATION_NAME
    if not path.is_file():
        raise InputError(
            f"{directory}: not the folder of an ablation (no {ABLATION_NAME}); give that of relscope ablate"
        )
    return ABLATION.read(path)


def read_ablation_rows(directory: Path, task: Task) -> pd.DataFrame:
    """All stored rows of a task, in the order of the steps; a frame of length 0 where there are none.

    Raises:
        RunError: a part is damaged (named).
    """
    parts = (read_table(path, _SCHEMAS[task]) for path in sorted((directory / "rows").glob(f"{task}-*.parquet")))
    frames = [frame for frame in parts if frame is not None]
    return pd.concat(frames, ignore_index=True) if frames else _SCHEMAS[task].empty_table().to_pandas()


def read_ablation_qrels(directory: Path) -> dict[str, dict[str, int]]:
    """Query id to document id to grade; empty where nothing is ranked again."""
    frame = read_table(directory / "qrels.parquet", QRELS)
    qrels: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in () if frame is None else frame.itertuples(index=False):
        qrels.setdefault(str(query_id), {})[str(doc_id)] = int(grade)
    return qrels


def _part(directory: Path, task: Task, step: int) -> Path:
    return directory / "rows" / f"{task}-{step:05d}.parquet"
