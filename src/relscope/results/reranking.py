"""What did a reranking measure, and what did it cost? Kept beside its verdicts (`relscope.results.verdicts`).

    measures.parquet   one row a query, system (first stage, reranked) and measure
    reranking.json     what a reader of these rows must know: model, data, prompt, method, heads, who was left out
    costs.jsonl        CPU seconds and seconds by the clock of prompts that were judged together, a line each:

    {"call": 1, "n_prompts": 64, "cpu_seconds": 19.2, "wall_seconds": 9.8, "device": "cpu"}

A call is one command that judged something; one that was interrupted has the lines that it came to. `reranking.json` is
taken away before new rows are written, and comes after them: a folder without it has no rows to believe. Verdicts that
an earlier version measured have no line in `costs.jsonl`, and what they took is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from relscope.errors import InputError
from relscope.results.files import RunError, read_json, sync_folder, write_problem, write_whole
from relscope.results.tables import Columns, read_table, write_table

RERANKED: Final = "reranked"
FIRST_STAGE_SYSTEM: Final = "first stage"
RERANKING_NAME: Final = "reranking.json"
MEASURES_NAME: Final = "measures.parquet"
COSTS_NAME: Final = "costs.jsonl"
RERANKING_SCHEMA_VERSION: Final = 1
_SUFFIX: Final = ".verdicts"
_AGAIN: Final = "give its relscope rerank again, which judges nothing twice"

MEASURES: Final = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Spent:
    """What prompts took that were judged together.

    Attributes:
        cpu_seconds: of the process, all its threads.
        wall_seconds: by the clock.
        device: where the model is, such as cpu or cuda.
    """

    cpu_seconds: float
    wall_seconds: float
    device: str


@dataclass(frozen=True)
class JudgingCost:
    """What all calls took together.

    Attributes:
        n_calls: commands that judged something.
        n_prompts: that they judged.
        cpu_seconds, wall_seconds: the sums.
        devices: where the model was, each once.
    """

    n_calls: int
    n_prompts: int
    cpu_seconds: float
    wall_seconds: float
    devices: tuple[str, ...]

    def per_100_documents(self, n_prompts: int, n_documents: int) -> Spent | None:
        """What a reranking takes for 100 documents: seconds a judged prompt, times the prompts that it asks for.

        None where no prompt's time is known, or no document is ranked. Prompts that were judged and are not asked for
        (of another depth or method) raise nothing.
        """
        if not self.n_prompts or not n_documents:
            return None
        share = 100 * n_prompts / (self.n_prompts * n_documents)
        return Spent(share * self.cpu_seconds, share * self.wall_seconds, ", ".join(self.devices))


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class HeadsRecord(_Record):
    """The heads that ranked by their attention; `source`: the run and the model in which they were chosen, if known."""

    name: str
    members: tuple[tuple[int, int, str], ...]
    reading: str
    calibrated: bool
    n_chosen_on: int
    source: dict[str, Any] | None = None


class RerankingHeader(_Record):
    """The content of `reranking.json`.

    Attributes:
        asked: the model as it was asked for.
        model: what that is (`ModelIdentity`).
        n_layers, n_heads: of the model.
        last_layer: the last one of which something was computed.
        queries: of each judged query a checksum of its first stage's documents and their grades, so that it can be
            told whether two rerankings began with the same.
        n_queries, n_documents: that were ranked.
        n_prompts: that this ranking asked for.
        n_not_judged: documents of judged queries without a grade.
        n_left_out: queries and documents that were not asked about, by reason.
        notes: what was told while it was measured.
    """

    schema_version: int = RERANKING_SCHEMA_VERSION
    created: str
    relscope_version: str
    asked: str
    model: dict[str, Any]
    n_layers: int
    n_heads: int
    last_layer: int
    data: str
    prompt: str
    method: str
    first_stage: str
    depth: int
    top: int
    queries: dict[str, str]
    n_queries: int
    n_documents: int
    n_prompts: int
    n_not_judged: int
    n_left_out: dict[str, int]
    heads: HeadsRecord | None = None
    seed: int
    notes: tuple[str, ...] = ()


def verdicts_folder(run_file: Path) -> Path:
    """Where the verdicts of a TREC run file are kept, and what was measured of it."""
    return run_file.with_name(f"{run_file.name}{_SUFFIX}")


def run_file_of(folder: Path) -> Path:
    """The TREC run file that a folder of verdicts belongs to."""
    return folder.with_name(folder.name.removesuffix(_SUFFIX))


def write_reranking(folder: Path, header: RerankingHeader, measures: Columns) -> None:
    """Store what was measured, in place of what was there.

    Raises:
        RunError: the disk refuses; then the folder has no `reranking.json`.
    """
    path = folder / RERANKING_NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(write_problem(path, error)) from error
    write_table(folder / MEASURES_NAME, MEASURES, measures)
    text = json.dumps(header.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
    write_whole(path, (text + "\n").encode("utf-8", errors="replace"))
    sync_folder(folder)


def read_reranking_header(folder: Path) -> RerankingHeader:
    """What a folder says of its reranking.

    Raises:
        InputError: there is no `reranking.json`, or it is damaged or of another version.
    """
    path = folder / RERANKING_NAME
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {RERANKING_NAME}: its reranking is not finished, or an earlier relscope measured it; "
            f"{_AGAIN}"
        )
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != RERANKING_SCHEMA_VERSION:
        raise InputError(f"{path}: has schema_version {version!r}; this relscope reads {RERANKING_SCHEMA_VERSION}")
    try:
        return RerankingHeader(**content)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def read_measures(folder: Path) -> pd.DataFrame:
    """The rows of a reranking: system, query_id, measure and value.

    Raises:
        InputError: there are none.
        RunError: the file is damaged.
    """
    found = read_table(folder / MEASURES_NAME, MEASURES)
    if found is None:
        raise InputError(f"{folder}: has no {MEASURES_NAME}; {_AGAIN}")
    return found


def cost_line(call: int, n_prompts: int, spent: Spent) -> bytes:
    """A line of `costs.jsonl`."""
    row = {"call": call, "n_prompts": n_prompts, "cpu_seconds": round(spent.cpu_seconds, 6),
           "wall_seconds": round(spent.wall_seconds, 6), "device": spent.device}  # fmt: skip
    return (json.dumps(row) + "\n").encode()


def read_costs(folder: Path) -> JudgingCost:
    """What the calls that judged in a folder took; half a last line, of a killed process, is none.

    Raises:
        RunError: the file cannot be read, or a line is damaged.
    """
    path = folder / COSTS_NAME
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    rows = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            rows.append(_checked(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}, line {number}: damaged; delete the line: what its prompts took is then not known"
            ) from error
    return JudgingCost(
        n_calls=len({row["call"] for row in rows}),
        n_prompts=sum(row["n_prompts"] for row in rows),
        cpu_seconds=math.fsum(row["cpu_seconds"] for row in rows),
        wall_seconds=math.fsum(row["wall_seconds"] for row in rows),
        devices=tuple(dict.fromkeys(row["device"] for row in rows)),
    )


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {name: float(row[name]) for name in ("cpu_seconds", "wall_seconds")}
    if not all(math.isfinite(value) and value >= 0 for value in seconds.values()):
        raise ValueError("seconds")
    return {"call": int(row["call"]), "n_prompts": int(row["n_prompts"]), "device": str(row["device"])} | seconds
