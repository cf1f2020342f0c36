"""Direct and mediated effects and the ends of paths, from rows whose numbers are known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import effect_splits, path_effects, site_effects
from relscope.errors import InputError
from relscope.results import SCHEMA, PathEnd, rows_table

QUERIES = {f"p{n}": f"q{n // 2}" for n in range(8)}
NOTHING = dict.fromkeys(SCHEMA.names)


def rows(experiment: str, changes: Any, *, direction: str = "denoise", **place: Any) -> pd.DataFrame:
    """One row a pair; the start lies at 1, so that LD_patched is 1 + the change, and the other run at 5."""
    start, end = ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    values = {f"ld_{start}": 1.0, f"ld_{end}": 5.0, "p_clean": 0.0, "p_corrupted": 0.0, "p_patched": 0.0}
    frame = pd.DataFrame([{**NOTHING, **place, **values, "direction": direction} for _ in changes])
    frame = frame.assign(experiment=experiment, pair_id=list(QUERIES)[: len(changes)])
    frame["ld_patched"] = 1.0 + np.asarray(changes, dtype=np.float64)
    return rows_table(experiment, frame).to_pandas(types_mapper={SCHEMA.field("layer").type: pd.Int16Dtype()}.get)


def test_mediated_is_the_rest_of_the_total_effect_and_intervals_resample_both_together() -> None:
    total, direct = np.arange(8.0), np.arange(8.0) - 2.0
    at_last = {"component": "z", "layer": 3, "head": 1, "region": "last"}
    table = pd.concat(
        [
            rows("heads", total, **at_last),
            rows("direct", direct, **at_last),
            rows("heads", total, **{**at_last, "region": "query"}),
            rows("flow", [2.0] * 8, component="mlp_out", layer=0, region="last"),
            rows("direct", [0.5] * 8, component="mlp_out", layer=0, region="last"),
            rows("direct", [0.5] * 8, component="resid_pre", layer=0, region="last"),
        ]
    )
    found = effect_splits(table, QUERIES)
    assert [tuple(of) for of in found[["component", "layer"]].to_numpy()] == [("z", 3), ("mlp_out", 0)]
    head, mlp = found.to_dict("records")
    assert (head["total"], head["direct"], head["mediated"]) == (3.5, 1.5, 2.0)
    # The rest is 2 on every pair, however both vary: its interval is a point, theirs are not.
    assert (head["mediated_low"], head["mediated_high"]) == pytest.approx((2.0, 2.0))
    assert head["total_high"] - head["total_low"] > 1.0
    assert (mlp["total"], mlp["direct"], mlp["mediated"]) == (2.0, 0.5, 1.5)
    assert set(found["n_pairs"]) == {8}
    assert set(found["n_queries"]) == {4}
    # All four queries have one sign: of 2^3 patterns one is as extreme. Of two modules with the same p, q is p.
    assert found["mediated_p_value"].tolist() == found["mediated_q_value"].tolist() == [1 / 8, 1 / 8]
    # The same numbers and intervals as where the total alone is looked at.
    effects = site_effects(table, QUERIES)
    alone = effects[(effects["experiment"] == "heads") & (effects["region"] == "last")].iloc[0]
    ends = [head[f"total{end}"] for end in ("", "_low", "_high", "_p_value")]
    assert ends == pytest.approx([alone["effect"], alone["effect_low"], alone["effect_high"], alone["p_value"]])


def test_only_pairs_with_both_effects_count_and_one_query_has_no_interval() -> None:
    place = {"component": "attn_out", "layer": 1, "region": "last"}
    table = pd.concat([rows("total", np.arange(8.0), **place), rows("direct", [1.0, 1.0], **place)])
    (found,) = effect_splits(table, QUERIES).to_dict("records")
    assert (found["n_pairs"], found["n_queries"]) == (2, 1)
    assert (found["total"], found["direct"], found["mediated"]) == (0.5, 1.0, -0.5)
    assert all(np.isnan(found[f"mediated{end}"]) for end in ("_low", "_high", "_p_value", "_q_value"))


def test_directions_are_split_apart_and_a_module_with_one_effect_alone_is_not_there() -> None:
    place = {"component": "attn_out", "layer": 1, "region": "last"}
    table = pd.concat(
        [
            rows("total", [2.0] * 8, **place),
            rows("direct", [1.0] * 8, **place),
            rows("total", [-4.0] * 8, direction="noise", **place),
            rows("direct", [-1.0] * 8, direction="noise", **place),
            rows("total", [1.0] * 8, **{**place, "layer": 2}),
        ]
    )
    found = effect_splits(table, QUERIES).set_index("direction")["mediated"]
    assert found.to_dict() == {"denoise": 1.0, "noise": -3.0}
    assert len(effect_splits(table[table["experiment"] == "total"], QUERIES)) == 0
    assert len(effect_splits(table.iloc[:0], QUERIES)) == 0


def test_paths_are_taken_apart_into_their_ends() -> None:
    table = pd.concat(
        [
            rows("paths", [1.0] * 8, component="frozen", layer=0, head=2, src="L0H2@query", dest="L2H1.k_view@query"),
            rows("paths", [2.0] * 8, component="open", layer=0, src="embedding@document", dest="L10H11@last"),
        ]
    )
    found = path_effects(site_effects(table, QUERIES))
    columns = ["src", "dest", "variant", "input", "sender_layer", "sender_head", "sender_region"]
    columns += ["receiver_layer", "receiver_head", "receiver_region", "effect"]
    shown = found[columns].astype(object).where(found[columns].notna(), None).to_numpy().tolist()
    assert shown == [
        ["L0H2@query", "L2H1.k_view@query", "frozen", "k_view", 0, 2, "query", 2, 1, "query", 1.0],
        ["embedding@document", "L10H11@last", "open", "z", 0, None, "document", 10, 11, "last", 2.0],
    ]
    assert len(path_effects(site_effects(table.iloc[:0], QUERIES))) == 0


@pytest.mark.parametrize("name", ["L1H2@last", "L12H3.v_view@query.first", "embedding@document"])
def test_an_end_is_read_as_it_is_written(name: str) -> None:
    assert PathEnd.read(name).name == name


@pytest.mark.parametrize("name", ["L1H2", "L1H2.z@last", "L1@last", "embedding", "embedding@", "L1H2.x@last"])
def test_a_name_of_no_end_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no end of a path: one is named like L12H3@last"):
        PathEnd.read(name)


def test_rows_of_paths_need_both_ends_and_those_of_direct_effects_a_region() -> None:
    with pytest.raises(InputError, match="paths rows, column dest: holds nulls"):
        rows("paths", [1.0], component="frozen", layer=0, head=2, src="L0H2@query")
    with pytest.raises(InputError, match="direct rows, column region: holds nulls"):
        rows("direct", [1.0], component="z", layer=0, head=2)
    with pytest.raises(InputError, match="paths rows, column region: must be null there"):
        rows("paths", [1.0], component="frozen", layer=0, src="L0H2@query", dest="L2H1@last", region="last")
