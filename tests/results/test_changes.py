"""The tables of a comparison: what may be stored, whole files, and rows of transfers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relscope.errors import InputError
from relscope.results import (
    HEAD_CHANGES,
    WEIGHT_CHANGES,
    RunError,
    changes_path,
    read_changes,
    rows_table,
    write_changes,
)


def heads(**changed: Any) -> dict[str, Any]:
    """Two valid rows of heads."""
    rows = {
        "pair_id": ["a:0", "a:0"], "prompt": ["clean", "corrupted"], "layer": [0, 31], "head": [2, 0],
        "region": ["last", "query"], "norm_base": [1.0, 0.5], "norm_tuned": [1.25, 0.0], "distance": [0.25, 0.5],
    }  # fmt: skip
    return rows | changed


def weights(**changed: Any) -> dict[str, Any]:
    """Three valid rows of weights: a matrix, a head's share of it, and an embedding."""
    rows = {
        "name": ["q.weight", "q.weight", "embed.weight"], "layer": [3, 3, None], "head": [None, 7, None],
        "part": ["q", "q", "embedding"], "n_values": [2**33, 256, 1000], "norm_base": [4.0, 1.0, 9.0],
        "norm_change": [0.5, 0.5, 0.0],
    }  # fmt: skip
    return rows | changed


def test_what_is_written_is_read_back_with_its_nulls_and_types(tmp_path: Path) -> None:
    assert write_changes(tmp_path, HEAD_CHANGES, heads()) == tmp_path / "changes" / "heads.parquet"
    assert write_changes(tmp_path, WEIGHT_CHANGES, weights()) == tmp_path / "changes" / "weights.parquet"
    found, moved = read_changes(tmp_path, HEAD_CHANGES), read_changes(tmp_path, WEIGHT_CHANGES)
    assert found is not None
    assert moved is not None
    assert {name: found[name].tolist() for name in found} == heads()
    assert [str(dtype) for dtype in found.dtypes[["layer", "norm_base", "distance"]]] == ["Int16", "float32", "float32"]
    assert moved["n_values"].tolist() == [2**33, 256, 1000]
    assert moved["layer"].isna().tolist() == [False, False, True]
    assert moved["head"].isna().tolist() == [True, False, True]


def test_a_table_that_is_not_written_yet_is_none(tmp_path: Path) -> None:
    assert read_changes(tmp_path, HEAD_CHANGES) is None


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"distance": [0.1, math.nan]}, r"column distance: holds nan, not a finite number of at least 0"),
        ({"norm_base": [0.1, math.inf]}, r"column norm_base: holds inf, not a finite number of at least 0"),
        ({"norm_tuned": [-0.5, 1.0]}, r"column norm_tuned: holds -0\.5, not a finite number of at least 0"),
        ({"pair_id": ["a:0", None]}, r"column pair_id: holds nulls"),
        ({"layer": [0, 2**20]}, r"heads: "),
        ({"head": ["two", 1]}, r"heads: "),
        ({"distance": [0.1]}, r"heads: "),
        ({"more": [1, 2]}, r"columns missing or unknown: more"),
    ],
)
def test_what_does_not_belong_into_the_table_is_refused(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        write_changes(tmp_path, HEAD_CHANGES, heads(**changed))
    assert read_changes(tmp_path, HEAD_CHANGES) is None


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    columns = weights()
    del columns["n_values"]
    with pytest.raises(InputError, match="weights: columns missing or unknown: n_values"):
        write_changes(tmp_path, WEIGHT_CHANGES, columns)


def test_a_damaged_table_is_named_and_may_be_deleted(tmp_path: Path) -> None:
    path = write_changes(tmp_path, HEAD_CHANGES, heads())
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:40] + bytes([content[40] ^ 255]) + content[41:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"heads\.parquet: damaged .*delete it"):
            read_changes(tmp_path, HEAD_CHANGES)
    path.write_bytes(content)
    assert read_changes(tmp_path, HEAD_CHANGES) is not None


def test_the_table_of_the_other_kind_is_damaged_there(tmp_path: Path) -> None:
    path = write_changes(tmp_path, HEAD_CHANGES, heads())
    path.rename(changes_path(tmp_path, WEIGHT_CHANGES))
    with pytest.raises(RunError, match=r"weights\.parquet: damaged"):
        read_changes(tmp_path, WEIGHT_CHANGES)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / ".heads.parquet.partial").write_bytes(b"half")
    assert read_changes(tmp_path, HEAD_CHANGES) is None
    write_changes(tmp_path, HEAD_CHANGES, heads())
    assert [path.name for path in (tmp_path / "changes").iterdir()] == ["heads.parquet"]


def transfer(**changed: Any) -> dict[str, Any]:
    """Two rows of a transfer of heads."""
    values = np.array([0.25, -0.5])
    rows: dict[str, Any] = {
        "pair_id": ["a:0", "a:1"], "component": ["z", "z"], "layer": [0, 1], "head": [2, 3], "region": ["last", "all"],
        "dest": [None, None], "src": [None, None], "direction": ["denoise", "denoise"],
    }  # fmt: skip
    margins = {f"p_{run}": np.tanh(values / 2) for run in ("clean", "corrupted", "patched")}
    return rows | {f"ld_{run}": values for run in ("clean", "corrupted", "patched")} | margins | changed


@pytest.mark.parametrize("prompt", ["clean", "corrupted"])
def test_rows_of_transfers_name_their_site_as_those_of_a_study_do(prompt: str) -> None:
    assert rows_table(f"transfer_heads_{prompt}", transfer()).num_rows == 2
    no_heads = transfer(head=[None, None], component=["attn_out", "mlp_out"])
    assert rows_table(f"transfer_flow_{prompt}", no_heads).num_rows == 2
    with pytest.raises(InputError, match="column head: holds nulls"):
        rows_table(f"transfer_heads_{prompt}", no_heads)
    with pytest.raises(InputError, match="column head: must be null"):
        rows_table(f"transfer_flow_{prompt}", transfer())
    with pytest.raises(InputError, match="column region: holds nulls"):
        rows_table(f"transfer_heads_{prompt}", transfer(region=[None, "all"]))
