"""How far did heads and weights move between two models? The two tables of a comparison, as files.

`changes/heads.parquet` has one row for each pair, prompt, layer, head and region; `changes/weights.parquet` one for
each weight and each head's share of one. Norms are stored, never ratios: every normalisation is analysis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from relscope.errors import InputError
from relscope.results.files import RunError, make_folder, remove_leftovers, sync_folder, write_whole

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

Columns = Mapping[str, Sequence[Any] | np.ndarray | pa.Array]


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
    path = changes_path(comparison, schema)
    table = _table(path.stem, schema, columns)
    make_folder(path.parent)
    remove_leftovers(path.parent)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(path, sink.getvalue().to_pybytes())
    sync_folder(path.parent)
    return path


def read_changes(comparison: Path, schema: pa.Schema) -> pd.DataFrame | None:
    """One of the two tables, or None where it is not written yet.

    Raises:
        RunError: the file is damaged.
    """
    path = changes_path(comparison, schema)
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path}: damaged ({reason}); delete it and give the command again") from error
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int16(): pd.Int16Dtype()}.get)
    return frame


def _table(what: str, schema: pa.Schema, columns: Columns) -> pa.Table:
    if set(columns) != set(schema.names):
        wrong = sorted(set(columns) ^ set(schema.names))
        raise InputError(f"{what}: columns missing or unknown: {', '.join(wrong)}")
    try:
        arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: {str(error).splitlines()[0]}") from error
    for field in schema:
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            raise InputError(f"{what}, column {field.name}: holds nulls, but is always given")
        if pa.types.is_floating(field.type):
            right = pc.and_(pc.is_finite(column), pc.greater_equal(column, 0.0))
            if not pc.all(right, min_count=0).as_py():
                bad = column.filter(pc.invert(right))[0].as_py()
                raise InputError(f"{what}, column {field.name}: holds {bad!r}, not a norm")
    return table
