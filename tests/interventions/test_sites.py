"""What is a site, and which sites does an experiment have?"""

from __future__ import annotations

import pytest

from relscope.errors import InputError
from relscope.interventions import COMPONENTS, Site, all_sites


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
    with pytest.raises(InputError, match="attn_out, mlp_out, resid_post, z"):
        Site("resid_pre", 0, "last")


def test_z_needs_a_head() -> None:
    with pytest.raises(InputError, match="'z' needs a head"):
        Site("z", 0, "last")


@pytest.mark.parametrize("component", [c for c in COMPONENTS if c != "z"])
def test_what_belongs_to_a_whole_layer_takes_no_head(component: str) -> None:
    with pytest.raises(InputError, match="takes no head"):
        Site(component, 0, "last", 0)
