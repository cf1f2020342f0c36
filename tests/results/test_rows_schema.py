"""Which rows may be stored, and in which form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from relscope.errors import InputError
from relscope.results import KEY_COLUMNS, SCHEMA, SITE_COLUMNS, VALUE_COLUMNS, key_index, rows_table


def heads(**changed: Any) -> dict[str, Any]:
    """Two valid rows of the experiment "heads"."""
    rows = {
        "pair_id": ["a:0", "a:1"],
        "component": ["z", "z"],
        "layer": [0, 1],
        "head": [2, 3],
        "region": ["last", "query.first"],
        "dest": [None, None],
        "src": [None, None],
        "direction": ["denoise", "denoise"],
        "ld_clean": [2.0, 3.0],
        "ld_corrupted": [-1.0, 0.5],
        "ld_patched": [0.25, 0.5],
        "p_clean": [0.7, 0.9],
        "p_corrupted": [-0.4, 0.2],
        "p_patched": [0.1, 0.2],
    }
    return rows | changed


def judge(**changed: Any) -> dict[str, Any]:
    nothing = [None, None]
    names = ("component", "layer", "head", "region", "dest", "src", "direction", "ld_patched", "p_patched")
    return heads() | dict.fromkeys(names, nothing) | changed


def flow(**changed: Any) -> dict[str, Any]:
    return heads(head=[None, None], component=["attn_out", "mlp_out"]) | changed


def test_the_columns_are_those_of_the_design_in_their_order() -> None:
    assert ", ".join(SCHEMA.names) == (
        "experiment, pair_id, component, layer, head, region, dest, src, direction, ld_clean, ld_corrupted, "
        "ld_patched, p_clean, p_corrupted, p_patched"
    )
    assert KEY_COLUMNS[0] == "experiment"
    assert KEY_COLUMNS[-1] == "direction"
    assert (*KEY_COLUMNS, *VALUE_COLUMNS) == tuple(SCHEMA.names)
    assert set(KEY_COLUMNS) - set(SITE_COLUMNS) == {"pair_id"}


def test_valid_rows_keep_their_values_and_get_the_stored_types() -> None:
    table = rows_table("heads", heads(layer=np.array([0, 31]), ld_clean=np.array([2.0, 0.1])))
    assert table.schema.equals(SCHEMA)
    assert table.column("experiment").to_pylist() == ["heads", "heads"]
    assert table.column("layer").to_pylist() == [0, 31]
    # 0.1 is stored as the nearest float32, which is what the column means
    assert table.column("ld_clean").to_pylist() == [2.0, float(np.float32(0.1))]
    assert table.column("dest").to_pylist() == [None, None]


@pytest.mark.parametrize(
    "form",
    [
        dict,
        lambda rows: {name: np.array(column, dtype=object) for name, column in rows.items()},
        pd.DataFrame.from_dict,
        lambda rows: pd.DataFrame(rows).convert_dtypes(),
        lambda rows: pd.DataFrame(rows).astype({"pair_id": "category", "region": "category"}),
        pa.table,
        lambda rows: pa.Table.from_pandas(pd.DataFrame(rows).astype({"region": "category"})),
    ],
    ids=["lists", "object arrays", "frame", "nullable frame", "categories", "arrow", "arrow dictionaries"],
)
def test_every_usual_form_of_the_same_rows_gives_the_same_table(form: Any) -> None:
    for experiment, rows in (("heads", heads()), ("flow", flow()), ("judge", judge())):
        assert rows_table(experiment, form(rows)).equals(rows_table(experiment, rows))


def test_numpy_numbers_of_any_width_are_taken() -> None:
    rows = heads(
        layer=np.array([0, 1], np.int8),
        head=np.array([2, 3], np.uint64),
        ld_clean=np.array([2, 3], np.float16),
        ld_patched=np.array([0.25, 0.5], np.float64),
    )
    assert rows_table("heads", rows).equals(rows_table("heads", heads()))


def test_nan_stands_for_null_in_the_patched_columns_of_the_judge_alone() -> None:
    nan = np.full(2, np.nan)
    assert rows_table("judge", judge(ld_patched=nan, p_patched=nan)).equals(rows_table("judge", judge()))
    with pytest.raises(InputError, match="column ld_patched: holds nan"):
        rows_table("heads", heads(ld_patched=nan))


def test_an_experiment_of_edges_needs_no_region() -> None:
    rows = heads(region=[None, None], dest=["last", "query"], src=["document", "document"])
    assert rows_table("edges", rows).column("src").to_pylist() == ["document", "document"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ld_clean": [np.nan, 1.0]}, "column ld_clean: holds nan, not a finite number"),
        ({"ld_corrupted": [np.inf, 1.0]}, "column ld_corrupted: holds inf"),
        ({"ld_clean": [1e300, 1.0]}, "column ld_clean: holds inf"),
        ({"ld_patched": [None, 1.0]}, "column ld_patched: holds nulls"),
        ({"ld_clean": [None, 1.0]}, "column ld_clean: holds nulls"),
        ({"ld_clean": ["1", "2"]}, "column ld_clean: holds string, not float"),
        ({"ld_clean": [True, False]}, "column ld_clean: holds bool, not float"),
        ({"p_patched": [np.nan, 0.0]}, "column p_patched: holds nan"),
        ({"p_clean": [1.5, 0.0]}, "column p_clean: holds 1.5, not a probability margin"),
        ({"p_clean": [-1.01, 0.0]}, "column p_clean"),
        ({"layer": [-1, 0]}, "column layer: holds -1, not a zero-based number"),
        ({"layer": [1.5, 0.0]}, "column layer: not int16"),
        ({"layer": [40000, 0]}, "column layer: not int16"),
        ({"layer": [True, False]}, "column layer: holds bool"),
        ({"layer": ["L1", "L2"]}, "column layer: holds string"),
        ({"layer": [None, 1]}, "column layer: holds nulls"),
        ({"head": [None, 1]}, "column head: holds nulls"),
        ({"region": [None, "last"]}, "column region: holds nulls"),
        ({"region": ["", "last"]}, "column region: holds '', not text"),
        ({"dest": ["last", None]}, "column dest: must be null"),
        ({"pair_id": [1, 2]}, "column pair_id: holds int64, not string"),
        ({"pair_id": ["a", None]}, "column pair_id: holds nulls"),
        ({"pair_id": ["a", "\ud800"]}, "column pair_id: not string"),
        ({"pair_id": ["a", 1]}, "column pair_id: not string"),
        ({"direction": ["denoise", "Noise"]}, "column direction: holds 'Noise', not denoise or noise"),
        ({"direction": [None, "noise"]}, "column direction: holds nulls"),
        ({"experiment": ["heads", "flow"]}, "the column experiment says otherwise"),
        ({"score": [1.0, 2.0]}, "unknown: score"),
        ({"layer": [0]}, "columns differ in length"),
        (
            {"pair_id": ["a:0", "a:0"], "layer": [0, 0], "head": [2, 2], "region": ["last", "last"]},
            "pair_id a:0, component z, layer 0, head 2, region last, direction denoise comes more than once",
        ),
    ],
)
def test_rows_that_mean_nothing_are_refused_with_the_column(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_table("heads", heads(**changed))


def test_a_missing_column_is_named() -> None:
    rows = heads()
    del rows["p_clean"]
    with pytest.raises(InputError, match="columns missing: p_clean; unknown: none"):
        rows_table("heads", rows)


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="there are none"):
        rows_table("heads", {name: [] for name in heads()})


def test_a_flow_row_has_no_head_and_a_judge_row_no_site() -> None:
    with pytest.raises(InputError, match="flow rows, column head: must be null"):
        rows_table("flow", flow(head=[0, None]))
    with pytest.raises(InputError, match="judge rows, column region: must be null"):
        rows_table("judge", judge(region=["last", None]))
    with pytest.raises(InputError, match="judge rows, column ld_patched: must be null"):
        rows_table("judge", judge(ld_patched=[np.nan, 0.5]))


def test_two_judge_rows_of_one_pair_are_refused() -> None:
    with pytest.raises(InputError, match="pair_id a:0 comes more than once"):
        rows_table("judge", judge(pair_id=["a:0", "a:0"]))


@pytest.mark.parametrize("name", ["Heads", "heads-1", "", "../heads", "1st", "heads\n"])
def test_an_experiment_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="experiment"):
        rows_table(name, heads())


def test_keys_put_a_comparable_value_where_a_null_was() -> None:
    keys = key_index(rows_table("judge", judge()).to_pandas())
    assert keys.tolist() == [("a:0", "", -1, -1, "", "", "", ""), ("a:1", "", -1, -1, "", "", "", "")]
    keys = key_index(pd.DataFrame(flow()))
    assert keys.tolist()[1] == ("a:1", "mlp_out", 1, -1, "query.first", "", "", "denoise")


def test_keys_are_the_same_whatever_types_the_columns_have() -> None:
    frame = pd.DataFrame(heads())
    expected = key_index(frame).tolist()
    as_categories = frame.astype({"pair_id": "category", "dest": "category", "region": "category"})
    as_floats = frame.astype({"layer": "float64", "head": "float64"})
    with_empty_text = frame.assign(dest=["", None])
    for same in (as_categories, as_floats, frame.convert_dtypes(), with_empty_text):
        assert key_index(same).tolist() == expected


def test_keys_without_a_key_column_are_refused() -> None:
    with pytest.raises(InputError, match="missing: head"):
        key_index(pd.DataFrame(heads()).drop(columns="head"))
