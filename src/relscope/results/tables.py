"""How is a table that belongs beside the rows kept? One Parquet file, whole or not at all, of a fixed schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from relscope.errors import InputError
from relscope.results.files import RunError, make_folder, remove_leftovers, sync_folder, write_whole

Columns = Mapping[str, Sequence[Any] | np.ndarray | pa.Array | pd.Series]


def write_table(path: Path, schema: pa.Schema, columns: Columns, *, least: float = -math.inf) -> Path:
    """Write a table of `schema`, in place of one that is there.

    Args:
        path: of the file; its folder is made where it is absent, and cleared of what a killed process left.
        schema: the columns and which of them may be null.
        columns: one sequence for each field; None is null.
        least: what the float columns may hold at least, such as 0 for norms.

    Raises:
        InputError: a column is missing or unknown, or holds what its field does not allow; a float is not finite or
            below `least`.
        RunError: the disk refuses.
    """
    table = _table(path.stem, schema, columns, least)
    make_folder(path.parent)
    remove_leftovers(path.parent)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(path, sink.getvalue().to_pybytes())
    sync_folder(path.parent)
    return path


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame | None:
    """The table of `schema` in a file, or None where there is no file; int16 columns are nullable.

    Raises:
        RunError: the file is damaged, or holds another table.
    """
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path}: damaged ({reason}); delete it and give the command again") from error
    return as_frame(table)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """A table as pandas sees it; int16 columns are nullable."""
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int16(): pd.Int16Dtype()}.get)
    return frame


def _table(what: str, schema: pa.Schema, columns: Columns, least: float) -> pa.Table:
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
            right = pc.and_(pc.is_finite(column), pc.greater_equal(column, least))
            if not pc.all(right, min_count=0).as_py():
                bad = column.filter(pc.invert(right))[0].as_py()
                kind = "a finite number" + ("" if math.isinf(least) else f" of at least {least:g}")
                raise InputError(f"{what}, column {field.name}: holds {bad!r}, not {kind}")
    return table
