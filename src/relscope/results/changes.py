"""How far did heads and weights move between two models? The two tables of a comparison, as files.

`changes/heads.parquet` has one row for each pair, prompt, layer, head and region; `changes/weights.parquet` one for
each weight and each head's share of one. Norms are stored, never ratios: every normalisation is analysis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from relscope.results.tables import Columns, read_table, write_table

HEAD_CHANGES: Final = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("norm_base", pa.float32(), nullable=False),
        pa.field("norm_tuned", pa.float32(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)
"""L2 norms of a head's output over a region's positions: of the base, of the tuned model, of their difference."""
WEIGHT_CHANGES: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("layer", pa.int16()),
        pa.field("head", pa.int16()),
        pa.field("part", pa.string(), nullable=False),
        pa.field("n_values", pa.int64(), nullable=False),
        pa.field("norm_base", pa.float32(), nullable=False),
        pa.field("norm_change", pa.float32(), nullable=False),
    ]
)
"""Frobenius norms. `head` is null for all of a part; else the query head of q and o, the key/value head of k and v."""


def changes_path(comparison: Path, schema: pa.Schema) -> Path:
    """Where a comparison folder has the table of a schema."""
    return comparison / "changes" / ("heads.parquet" if schema.equals(HEAD_CHANGES) else "weights.parquet")


def write_changes(comparison: Path, schema: pa.Schema, columns: Columns) -> Path:
    """Write one of the two tables, whole or not at all.

    Args:
        comparison: the comparison's folder.
        schema: HEAD_CHANGES or WEIGHT_CHANGES.
        columns: one sequence for each field; None is null.

    Raises:
        InputError: a column is missing or unknown, or holds what its field does not allow; a norm that is negative or
            not finite.
        RunError: the disk refuses.
    """
    return write_table(changes_path(comparison, schema), schema, columns, least=0.0)


def read_changes(comparison: Path, schema: pa.Schema) -> pd.DataFrame | None:
    """One of the two tables, or None where it is not written yet.

    Raises:
        RunError: the file is damaged.
    """
    return read_table(changes_path(comparison, schema), schema)
