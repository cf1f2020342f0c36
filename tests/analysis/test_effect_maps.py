"""Grids and lists of effects, on tables small enough to check by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import layer_head_map, layer_region_map, top_heads
from relscope.errors import InputError

NAN = float("nan")


def effects(*sites: tuple[Any, ...]) -> pd.DataFrame:
    """Sites as (component, layer, head, region, effect); low and high are 0.5 away, IE is a tenth."""
    table = pd.DataFrame(sites, columns=["component", "layer", "head", "region", "effect"])
    table = table.astype({"layer": "Int16", "head": "Int16"})
    table["effect_low"], table["effect_high"] = table["effect"] - 0.5, table["effect"] + 0.5
    for end in ("", "_low", "_high"):
        table[f"ie{end}"] = table[f"effect{end}"] / 10
        table[f"p_effect{end}"] = -table[f"effect{end}"]
    return table.assign(experiment="heads", dest=None, src=None, direction="denoise")


FLOW = effects(
    ("attn_out", 0, None, "query", 1.0),
    ("attn_out", 2, None, "query", 2.0),
    ("attn_out", 0, None, "last", 3.0),
    ("mlp_out", 1, None, "last", 9.0),
    ("z", 0, 1, "last", 7.0),
)
HEADS = effects(
    ("z", 0, 1, "last", -5.0),
    ("z", 2, 0, "last", 3.0),
    ("z", 1, 1, "last", 3.0),
    ("z", 1, 0, "last", -3.0),
    ("z", 0, 0, "last", 1.0),
    ("z", 2, 1, "query", 50.0),
    ("q", 2, 1, "last", 60.0),
    ("attn_out", 2, None, "last", 70.0),
)


def test_a_region_map_holds_each_effect_in_its_cell_and_nan_where_nothing_was_measured() -> None:
    found = layer_region_map(FLOW, "attn_out")
    assert found.columns == ("query", "last")
    np.testing.assert_array_equal(found.effect, [[1.0, 3.0], [NAN, NAN], [2.0, NAN]])
    np.testing.assert_array_equal(found.low, found.effect - 0.5)
    np.testing.assert_array_equal(found.high, found.effect + 0.5)


def test_a_region_map_takes_the_given_regions_layers_and_measure() -> None:
    found = layer_region_map(FLOW, "attn_out", regions=("last", "document"), n_layers=4, measure="ie")
    assert found.columns == ("last", "document")
    np.testing.assert_array_equal(
        found.effect, [[0.3, NAN], [NAN, NAN], [NAN, NAN], [NAN, NAN]]
    )  # 3.0 / 10 is computed the same way there


def test_a_head_map_holds_each_head_in_its_cell() -> None:
    found = layer_head_map(HEADS, "last")
    assert found.columns == (0, 1)
    np.testing.assert_array_equal(found.effect, [[1.0, -5.0], [-3.0, 3.0], [3.0, NAN]])
    wide = layer_head_map(HEADS, "last", n_layers=3, n_heads=4, measure="p_effect")
    assert wide.effect.shape == (3, 4)
    np.testing.assert_array_equal(wide.effect[:, :2], -found.effect)
    assert np.isnan(wide.effect[:, 2:]).all()


def test_a_map_of_nothing_is_empty() -> None:
    assert layer_head_map(HEADS, "document").effect.shape == (0, 0)
    assert layer_region_map(FLOW, "resid_post").effect.shape == (0, 0)
    empty = layer_head_map(HEADS, "document", n_layers=3, n_heads=2)
    assert empty.effect.shape == (3, 2)
    assert np.isnan(empty.effect).all()


def test_a_map_of_two_directions_is_refused_rather_than_overwritten() -> None:
    both = pd.concat([HEADS, HEADS.assign(direction="noise")], ignore_index=True)
    with pytest.raises(InputError, match="layer 0, head 1, region last comes more than once"):
        layer_head_map(both, "last")
    with pytest.raises(InputError, match="layer 0, head 1 comes more than once"):
        top_heads(both, "last")
    with pytest.raises(InputError, match="comes more than once"):
        layer_region_map(pd.concat([FLOW, FLOW], ignore_index=True), "attn_out")


def test_a_site_outside_the_map_is_refused_rather_than_dropped() -> None:
    with pytest.raises(InputError, match="layer 2 was measured, but the map has 2"):
        layer_head_map(HEADS, "last", n_layers=2)
    with pytest.raises(InputError, match="head 1 was measured, but the map has 1"):
        layer_head_map(HEADS, "last", n_heads=1)


def test_top_heads_are_those_of_largest_absolute_effect_ties_by_layer_then_head() -> None:
    top = top_heads(HEADS, "last", k=4)
    assert list(zip(top["layer"], top["head"], top["effect"], strict=True)) == [
        (0, 1, -5.0),
        (1, 0, -3.0),
        (1, 1, 3.0),
        (2, 0, 3.0),
    ]
    assert top.index.tolist() == [0, 1, 2, 3]
    assert set(top.columns) == set(HEADS.columns)


def test_top_heads_gives_all_there_are_and_none_where_there_are_none() -> None:
    assert len(top_heads(HEADS, "last", k=99)) == 5
    assert len(top_heads(HEADS, "document")) == 0
    assert top_heads(HEADS, "last", component="q")["effect"].tolist() == [60.0]


def test_fewer_than_one_top_head_is_refused() -> None:
    with pytest.raises(InputError, match="k is 0"):
        top_heads(HEADS, "last", k=0)
