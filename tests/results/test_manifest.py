"""What identifies a run, and how its manifest survives the disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relscope.errors import InputError
from relscope.results import (
    Manifest,
    PairRecord,
    PromptSample,
    Segment,
    identity_differences,
    identity_hash,
)
from relscope.results.manifest import checked, manifest_bytes, read_manifest


def a_manifest(**changed: Any) -> Manifest:
    content: dict[str, Any] = {
        "identity": {"config": {"seed": 0}, "model": {"name": "tiny"}},
        "created": "2025-01-02T03:04:05+00:00",
        "environment": {"threads": 1},
        "model_shape": {"n_layers": 2},
        "seeds": {"study": 0},
        "n_pairs_loaded": 1,
        "pairs": [PairRecord(pair_id="q:0", query_id="q", query_text="why", n_tokens=9)],
    }
    return Manifest(**(content | changed))


def test_the_hash_is_that_of_the_canonical_json_written_by_hand() -> None:
    by_hand = '{"a":[1,2.5,null],"b":{"x":"é","y":true}}'
    expected = hashlib.sha256(by_hand.encode("utf-8")).hexdigest()
    assert identity_hash({"b": {"y": True, "x": "é"}, "a": [1, 2.5, None]}) == expected


def test_the_order_of_keys_does_not_change_the_hash_but_the_order_of_a_list_does() -> None:
    assert identity_hash({"a": 1, "b": 2}) == identity_hash({"b": 2, "a": 1})
    assert identity_hash({"a": [1, 2]}) != identity_hash({"a": [2, 1]})
    assert identity_hash({"a": 1}) != identity_hash({"a": True})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes", "\ud800"])
def test_an_identity_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="JSON"):
        identity_hash({"config": {"seed": value}})


def test_differences_name_the_dotted_field_and_both_values() -> None:
    old = {"config": {"seed": 0, "regions": ["last"], "old": 1}, "model": {"name": "a"}}
    new = {"config": {"seed": 1, "regions": ["last", "all"], "new": None}, "model": {"name": "a"}}
    assert identity_differences(old, new) == [
        "config.new: (absent) in the folder, null now",
        "config.old: 1 in the folder, (absent) now",
        'config.regions: ["last"] in the folder, ["last", "all"] now',
        "config.seed: 0 in the folder, 1 now",
    ]


def test_equal_identities_differ_in_nothing_even_as_tuples() -> None:
    assert identity_differences({"a": (1, 2)}, {"a": [1, 2]}) == []


def test_true_is_not_one_and_a_section_is_not_a_value() -> None:
    assert identity_differences({"a": True}, {"a": 1}) == ["a: true in the folder, 1 now"]
    assert identity_differences({"a": {"b": 1}}, {"a": 1}) == ['a: {"b": 1} in the folder, 1 now']


def test_differences_and_hashes_agree_on_what_is_different() -> None:
    samples: list[Any] = [None, 0, 0.0, False, "", "0", [], [0], [False], {}, {"x": 0}]
    for old in samples:
        for new in samples:
            same_hash = identity_hash({"a": old}) == identity_hash({"a": new})
            assert (identity_differences({"a": old}, {"a": new}) == []) == same_hash


def test_a_long_value_is_shortened_in_the_message() -> None:
    (line,) = identity_differences({"a": "x" * 500}, {"a": "y"})
    assert len(line) < 130
    assert "x..." in line


def test_long_values_that_begin_alike_are_shown_where_they_part() -> None:
    same = "word " * 60
    (line,) = identity_differences({"a": {"b": f"{same}cat"}}, {"a": {"b": f"{same}dog"}})
    assert line.startswith("a.b: ...")
    before, now = line.split(" in the folder, ")
    assert 'word cat" (from character 281 on)' in before  # a quote and 300 characters, of which 20 are shown
    assert 'word dog" (from character 281 on)' in now
    (line,) = identity_differences({"a": [0] * 100}, {"a": [0] * 101})
    assert line.split(" in the folder, ")[0] != line.split(" in the folder, ")[1].removesuffix(" now")


def test_a_manifest_computes_its_hash_and_keeps_identity_as_json_sees_it() -> None:
    manifest = a_manifest(identity={"config": {"regions": ("last", "all")}})
    assert manifest.identity == {"config": {"regions": ["last", "all"]}}
    assert manifest.identity_hash == identity_hash({"config": {"regions": ["last", "all"]}})
    assert manifest.query_of == {"q:0": "q"}


def test_a_manifest_whose_hash_is_of_another_identity_is_refused() -> None:
    with pytest.raises(ValidationError, match="identity_hash does not belong"):
        a_manifest(identity_hash="0" * 64)


def test_a_manifest_survives_the_disk_with_awkward_text(tmp_path: Path) -> None:
    text = '<script>alert(1)</script> \u2028 שלום 🙂 \x00 \\ "'
    manifest = a_manifest(
        pairs=[PairRecord(pair_id="q:0", query_id="q", query_text=text, n_tokens=9, filtered=True)],
        prompt_samples=[PromptSample(pair_id="q:0", run="clean", segments=[Segment(text=text, region="document")])],
    )
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest_bytes(manifest))
    assert read_manifest(path) == manifest


def test_a_nan_in_the_manifest_is_refused_before_it_is_written() -> None:
    manifest = a_manifest()
    manifest.environment["load"] = float("nan")
    with pytest.raises(InputError, match="JSON"):
        checked(manifest)


def test_a_field_of_the_wrong_kind_is_named_before_it_is_written() -> None:
    manifest = a_manifest()
    manifest.n_pairs_loaded = "many"  # type: ignore[assignment]
    with pytest.raises(InputError, match="n_pairs_loaded"):
        checked(manifest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, not JSON"),
        (b'{"schema_version": 1, "identity"', "damaged, not JSON"),
        (b"\xff\xfe\x00", "damaged, not JSON"),
        (b"[]", "not the manifest of a run"),
        (b'{"name": "a web page", "icons": []}', "not the manifest of a run"),
        (b'{"schema_version": 2}', "has schema_version 2; this relscope reads 1"),
        (b'{"schema_version": 1}', "identity: Field required"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_identity_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    content = json.loads(manifest_bytes(a_manifest()))
    content["identity"]["config"]["seed"] = 7
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="changed by hand"):
        read_manifest(path)


def test_an_unknown_field_is_named_rather_than_dropped(tmp_path: Path) -> None:
    content = json.loads(manifest_bytes(a_manifest())) | {"surprise": 1}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="surprise"):
        read_manifest(path)
