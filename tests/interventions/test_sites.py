"""What is a site, and which sites does an experiment have?"""

from __future__ import annotations

from typing import Any

import pytest

from relscope.errors import InputError
from relscope.interventions import Joint, Site, all_sites


def test_sites_come_by_component_then_region_then_layer_then_head() -> None:
    assert all_sites(["mlp_out", "z"], ["query", "last"], n_layers=2, n_heads=2) == [
        Site("mlp_out", 0, "query"),
        Site("mlp_out", 1, "query"),
        Site("mlp_out", 0, "last"),
        Site("mlp_out", 1, "last"),
        Site("z", 0, "query", 0),
        Site("z", 0, "query", 1),
        Site("z", 1, "query", 0),
        Site("z", 1, "query", 1),
        Site("z", 0, "last", 0),
        Site("z", 0, "last", 1),
        Site("z", 1, "last", 0),
        Site("z", 1, "last", 1),
    ]


def test_an_unknown_component_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="attn_out, mlp_out, resid_post, z, q"):
        Site("resid_mid", 0, "last")


def test_z_needs_a_head() -> None:
    with pytest.raises(InputError, match="'z' needs a head"):
        Site("z", 0, "last")


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out", "resid_post"])
def test_what_belongs_to_a_whole_layer_takes_no_head(component: str) -> None:
    with pytest.raises(InputError, match="takes no head"):
        Site(component, 0, "last", 0)


def test_edges_come_by_destination_then_source() -> None:
    assert all_sites(["scores"], ["last"], n_layers=1, n_heads=2, sources=["query", "document"]) == [
        Site("scores", 0, "last", 0, "query"),
        Site("scores", 0, "last", 1, "query"),
        Site("scores", 0, "last", 0, "document"),
        Site("scores", 0, "last", 1, "document"),
    ]


def test_keys_are_counted_by_key_value_heads() -> None:
    assert all_sites(["k"], ["query"], n_layers=1, n_heads=4, n_kv_heads=1) == [Site("k", 0, "query", 0)]
    with pytest.raises(InputError, match="'v' belongs to key/value heads: give n_kv_heads"):
        all_sites(["v"], ["query"], 1, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("scores", 0, "last", 0), "'scores' is an edge and needs a source region"),
        (("z", 0, "last", 0, "document"), "'z' is no edge and takes no src"),
        (("pattern", 0, "last", None, "document"), "'pattern' needs a head"),
    ],
)
def test_only_edges_have_a_source_and_all_of_them_do(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Site(*fields)
    with pytest.raises(InputError, match="give the source regions"):
        all_sites(["pattern"], ["last"], 1, 1)


def test_a_joint_patch_has_different_sites() -> None:
    site = Site("z", 0, "last", 0)
    with pytest.raises(InputError, match="needs at least one site"):
        Joint(())
    with pytest.raises(InputError, match="has a site twice"):
        Joint((site, Site("z", 1, "last", 0), site))
