"""A circuit's JSON loads back as it was, and what is no circuit is refused with what is wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from relscope.analysis import Circuit, Head, heads_of, ranked_sites
from relscope.errors import InputError

CIRCUIT = Circuit(
    members=(Head(2, 1, "last"), Head(0, 2, "query")),
    regions=("query", "last"),
    n_layers=3,
    n_heads=4,
    model={"name": "m", "adapter": None, "fingerprint": "f" * 64},
    loading={"model": "m"},
    prompt={"format": "pointwise", "order": "dqi", "answers": ["yes", "no"]},
    data={"source": "demo", "sha256": "0", "negatives": "hard", "seed": 0},
    selection={"q1": "wie groß?"},
    ablation={"kind": "mean", "positions": "region"},
    faithfulness={"n_queries": 3},
)


def test_it_loads_back_as_it_was(tmp_path: Path) -> None:
    assert Circuit.load(CIRCUIT.save(tmp_path / "c.json")) == CIRCUIT
    assert Circuit.from_json(CIRCUIT.to_json()) == CIRCUIT
    assert list(CIRCUIT) == [(2, 1, "last"), (0, 2, "query")]
    empty = dataclasses.replace(CIRCUIT, members=())
    assert Circuit.from_json(empty.to_json()) == empty


def test_members_and_others_are_all_sites() -> None:
    assert len(CIRCUIT.all_sites) == 2 * 3 * 4
    assert set(CIRCUIT.others) | set(CIRCUIT) == set(CIRCUIT.all_sites)
    assert len(CIRCUIT.others) == 22


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"members": [[9, 0, "last"]]}, "L9H0@last is none of the sites of 3 layers with 4 heads at query, last"),
        ({"members": [[0, 0, "document"]]}, "L0H0@document is none of the sites"),
        ({"members": [[0, 0, "last"], [0, 0, "last"]]}, "L0H0@last stands twice"),
        ({"members": [[0, "x", "last"]]}, "circuit, field members.0.1: "),
        ({"regions": ["last", "all"]}, "regions last, all: a circuit needs regions that share no token, such as last"),
        ({"regions": []}, "regions (none)"),
        ({"size": 3}, "circuit, field size: "),
        ({"relscope_circuit": 2}, "relscope_circuit is 2"),
    ],
)
def test_what_is_no_circuit_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(json.loads(CIRCUIT.to_json()) | changed))
    with pytest.raises(InputError) as refused:
        Circuit.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_files_that_are_not_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    for path, message in (("c.json", "damaged, not JSON"), ("none.json", "cannot be read")):
        with pytest.raises(InputError, match=message):
            Circuit.load(tmp_path / path)
    with pytest.raises(InputError, match="no field relscope_circuit"):
        Circuit.from_json("[]")


def test_only_the_same_weights_are_the_same_model() -> None:
    CIRCUIT.check_model({"name": "other name", "fingerprint": "f" * 64})
    with pytest.raises(InputError, match="the circuit was found in m, and n with a has other weights"):
        CIRCUIT.check_model({"name": "n", "adapter": "a", "fingerprint": "e" * 64})


def test_a_model_of_other_shape_is_refused_and_another_of_the_same_told() -> None:
    circuit = dataclasses.replace(CIRCUIT, model=CIRCUIT.model | {"dtype": "float32", "revision": None})
    tuned = circuit.model | {"adapter": "tuned", "fingerprint": "e" * 64}
    for given in (circuit, circuit.others, pickle.loads(pickle.dumps(circuit.others))):
        assert given.check_use(circuit.model, 3, 4) is None
        assert given.check_use(circuit.model | {"dtype": "bfloat16", "fingerprint": "b"}, 3, 4) is None
        assert given.check_use(tuned, 3, 4) == (
            "the circuit: was chosen in m (weights ffffffffffff) and is used in m with tuned (weights eeeeeeeeeeee), "
            "another model of the same shape, where its heads may do otherwise"
        )
        with pytest.raises(InputError) as refused:
            given.check_use(tuned, 2, 4)
        assert str(refused.value) == (
            "the circuit was chosen in m, with 3 layers of 4 heads, and m with tuned has 2 of 4: its heads are none of "
            "this model's; choose by a run of it"
        )


def effects(*of: tuple[int, int, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(of, columns=["layer", "head", "region", "effect"])
    return frame.assign(component="z").astype({"layer": "Int16", "head": "Int16"})


def test_sites_are_ranked_by_size_or_by_sign_and_ties_by_place() -> None:
    measured = effects((0, 1, "last", -3.0), (1, 0, "query", 2.0), (0, 0, "last", 1.0), (0, 0, "document", 2.0))
    by_size = heads_of(ranked_sites(measured))
    assert by_size == ((0, 1, "last"), (0, 0, "document"), (1, 0, "query"), (0, 0, "last"))
    assert heads_of(ranked_sites(measured, "effect")) == (*by_size[1:], by_size[0])
    with pytest.raises(InputError, match="L0H1@last comes more than once"):
        ranked_sites(pd.concat([measured, measured]))
    with pytest.raises(InputError, match="there is no head among them"):
        ranked_sites(measured.assign(component="attn_out"))
    with pytest.raises(InputError, match="one is not finite"):
        ranked_sites(measured.assign(effect=float("nan")))
