"""Sets of heads by effect, and their controls: drawn at random, matched in region and depth, and the weakest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from relscope.analysis import (
    Head,
    HeadSet,
    QuerySplit,
    bottom_set,
    chosen_heads,
    matched_sets,
    mixed_set,
    random_sets,
    region_sets,
    set_size,
    split_queries,
    top_set,
)
from relscope.errors import InputError
from relscope.results import open_run
from synthetic import write_synthetic_run


def effects_of(values: dict[tuple[int, int, str], float]) -> pd.DataFrame:
    rows = [{"component": "z", "layer": layer, "head": head, "region": region, "effect": effect}
            for (layer, head, region), effect in values.items()]  # fmt: skip
    return pd.DataFrame(rows)


REGIONS = ("document", "query", "instruction", "last")
EFFECTS = effects_of(
    {(layer, head, region): (-1) ** head * (1 + layer * 2 + head) * (10 if layer == n else 1)
     for n, region in enumerate(REGIONS) for layer in range(4) for head in range(2)}
)  # fmt: skip


def test_the_strongest_heads_of_a_region_are_ablated_there() -> None:
    # At the query layer 1 counts tenfold: 30 and -40; then layer 3's -8 and 7.
    assert top_set(EFFECTS, "query", 3) == HeadSet(
        "Query-3", (Head(1, 1, "query"), Head(1, 0, "query"), Head(3, 1, "query"))
    )
    assert bottom_set(EFFECTS, "query", 2) == HeadSet("Bottom-Query-2", (Head(0, 0, "query"), Head(0, 1, "query")))


def test_the_sets_of_the_table_have_its_names_and_the_mixed_one_holds_all() -> None:
    *sets, mixed = region_sets(EFFECTS, 2)
    assert [of.name for of in sets] == ["Doc-2", "Query-2", "Inst-2", "Last-2"]
    assert mixed.name == "Mixed-8"
    assert list(mixed) == [head for of in sets for head in of]


def test_sets_know_the_run_that_measured_their_effects(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=4))
    known = chosen_heads(run, 1)
    for of in (*region_sets(EFFECTS, 2, run=run), top_set(EFFECTS, "last", 1, run=run)):
        assert (of.source, of.chosen_on, of.held_out) == (known.source, known.chosen_on, known.held_out)
        assert of.query_texts == known.query_texts
    assert region_sets(EFFECTS, 2)[0].source is None


def test_the_sets_of_a_run_with_paths_are_those_of_its_heads() -> None:
    effects = EFFECTS.assign(experiment="heads")
    at_last = effects[effects["region"] == "last"]
    direct = at_last.assign(experiment="direct", effect=at_last["effect"][::-1].to_numpy())
    assert region_sets(pd.concat([direct, effects]), 2) == region_sets(EFFECTS, 2)
    assert bottom_set(pd.concat([direct, effects]), "last", 2) == bottom_set(EFFECTS, "last", 2)


def test_a_head_in_two_sets_stands_in_the_mixed_one_at_both_regions_and_a_member_once() -> None:
    one, other = HeadSet("a", (Head(1, 0, "last"),)), HeadSet("b", (Head(1, 0, "query"), Head(1, 0, "last")))
    assert mixed_set([one, other]) == HeadSet("Mixed-2", (Head(1, 0, "last"), Head(1, 0, "query")))


def test_random_sets_are_drawn_without_repeats_at_all_positions() -> None:
    sets = random_sets(4, 2, 5)
    assert len(sets) == 20
    assert len({of.members for of in sets}) > 10
    for of in sets:
        assert len({(head.layer, head.head) for head in of}) == 5
        assert {head.region for head in of} == {"all"}
    # Every head is drawn now and then: 20 draws of 5 of 8.
    assert len({(head.layer, head.head) for of in sets for head in of}) == 8


def test_the_same_seed_draws_the_same_and_more_draws_change_none() -> None:
    assert random_sets(4, 2, 3, n_draws=5) == random_sets(4, 2, 3, n_draws=20)[:5]
    assert random_sets(4, 2, 3, seed=1) != random_sets(4, 2, 3, seed=2)
    chosen = top_set(EFFECTS, "last", 1)
    assert matched_sets(chosen, 4, 2, n_draws=5) == matched_sets(chosen, 4, 2)[:5]


def test_matched_sets_have_the_regions_and_depths_of_the_chosen_heads_and_none_of_them() -> None:
    n_layers, n_heads = 8, 6
    chosen = HeadSet("chosen", (Head(0, 1, "document"), Head(1, 5, "document"), Head(5, 0, "last"), Head(5, 0, "query"),
                                Head(7, 2, "last")))  # fmt: skip
    taken = {(head.layer, head.head) for head in chosen}

    def places(of: HeadSet) -> Counter[tuple[str, int]]:
        return Counter((head.region, head.layer // 2) for head in of)

    sets = matched_sets(chosen, n_layers, n_heads)
    assert len({of.members for of in sets}) > 10
    for of in sets:
        assert places(of) == places(chosen)
        assert not taken & {(head.layer, head.head) for head in of}
    assert sets[0].name == "Matched-5 of chosen 1"


def test_a_depth_without_enough_other_heads_is_refused() -> None:
    chosen = HeadSet("Last-2", (Head(0, 0, "last"), Head(0, 1, "last")))
    with pytest.raises(InputError, match=r"'Last-2' has 2 heads at 'last' in part 1 of 4 .* 0 others are left"):
        matched_sets(chosen, 4, 2)


def test_a_set_survives_json() -> None:
    chosen = top_set(EFFECTS, "last", 2)
    assert HeadSet.from_json(chosen.to_json()) == chosen
    before_it_had_a_version = '{"name": "Last-1", "members": [[15, 4, "last"]], "chosen_on": ["q1"]}'
    assert HeadSet.from_json(before_it_had_a_version) == HeadSet("Last-1", (Head(15, 4, "last"),), ("q1",))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"name": "a"}', '{"name": "a", "members": [[1, 2]]}',
     '{"name": "a", "members": [[1, -2, "last"]]}', '{"name": "a", "members": [["1", 2, "last"]]}'],
)  # fmt: skip
def test_what_is_no_head_set_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a head set is a JSON object like"):
        HeadSet.from_json(text)


def test_a_member_that_stands_twice_is_refused() -> None:
    with pytest.raises(InputError, match="has layer 1, head 0 twice at one region"):
        HeadSet("a", (Head(1, 0, "last"), Head(1, 0, "last")))


def test_a_size_may_be_a_share_of_all_heads() -> None:
    assert [set_size(k, 30, 9) for k in (20, 0.02, 0.08, 0.001)] == [20, 5, 22, 1]
    for k in (0, -1, 2.5):
        with pytest.raises(InputError, match="give a number of heads, or a share"):
            set_size(k, 30, 9)


@pytest.mark.parametrize("k", [0, 9])
def test_more_heads_than_were_measured_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"k is {k}; give a number from 1 to 8, the heads measured at region 'last'"):
        top_set(EFFECTS, "last", k)
    with pytest.raises(InputError, match=f"k is {k}; give a number from 1 to 8, the heads of the model"):
        random_sets(4, 2, k)


def test_no_query_is_in_both_halves_and_none_is_lost() -> None:
    queries = [f"q{i}" for i in range(11)]
    split = split_queries([*queries, *queries], 0.3, seed=3)
    assert (len(split.selection), len(split.evaluation)) == (3, 8)
    assert sorted(split.selection + split.evaluation) == sorted(queries)
    assert split == split_queries(queries[::-1], 0.3, seed=3)
    assert split != split_queries(queries, 0.3, seed=4)
    assert len(split_queries(["a", "b"], 0.01).selection) == 1
    assert len(split_queries(["a", "b"], 0.99).evaluation) == 1


def test_a_query_on_the_wrong_side_of_the_split_is_refused() -> None:
    split = QuerySplit(("a", "b"), ("c",))
    split.check_selection(["a"])
    split.check_evaluation(["c", "c"])
    with pytest.raises(InputError, match="query 'c' is not one that heads may be chosen by"):
        split.check_selection(["a", "c"])
    with pytest.raises(InputError, match="query 'a' is not one that an ablation may be evaluated on"):
        split.check_evaluation(["c", "a"])
    with pytest.raises(InputError, match="query 'a' is both"):
        QuerySplit(("a",), ("a",))


def test_a_split_that_leaves_a_side_empty_is_refused() -> None:
    with pytest.raises(InputError, match="1 queries cannot be parted"):
        split_queries(["a", "a"])
    with pytest.raises(InputError, match=r"share is 1.0; give a number between 0 and 1"):
        split_queries(["a", "b"], 1.0)
