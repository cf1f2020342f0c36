"""The benchmarks' own arithmetic, by hand, and their plain way of patching against the slow reference of the tests."""

from __future__ import annotations

import pytest

from families import as_judge, tiny_model
from pairs import random_pair
from plain import plain_patcher
from reference_attention import AttentionReference
from relscope.interventions import Site
from scaling import slope_through_origin
from tallies import PLAIN, Tallies


@pytest.mark.parametrize(
    "site",
    [
        Site("attn_out", 1, "document"),
        Site("mlp_out", 2, "query"),
        Site("resid_post", 0, "instruction"),
        Site("z", 1, "all", head=3),
        Site("scores", 2, "last", head=1, src="document"),
        Site("scores", 1, "document", head=2, src="document"),  # sources after the destination stay unseen
        Site("pattern", 1, "query", head=3, src="document"),
    ],
    ids=str,
)
def test_the_plain_way_gives_what_the_slow_reference_gives(site: Site) -> None:
    model = tiny_model("llama", 256)
    pair = random_pair(75, 256, seed=1)
    reference = AttentionReference(model, "llama")
    wanted = reference.sweep_patches(pair, [[site]], "denoise")
    (ld,), _ = plain_patcher(as_judge(model), pair).patch([site])
    # Both in float32, summed in other orders: a few roundings of logits of size one.
    assert ld == pytest.approx(float(wanted[0]), abs=1e-5)
    assert abs(ld - reference.logit_diff(pair.corrupted.ids, pair.answer_ids)) > 1e-4  # the patch does something
    assert model.config._attn_implementation == "sdpa"


def test_the_line_through_the_origin_is_the_geometric_mean_of_the_rates() -> None:
    # Rates of 1 and 4 seconds a unit: each point is off by a factor of two.
    assert slope_through_origin([10.0, 5.0], [10.0, 20.0]) == pytest.approx(2.0)


def test_a_random_pair_differs_at_each_document_position_alone() -> None:
    pair = random_pair(75, 16, seed=0)
    # 75 - (28 before, 2 + 14 of the query, 2 + 16 of the instruction, 6 after) = 7
    assert pair.differing == tuple(range(28, 35))
    assert pair.clean.region("query") == tuple(range(37, 51))
    assert pair.clean.region("instruction") == tuple(range(53, 69))
    assert pair.clean.region("last") == (74,)


def test_a_prompt_without_room_for_a_document_is_refused() -> None:
    with pytest.raises(ValueError, match="68 tokens has no room"):
        random_pair(68, 16, seed=0)


def test_all_lines_together_weigh_each_line_once() -> None:
    goals = {"exact": {"a": 1.0, "b": 1.0, "the five together": 1.0}}
    tallies = Tallies(["a", "b"], goals, {})
    # 1 s a cell at one line, from four cells, and 3 s at the other, from one: 2 s a cell together.
    tallies.at("a", PLAIN).add(4, 4.0)
    tallies.at("b", PLAIN).add(1, 3.0)
    assert tallies.lines == ["a", "b", "the five together"]
    assert tallies.summed("the five together", PLAIN).ms == pytest.approx(2000.0)
