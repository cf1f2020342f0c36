"""What is one row, and which rows may be stored?

One row is one measured site of one pair. The nine key columns say what was measured, the six value columns
hold the raw logit differences `LD = logit(yes) - logit(no)` and probability margins `P(yes) - P(no)`
(softmax over the two answer tokens) of the clean, corrupted and patched runs. Every normalisation is
analysis, none is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from relscope.errors import InputError

SCHEMA: Final = pa.schema(
    [
        pa.field("experiment", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("component", pa.string()),
        pa.field("layer", pa.int16()),
        pa.field("head", pa.int16()),
        pa.field("region", pa.string()),
        pa.field("dest", pa.string()),
        pa.field("src", pa.string()),
        pa.field("direction", pa.string()),
        pa.field("ld_clean", pa.float32(), nullable=False),
        pa.field("ld_corrupted", pa.float32(), nullable=False),
        pa.field("ld_patched", pa.float32()),
        pa.field("p_clean", pa.float32(), nullable=False),
        pa.field("p_corrupted", pa.float32(), nullable=False),
        pa.field("p_patched", pa.float32()),
    ]
)
KEY_COLUMNS: Final[tuple[str, ...]] = tuple(SCHEMA.names[:9])
SITE_COLUMNS: Final[tuple[str, ...]] = (KEY_COLUMNS[0], *KEY_COLUMNS[2:])
"""The key without the pair: rows that agree in these measure the same site."""
VALUE_COLUMNS: Final[tuple[str, ...]] = tuple(SCHEMA.names[9:])
TEXT_COLUMNS: Final[tuple[str, ...]] = tuple(f.name for f in SCHEMA if pa.types.is_string(f.type))
DIRECTIONS: Final[tuple[str, ...]] = ("denoise", "noise")
JUDGE: Final = "judge"
"""The experiment that only judges: one row a pair, nothing patched."""
EXACT_SAMPLE: Final = "exact_sample"
"""Patches of other experiments that were measured in less than full precision, measured again exactly."""
JOINT: Final = "joint"
"""The experiment, and the component of its rows, that patches sets of heads together."""
PATHS: Final = "paths"
"""Patches of one head's output as one other head alone reads it: rows of the experiment of that name."""
DIRECT: Final = "direct"
"""Patches that the final norm alone sees: the other rows of the experiment `paths`."""
TOTAL: Final = "total"
"""Ordinary patches of the modules of `direct` that neither `flow` nor `heads` has."""
NO_EFFECTS: Final = (JUDGE, EXACT_SAMPLE)
"""Experiments whose rows are no effects of their own."""

_EXPERIMENT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PATCHED_RUN = ("ld_patched", "p_patched")
_GIVEN_WHERE_PATCHED = {"component", "layer", "direction", *_PATCHED_RUN}
_FLOW = ("flow", "transfer_flow_clean", "transfer_flow_corrupted")
_HEADS = ("heads", "transfer_heads_clean", "transfer_heads_corrupted")
_GIVEN_BY_EXPERIMENT = {
    **{name: {"region"} for name in _FLOW},
    **{name: {"region", "head"} for name in _HEADS},
    "edges": {"head", "dest", "src"},
    JOINT: {"src"},
    **{name: {"region"} for name in (DIRECT, TOTAL)},
    PATHS: {"dest", "src"},
}
_NULL_BY_EXPERIMENT = {
    **{name: {"head", "dest", "src"} for name in _FLOW},
    **{name: {"dest", "src"} for name in _HEADS},
    "edges": {"region"},
    JOINT: {"head", "region", "dest"},
    **{name: {"dest", "src"} for name in (DIRECT, TOTAL)},
    PATHS: {"region"},
}
_BAD_VALUES = (pa.ArrowException, TypeError, ValueError, OverflowError)

Rows = Mapping[str, Sequence[Any] | np.ndarray | pd.Series]


def rows_table(experiment: str, rows: Rows | pa.Table | pd.DataFrame) -> pa.Table:
    """Rows as an Arrow table of SCHEMA, or an error that says what is wrong with them.

    Args:
        experiment: "judge", "flow", "heads", "edges", "joint", "direct", "total", "paths", "exact_sample", transfers
            from another model ("transfer_flow_clean" and so on) or a later one; lower-case letters, digits and
            underscores.
        rows: one sequence per column of SCHEMA, all of one length; `experiment` may be left out. None is null. Numbers
            are cast to float32 and int16. For "judge" the columns component to direction are null, and so are
            `ld_patched` and `p_patched` (NaN is taken for null there); every other experiment gives component, layer,
            direction and all six values, "flow" also the region, "heads" also region and head, and so their transfers,
            "edges" also head, dest and src, "joint" also src, the heads that are patched together, "direct" and "total"
            also the region, and "paths" also dest and src, its two ends (`path_ends`).

    Raises:
        InputError: a column is missing, unknown or of the wrong type, a value is NaN, infinite or out of range, a key
            comes twice, or there are no rows.
    """
    if not _EXPERIMENT_NAME.fullmatch(experiment):
        raise InputError(f"experiment {experiment!r}: use lower-case letters, digits and underscores")
    columns = _columns(experiment, rows)
    arrays = [_array(experiment, field, columns[field.name]) for field in SCHEMA]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    _check_presence(experiment, table)
    _check_values(experiment, table)
    repeated = key_index(table.select(KEY_COLUMNS).to_pandas()).duplicated()
    if repeated.any():
        first = int(np.argmax(repeated))
        raise InputError(f"{experiment} rows: {describe_key(table, first)} comes more than once")
    return table


def key_index(rows: pd.DataFrame) -> pd.MultiIndex:
    """The keys of `rows`, without the experiment, as a MultiIndex that can be compared and hashed.

    Levels are KEY_COLUMNS[1:]. A null becomes "" in a text level and -1 in `layer` and `head`, because a
    NaN equals nothing, not even itself; stored rows hold neither "" nor negative numbers.

    Raises:
        InputError: one of the key columns is missing.
    """
    names = list(KEY_COLUMNS[1:])
    absent = [name for name in names if name not in rows.columns]
    if absent:
        raise InputError(f"keys need the columns {', '.join(names)}; missing: {', '.join(absent)}")
    return pd.MultiIndex.from_arrays([_key_level(rows[name]) for name in names], names=names)


def describe_key(table: pa.Table, row: int) -> str:
    """One row's key for a message: only the columns that are not null."""
    cells = {name: table.column(name)[row].as_py() for name in KEY_COLUMNS[1:]}
    return ", ".join(f"{name} {value}" for name, value in cells.items() if value is not None)


def _key_level(column: pd.Series) -> pd.Series | pd.Categorical | np.ndarray:
    if column.name in ("layer", "head"):
        numbers: np.ndarray = column.astype("Int16").fillna(-1).to_numpy(dtype=np.int16)
        return numbers
    texts = column.astype("category").cat
    codes = texts.codes.to_numpy()
    categories = texts.categories.astype(object)
    if (codes < 0).any():
        if "" not in categories:
            categories = categories.append(pd.Index([""], dtype=object))
        codes = np.where(codes < 0, list(categories).index(""), codes)
    return pd.Categorical.from_codes(codes, categories=categories)


def _columns(experiment: str, rows: Rows | pa.Table | pd.DataFrame) -> dict[str, Any]:
    if isinstance(rows, pa.Table):
        columns: dict[str, Any] = {name: rows.column(name) for name in rows.column_names}
    else:
        columns = {str(name): values for name, values in rows.items()}
    unknown = [name for name in columns if name not in SCHEMA.names]
    missing = [name for name in SCHEMA.names if name not in columns and name != "experiment"]
    if unknown or missing:
        raise InputError(
            f"{experiment} rows: columns missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{experiment} rows: columns differ in length: {lengths}")
    n_rows = lengths["pair_id"]
    if n_rows == 0:
        raise InputError(f"{experiment} rows: there are none; a part holds at least one row")
    columns.setdefault("experiment", [experiment] * n_rows)
    return columns


def _array(experiment: str, field: pa.Field, values: Any) -> pa.Array:
    """`values` as an array of the field's type; only lossless casts, save float64 to float32."""
    where = f"{experiment} rows, column {field.name}"
    is_float = pa.types.is_floating(field.type)
    try:
        array = values
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            # Only in value columns NaN differs from null: there it is a failed measurement, to be refused
            # below.
            array = pa.array(values, from_pandas=not is_float)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if experiment == JUDGE and field.name in _PATCHED_RUN:
            array = pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(array.type) else array
        kind = array.type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (pa.types.is_null(kind) or (is_text if pa.types.is_string(field.type) else is_number)):
            raise InputError(f"{where}: holds {kind}, not {field.type}")
        # Rounding to float32 is what the column means; a whole number must stay exactly what it was.
        return array.cast(field.type, safe=not is_float)
    except InputError:
        raise
    except _BAD_VALUES as error:
        raise InputError(f"{where}: not {field.type} ({str(error).splitlines()[0]})") from error


def _check_presence(experiment: str, table: pa.Table) -> None:
    """Which columns are null and which are not depends on the experiment alone."""
    if experiment == JUDGE:
        null = {*KEY_COLUMNS[2:], *_PATCHED_RUN}
        given = set(SCHEMA.names) - null
    else:
        null = _NULL_BY_EXPERIMENT.get(experiment, set())
        given = {field.name for field in SCHEMA if not field.nullable} | _GIVEN_WHERE_PATCHED
        given |= _GIVEN_BY_EXPERIMENT.get(experiment, set())
    for name in SCHEMA.names:
        column = table.column(name)
        if name in given and column.null_count:
            raise InputError(f"{experiment} rows, column {name}: holds nulls, but is always given there")
        if name in null and column.null_count != len(column):
            raise InputError(f"{experiment} rows, column {name}: must be null there")


def _check_values(experiment: str, table: pa.Table) -> None:
    if pc.any(pc.not_equal(table.column("experiment"), experiment)).as_py():
        raise InputError(f"{experiment} rows: the column experiment says otherwise")
    for field in SCHEMA:
        column = table.column(field.name).drop_null()
        if pa.types.is_string(field.type):
            bad = pc.equal(column, "")
            right = "text that is not empty"
        elif pa.types.is_integer(field.type):
            bad = pc.less(column, 0)
            right = "a zero-based number"
        elif field.name.startswith("p_"):
            # The margin is a tanh, whose float32 rounding may pass 1 by an ulp.
            bad = pc.invert(pc.less_equal(pc.abs(column), 1.0 + 1e-6))
            right = "a probability margin between -1 and 1"
        else:
            bad = pc.invert(pc.is_finite(column))
            right = "a finite number"
        if field.name == "direction":
            bad = pc.invert(pc.is_in(column, pa.array(DIRECTIONS)))
            right = " or ".join(DIRECTIONS)
        if pc.any(bad).as_py():
            value = column.filter(bad)[0].as_py()
            raise InputError(f"{experiment} rows, column {field.name}: holds {value!r}, not {right}")
