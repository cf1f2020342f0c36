"""What can a reader take out of the page? All computed tables always, the rows when they are small enough."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from relscope.report import words

MOST_EMBEDDED_BYTES = 2_000_000
MOST_EMBEDDED_ROWS = 200_000  # more would not fit anyway, and compressing them to find that out takes seconds


@dataclass(frozen=True)
class Embedded:
    """A CSV file inside the page: gzip, then base64, unpacked by the reader's browser."""

    file_name: str
    element_id: str
    n_rows: int
    n_bytes: int  # of the CSV
    content: str


@dataclass(frozen=True)
class Linked:
    """A file of the run folder, by its path relative to the report."""

    href: str
    size: str


def embedded_effects(effects: pd.DataFrame) -> Embedded:
    """The site effects as CSV, seven significant digits."""
    return embedded_table("site_effects.csv", effects)


def embedded_table(file_name: str, table: pd.DataFrame) -> Embedded:
    """A table of computed numbers as CSV, seven significant digits."""
    return _embed(file_name, table.to_csv(index=False, float_format="%.7g"), len(table))


def embedded_rows(rows: pd.DataFrame) -> Embedded | None:
    """All rows as CSV, or None where they would make the page heavy; the float32 values come back exactly."""
    if not len(rows) or len(rows) > MOST_EMBEDDED_ROWS:
        return None
    file = _embed("rows.csv", rows.to_csv(index=False), len(rows))
    return file if len(file.content) <= MOST_EMBEDDED_BYTES else None


def parquet_files(run_dir: Path, folder: str) -> list[Linked]:
    """The Parquet files of a folder of the run: the parts of `rows`, the tables of `readouts`."""
    return [Linked(f"{folder}/{path.name}", _size(path)) for path in sorted(run_dir.glob(f"{folder}/*.parquet"))]


def figure_links(figures: list[Path], run_dir: Path) -> list[tuple[str, Linked, Linked]]:
    """(name, PNG, PDF) of each figure."""
    links = []
    for png in figures:
        pair = [Linked(f.relative_to(run_dir).as_posix(), _size(f)) for f in (png, png.with_suffix(".pdf"))]
        links.append((png.stem, pair[0], pair[1]))
    return links


def _embed(file_name: str, csv: str, n_rows: int) -> Embedded:
    raw = csv.encode("utf-8", errors="replace")
    packed = gzip.compress(raw, mtime=0)  # without the time the same run gives the same page
    element_id = "file-" + file_name.split(".", 1)[0].replace("_", "-")
    return Embedded(file_name, element_id, n_rows, len(raw), base64.b64encode(packed).decode("ascii"))


def _size(path: Path) -> str:
    return words.size(path.stat().st_size)
