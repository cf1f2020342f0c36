"""The tables of a run's readouts: what may be stored, whole files, and what is there before they are written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from relscope.errors import InputError
from relscope.results import (
    CONTRIBUTIONS,
    INTERACTION,
    LENS,
    VOCABULARY,
    RunError,
    read_readout,
    readout_path,
    rows_table,
    write_readout,
)

TABLES: dict[str, tuple[pa.Schema, dict[str, list[Any]]]] = {
    "interaction": (
        INTERACTION,
        {"pair_id": ["a:0", "a:0"], "layer": [0, 1], "head": [3, 0], "positive": [1.5, 0.0], "negative": [0.25, 2.0]},
    ),
    "contributions": (
        CONTRIBUTIONS,
        {
            "pair_id": ["a:0", "a:0", "a:1"], "run": ["clean", "clean", "corrupted"],
            "part": ["head", "mlp", "logit_diff"], "layer": [2, 2, None], "head": [1, None, None],
            "value": [-0.5, 0.25, -0.25],
        },
    ),
    "lens": (
        LENS,
        {"pair_id": ["a:0"], "run": ["clean"], "region": ["last"], "layer": [7], "logit_diff": [-3.5]},
    ),
    "vocabulary": (
        VOCABULARY,
        {
            "region": ["last", "last"], "layer": [0, 0], "head": [2, 2], "end": ["top", "bottom"], "rank": [0, 0],
            "token_id": [49151, 70000], "token": [" yes", ""], "logit": [2.5, -1.5], "n_pairs": [64, 64],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_what_is_written_is_read_back_with_its_nulls_and_signs(tmp_path: Path, name: str) -> None:
    schema, columns = TABLES[name]
    path = write_readout(tmp_path, schema, columns)
    assert path == readout_path(tmp_path, schema) == tmp_path / "readouts" / f"{name}.parquet"
    found = read_readout(tmp_path, schema)
    # Every number here is a float32.
    assert {column: [None if pd.isna(value) else value for value in found[column]] for column in found} == columns


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_written_yet_has_its_columns_and_no_rows(tmp_path: Path, name: str) -> None:
    schema, columns = TABLES[name]
    absent = read_readout(tmp_path, schema)
    assert (list(absent), len(absent)) == (schema.names, 0)
    write_readout(tmp_path, schema, columns)
    assert absent.dtypes.tolist() == read_readout(tmp_path, schema).dtypes.tolist()


@pytest.mark.parametrize(
    ("name", "changed", "problem"),
    [
        ("contributions", {"value": [math.nan, 0.0, 0.0]}, "column value: holds nan, not a finite number"),
        ("lens", {"logit_diff": [-math.inf]}, "column logit_diff: holds -inf, not a finite number"),
        ("interaction", {"head": [None, 0]}, "column head: holds nulls"),
        ("interaction", {"positive": [1.0]}, "interaction: "),
        ("vocabulary", {"token_id": ["yes", 1]}, "vocabulary: "),
        ("vocabulary", {"n_runs": [1, 1]}, "vocabulary: columns missing or unknown: n_runs"),
    ],
)
def test_what_does_not_belong_into_the_table_is_refused(
    tmp_path: Path, name: str, changed: dict[str, Any], problem: str
) -> None:
    schema, columns = TABLES[name]
    with pytest.raises(InputError, match=problem):
        write_readout(tmp_path, schema, columns | changed)
    assert not readout_path(tmp_path, schema).exists()


def test_a_table_is_replaced_whole_and_a_killed_writers_half_is_cleared_away(tmp_path: Path) -> None:
    schema, columns = TABLES["lens"]
    write_readout(tmp_path, schema, columns)
    half = tmp_path / "readouts" / ".lens.parquet.partial"
    half.write_bytes(b"half")
    write_readout(tmp_path, schema, columns | {"logit_diff": [1.0]})
    assert read_readout(tmp_path, schema)["logit_diff"].tolist() == [1.0]
    assert not half.exists()


def test_a_damaged_table_is_named_and_may_be_deleted(tmp_path: Path) -> None:
    schema, columns = TABLES["interaction"]
    path = write_readout(tmp_path, schema, columns)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"interaction\.parquet: damaged .*delete it"):
        read_readout(tmp_path, schema)


def joint(**changed: Any) -> dict[str, Any]:
    """Two rows of sets of heads."""
    rows: dict[str, Any] = {
        "pair_id": ["a:0", "a:0"], "component": ["joint", "joint"], "layer": [1, 0], "head": [None, None],
        "region": [None, None], "dest": [None, None], "src": ["L1H2@query", "L0H3@last+L1H2@query"],
        "direction": ["denoise", "denoise"],
    }  # fmt: skip
    values = {f"{kind}_{run}": [0.0, 0.5] for kind in ("ld", "p") for run in ("clean", "corrupted", "patched")}
    return rows | values | changed


def test_joint_rows_name_their_heads_in_src_and_have_no_site_of_their_own() -> None:
    assert rows_table("joint", joint()).column("src").to_pylist() == ["L1H2@query", "L0H3@last+L1H2@query"]
    with pytest.raises(InputError, match="joint rows, column src: holds nulls"):
        rows_table("joint", joint(src=[None, "L0H3@last"]))
    for column, value in (("head", 1), ("region", "last"), ("dest", "last")):
        with pytest.raises(InputError, match=f"joint rows, column {column}: must be null"):
            rows_table("joint", joint(**{column: [value, None]}))


def test_edge_rows_have_a_head_and_both_ends_and_no_region() -> None:
    edges = joint(component=["scores", "pattern"], head=[2, 2], dest=["last", "last"], src=["query", "query"])
    assert rows_table("edges", edges).num_rows == 2
    for column in ("head", "dest", "src"):
        with pytest.raises(InputError, match=f"edges rows, column {column}: holds nulls"):
            rows_table("edges", edges | {column: [None, edges[column][1]]})
    with pytest.raises(InputError, match="edges rows, column region: must be null"):
        rows_table("edges", edges | {"region": ["last", None]})
