"""Sites of two runs meet where they are the same, models of two shapes by depth, and nothing is lost in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from two_runs import SHAPE, noisy, run_of, sites_of

from relscope.analysis import Matched, RunEffects, match_runs
from relscope.analysis.matching import Side
from relscope.errors import InputError


def flat(sites: pd.DataFrame, shape: tuple[int, int] = SHAPE) -> RunEffects:
    """A run in which every site has the same effect."""
    return run_of(sites, np.ones((len(sites), 2)), shape)


def mean_of(side: Side) -> np.ndarray:
    n_pairs = len(side.query_ids)
    return side.strengths(np.full((n_pairs, 1), 1 / n_pairs))[0]


def at(matched: list[Matched], *places: str) -> Matched:
    (found,) = [one for one in matched if one.places == places]
    return found


def test_sites_of_one_shape_meet_whatever_their_order() -> None:
    sites = sites_of()
    effects = noisy(np.arange(1.0, len(sites) + 1), 3, 0)
    shuffled = np.random.default_rng(1).permutation(len(sites))
    other = run_of(sites.iloc[shuffled].reset_index(drop=True), effects[shuffled])
    matched, unmatched = match_runs(run_of(sites, effects), other)
    assert unmatched == []
    assert [(one.places, one.together, one.by) for one in matched] == [
        (("query", "last"), True, "site"),
        (("query",), False, "site"),
        (("last",), False, "site"),
    ]
    for one in matched:
        # Sums of a product may go in another order.
        np.testing.assert_allclose(mean_of(one.one), mean_of(one.other), rtol=1e-12)
    whole = matched[0]
    by_hand = {
        (site.layer, site.head, site.region): abs(effects[i].mean()) for i, site in enumerate(sites.itertuples())
    }
    for target, strength in zip(whole.targets.itertuples(), mean_of(whole.one), strict=True):
        # a weighted sum against a mean: float64 rounding of numbers below 100
        assert strength == pytest.approx(by_hand[target.layer, target.head, target.place], abs=1e-12)


def test_layers_of_a_deeper_model_count_for_the_nearest_depth() -> None:
    # of 4 layers, at depths 0, 1/3, 2/3 and 1, two are nearer to the first of 2 layers, the others to the last
    shallow, deep = ((2, 1), (4, 1))
    one = run_of(sites_of(shallow, experiment="flow", component="attn_out"), np.array([[1.0], [2], [3], [4]]), shallow)
    effects = np.array([[1.0], [10], [-3], [20], [5], [30], [7], [-50]])  # query, last of layers 0 to 3
    other = run_of(sites_of(deep, experiment="flow", component="attn_out"), effects, deep)
    matched, unmatched = match_runs(one, other)
    assert unmatched == []
    whole = at(matched, "query", "last")
    assert whole.by == "depth"
    assert list(zip(whole.targets["layer"], whole.targets["place"], strict=True)) == [
        (0, "query"), (0, "last"), (1, "query"), (1, "last"),
    ]  # fmt: skip
    np.testing.assert_allclose(mean_of(whole.one), [1, 2, 3, 4])
    np.testing.assert_allclose(mean_of(whole.other), [(1 + 3) / 2, (10 + 20) / 2, (5 + 7) / 2, (30 + 50) / 2])


def test_heads_of_two_shapes_are_summed_at_each_depth() -> None:
    few, many = ((3, 2), (3, 4))
    one = run_of(sites_of(few, ["last"]), np.array([[1.0], [-1], [2], [2], [0], [3]]), few)
    other = run_of(sites_of(many, ["last"]), np.arange(12.0)[:, None], many)
    matched, _ = match_runs(one, other)
    whole = at(matched, "last")
    assert whole.by == "depth"
    assert whole.targets["head"].isna().all()
    np.testing.assert_allclose(mean_of(whole.one), [2, 4, 3])
    np.testing.assert_allclose(mean_of(whole.other), [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11])


def test_more_heads_do_not_keep_modules_from_meeting_layer_by_layer() -> None:
    few, many = ((3, 2), (3, 4))
    modules = sites_of(few, ["last"], "flow", "mlp_out")
    matched, _ = match_runs(
        run_of(modules, noisy(np.ones(3), 2, 0), few), run_of(modules, noisy(np.ones(3), 2, 1), many)
    )
    assert [one.by for one in matched] == ["site"]


def test_document_a_meets_the_document_where_only_so_they_can() -> None:
    pointwise, pairwise = (sites_of(places=places) for places in (("document", "last"), ("document_a", "last")))
    mean = np.arange(1.0, len(pointwise) + 1)
    runs = run_of(pointwise, noisy(mean, 2, 0)), run_of(pairwise, noisy(mean, 2, 0))
    for first, second, which in ((*runs, "other"), (*reversed(runs), "one")):
        matched, unmatched = match_runs(first, second)
        assert unmatched == []
        document = at(matched, "document")
        assert document.document_a_in == which
        np.testing.assert_allclose(mean_of(document.one), mean_of(document.other), rtol=1e-12)


def test_documents_of_the_same_name_meet_and_the_rest_is_listed() -> None:
    pairwise = sites_of(places=("document", "document_a", "document_b"))
    pointwise = sites_of(places=("document",))
    n = len(pointwise)
    matched, unmatched = match_runs(
        run_of(pointwise, noisy(np.ones(n), 2, 0)), run_of(pairwise, noisy(np.ones(3 * n), 2, 1))
    )
    assert [(one.places, one.document_a_in) for one in matched] == [(("document",), None)]
    assert [(left.place, left.which, left.n_sites) for left in unmatched] == [
        ("document_a", "other", n),
        ("document_b", "other", n),
    ]


def test_edges_meet_by_both_ends() -> None:
    edges = sites_of(places=("last<-document", "last<-all", "query<-document"), experiment="edges", component="scores")
    mean = np.arange(1.0, len(edges) + 1)
    matched, _ = match_runs(run_of(edges, noisy(mean, 2, 0)), run_of(edges, noisy(mean, 2, 0)))
    # an edge from all tokens holds that from the document, so that the two are not ranked against each other
    assert [one.places for one in matched] == [
        ("query<-document", "last<-document"), ("query<-document",), ("last<-document",), ("last<-all",),
    ]  # fmt: skip


def test_overlapping_regions_are_compared_each_for_itself() -> None:
    sites = sites_of(places=("query", "query.first", "all"))
    matched, _ = match_runs(
        run_of(sites, noisy(np.ones(len(sites)), 2, 0)), run_of(sites, noisy(np.ones(len(sites)), 2, 1))
    )
    assert [one.places for one in matched] == [("query",), ("all",), ("query.first",)]


def test_what_one_run_alone_measured_is_listed() -> None:
    heads, modules = sites_of(places=["last"]), sites_of(places=["last"], experiment="flow", component="attn_out")
    both = pd.concat([heads, modules], ignore_index=True)
    less = heads[(heads["layer"] != 2) | (heads["head"] != 1)].reset_index(drop=True)
    _, unmatched = match_runs(
        run_of(both, noisy(np.ones(len(both)), 2, 0)), run_of(less, noisy(np.ones(len(less)), 2, 1))
    )
    assert [(left.experiment, left.component, left.place, left.which, left.n_sites) for left in unmatched] == [
        ("flow", "attn_out", "last", "one", 6),
        ("heads", "z", "last", "one", 1),
    ]


def test_pairs_that_lack_a_site_are_left_out_and_counted() -> None:
    sites = sites_of(places=["last"])
    effects = noisy(np.ones(len(sites)), 4, 0)
    growing = effects.copy()
    growing[5:, 2] = np.nan
    growing[:, 3] = np.nan  # nothing is measured of this pair yet
    (matched,), _ = match_runs(run_of(sites, effects), run_of(sites, growing))
    assert matched.one.query_ids == ("q0", "q1", "q2", "q3")
    assert (matched.other.query_ids, matched.other.n_incomplete) == (("q0", "q1"), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"experiment": "edges"}, "no experiment in common: heads in the first, edges in the second"),
        ({"direction": "noise"}, "no direction in common: denoise in the first, noise in the second"),
        ({"component": "v"}, "no component in common: z in the first, v in the second"),
    ],
)
def test_runs_that_have_nothing_in_common_are_refused(changed: dict[str, str], message: str) -> None:
    ones = noisy(np.ones(60), 2, 0)
    with pytest.raises(InputError, match=message):
        match_runs(run_of(sites_of(), ones), run_of(sites_of(**changed), ones))


def test_a_run_without_effects_is_refused() -> None:
    with pytest.raises(InputError, match="the second run has no effects yet"):
        match_runs(run_of(sites_of(), noisy(np.ones(60), 2, 0)), run_of(sites_of().iloc[:0], np.zeros((0, 0))))


def test_paths_are_listed_and_direct_effects_compared() -> None:
    direct = sites_of(places=("last",), experiment="direct")
    ends = {"region": None, "dest": "L5H1@last", "src": "L0H0@query"}
    paths = sites_of((1, 2), ("last",), "paths", "frozen").assign(**ends)
    both = flat(pd.concat([direct, paths], ignore_index=True))
    matched, unmatched = match_runs(both, both)
    assert [(one.experiment, one.places) for one in matched] == [("direct", ("last",))]
    assert [(one.experiment, one.which, one.n_sites) for one in unmatched] == [
        ("paths", "one", 2),
        ("paths", "other", 2),
    ]
    assert {one.reason for one in unmatched} == {"each run chooses the heads of its paths itself"}
    with pytest.raises(InputError, match="no experiment, direction and component in common"):
        match_runs(flat(paths), flat(paths))
