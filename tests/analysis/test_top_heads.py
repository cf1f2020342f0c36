"""Lists of the strongest heads, on tables small enough to check by eye."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from relscope.analysis import top_heads
from relscope.errors import InputError


def effects(*sites: tuple[Any, ...]) -> pd.DataFrame:
    """Sites as (component, layer, head, region, effect)."""
    table = pd.DataFrame(sites, columns=["component", "layer", "head", "region", "effect"])
    table = table.astype({"layer": "Int16", "head": "Int16"})
    return table.assign(experiment="heads", dest=None, src=None, direction="denoise")


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


def test_direct_effects_are_no_second_row_of_a_head_and_do_not_rank_it() -> None:
    at_last = HEADS[(HEADS["component"] == "z") & (HEADS["region"] == "last")]
    direct = at_last.assign(experiment="direct", effect=-10.0 * at_last["effect"][::-1].to_numpy())
    with_paths = pd.concat([HEADS, direct], ignore_index=True)
    pd.testing.assert_frame_equal(top_heads(with_paths, "last"), top_heads(HEADS, "last"))
    # What `heads` has not measured at the last token, `paths` has, as its total effects.
    totals = at_last.assign(experiment="total")
    pd.testing.assert_frame_equal(
        top_heads(pd.concat([direct, totals], ignore_index=True), "last"), top_heads(totals, "last")
    )
    assert top_heads(direct, "last")["effect"].abs().tolist() == [50.0, 30.0, 30.0, 30.0, 10.0]


def test_fewer_than_one_top_head_is_refused() -> None:
    with pytest.raises(InputError, match="k is 0"):
        top_heads(HEADS, "last", k=0)


def test_two_directions_are_refused_rather_than_mixed() -> None:
    both = pd.concat([HEADS, HEADS.assign(direction="noise")], ignore_index=True)
    with pytest.raises(InputError, match="layer 0, head 1 comes more than once"):
        top_heads(both, "last")
