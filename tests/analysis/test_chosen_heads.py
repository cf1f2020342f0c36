"""Heads that a run puts first: by effect and by attention alone, and the queries that chose them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from relscope.analysis import Head, HeadSet, chosen_heads
from relscope.errors import InputError
from relscope.results import INTERACTION, Run, open_run, write_readout
from synthetic import write_synthetic_run
from synthetic_mechanism import write_mechanism_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 4 layers of 4 heads, with interaction scores: S of layer l, head h is 4 l + h, but -20 for L3H3."""
    folder = write_synthetic_run(tmp_path_factory.mktemp("run") / "run", n_pairs=4)
    pair_ids = [pair.pair_id for pair in open_run(folder).manifest.pairs]
    rows = [(pair, layer, head) for pair in pair_ids for layer in range(4) for head in range(4)]
    columns = {
        "pair_id": [pair for pair, *_ in rows],
        "layer": [layer for _, layer, _ in rows],
        "head": [head for *_, head in rows],
        "positive": [-18.0 if (layer, head) == (3, 3) else 4.0 * layer + head + 2 for _, layer, head in rows],
        "negative": [2.0] * len(rows),
    }
    write_readout(folder, INTERACTION, columns)
    return open_run(folder)


def test_by_a_region_they_are_those_of_largest_mean_change(run: Run) -> None:
    rows = run.rows("heads")
    rows = rows[rows["region"] == "query"].assign(change=lambda of: of["ld_patched"] - of["ld_corrupted"])
    size = rows.groupby(["layer", "head"])["change"].mean().abs().sort_values(ascending=False)
    expected_order = [Head(int(layer), int(head), "query") for layer, head in size.index]
    found = chosen_heads(run, 5)
    assert (found.name, found.members) == ("query-5", tuple(expected_order[:5]))
    below = chosen_heads(run, 3, below=2)
    assert below.members == tuple(head for head in expected_order if head.layer < 2)[:3]
    assert below.name == "query-3 below 2"


def test_by_interaction_they_are_those_of_largest_and_not_most_negative_score(run: Run) -> None:
    found = chosen_heads(run, 3, by="interaction")
    assert found.members == (Head(3, 2, "query"), Head(3, 1, "query"), Head(3, 0, "query"))


def test_by_an_edge_they_are_those_of_largest_effect_of_its_scores(tmp_path: Path) -> None:
    run = open_run(write_mechanism_run(tmp_path / "run"))
    # There, edges query<-document have exactly the effects of z at the query.
    by_edge, by_region = chosen_heads(run, 4, by="query<-document"), chosen_heads(run, 4)
    assert (by_edge.name, by_edge.members) == ("query<-document-4", by_region.members)


def test_where_nothing_is_named_the_first_region_that_the_run_has_chooses(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=4, regions=("document", "last", "all")))
    assert chosen_heads(run, 2) == chosen_heads(run, 2, by="last")
    assert chosen_heads(run, 2).name == "last-2"
    with pytest.raises(InputError, match="no heads of the experiment heads at 'query'; it has all, document, last"):
        chosen_heads(run, 2, by="query")


def test_they_carry_the_queries_of_all_pairs_into_their_file(run: Run, tmp_path: Path) -> None:
    found = chosen_heads(run, 2)
    queries = [*found.chosen_on, *found.held_out]
    assert set(queries) == set(run.manifest.query_of.values())
    assert len(queries) == len(set(queries))
    found.save(tmp_path / "deep" / "heads.json")
    assert HeadSet.load(tmp_path / "deep" / "heads.json") == found
    assert found.query_texts == {pair.query_id: pair.query_text for pair in run.manifest.pairs}


def test_a_run_that_is_not_complete_chooses_nothing(run: Run) -> None:
    unfinished = Run(run.directory, run.manifest.model_copy(update={"status": "running"}), None)
    with pytest.raises(InputError, match="the run is not complete; give its relscope run again, then choose heads"):
        chosen_heads(unfinished, 2)


def test_a_query_without_a_patched_pair_chose_nothing_and_is_held_out_apart(run: Run) -> None:
    filtered = next(pair for pair in run.manifest.pairs if pair.filtered)
    found = chosen_heads(run, 2)
    assert (found.chosen_on, found.held_out) == (("q0", "q1"), (filtered.query_id,))
    # Another pair of its query is patched, and chooses.
    pairs = [*run.manifest.pairs, filtered.model_copy(update={"pair_id": "again", "filtered": False})]
    found = chosen_heads(Run(run.directory, run.manifest.model_copy(update={"pairs": pairs}), None), 2)
    assert (found.chosen_on, found.held_out) == (("q0", "q1", filtered.query_id), ())


def test_their_model_is_named_as_it_was_asked_for_with_what_that_is(run: Run) -> None:
    source = chosen_heads(run, 2).source
    assert source is not None
    named = dataclasses.replace(source, model="base", adapter="tuned", asked="judge")
    assert named.model_text == "judge (base with tuned)"
    assert dataclasses.replace(named, asked=None).model_text == "base with tuned"
    identity = run.manifest.identity
    asked = identity | {"config": identity["config"] | {"model": "judge"}}
    manifest = run.manifest.model_copy(update={"identity": asked})
    assert chosen_heads(Run(run.directory, manifest, None), 2).source == dataclasses.replace(source, asked="judge")


def test_they_carry_the_run_and_its_model(run: Run) -> None:
    source, model = chosen_heads(run, 2).source, run.manifest.identity["model"]
    assert source is not None
    assert (source.run, source.run_identity) == (str(run.directory), run.manifest.identity_hash)
    assert (source.model, source.fingerprint, source.dtype) == (model["name"], model["fingerprint"], model["dtype"])
    assert (source.n_layers, source.n_heads) == (4, 4)


def test_a_model_of_other_shape_is_refused_and_another_of_the_same_told(run: Run) -> None:
    chosen, model = chosen_heads(run, 2), run.manifest.identity["model"]
    assert chosen.check_use(model, 4, 4) is None
    for shape in ((5, 4), (4, 5)):
        with pytest.raises(
            InputError, match=rf"'query-2' was chosen in .*, with 4 layers of 4 heads, and .* has {shape[0]}"
        ):
            chosen.check_use(model, *shape)
    tuned = model | {"adapter": "mine", "fingerprint": "0123456789abcdef"}
    told = chosen.check_use(tuned, 4, 4)
    assert told is not None
    assert f"is used in {model['name']} with mine (weights 0123456789ab), another model of the same shape" in told
    # In another number format the fingerprint is another one, and says nothing.
    assert chosen.check_use(model | {"dtype": "other", "fingerprint": "0"}, 4, 4) is None
    assert chosen.check_use(tuned | {"dtype": "other"}, 4, 4) is not None
    by_hand = HeadSet("mine", chosen.members)
    assert by_hand.check_use(tuned, 9, 9) is None  # it says nothing that could be wrong


def test_what_a_run_has_not_measured_cannot_choose(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no heads of the experiment heads at 'middle'; it has all, document, "):
        chosen_heads(run, 1, by="middle")
    with pytest.raises(InputError, match=r"no scores of the experiment edges at 'query<-document'; it has none"):
        chosen_heads(run, 1, by="query<-document")
    with pytest.raises(
        InputError, match="k is 9; give a number from 1 to 8, the heads measured by 'query' in layers below 2"
    ):
        chosen_heads(run, 9, below=2)
    with pytest.raises(InputError, match="k is 0"):
        chosen_heads(run, 0)
    bare = open_run(write_synthetic_run(tmp_path / "bare", n_pairs=4))
    with pytest.raises(InputError, match="has no interaction scores; run it with --experiments interaction"):
        chosen_heads(bare, 1, by="interaction")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "is not UTF-8 text"),
        (b"[]", "a head set is a JSON object like"),
        (b'{"name": "a", "members": [[0, 1, "query"]], "chosen_on": "q1"}', "a head set is a JSON object like"),
        (
            b'{"schema_version": 4, "name": "a", "members": []}',
            "has schema_version 4; this relscope reads 2, 3 or none",
        ),
        (
            b'{"name": "a", "members": [], "source": {"run": "r"}}',
            "head set, field source.run_identity: Field required",
        ),
        (b'{"name": "a", "members": [], "source": "r"}', "head set, field source: Input should be"),
    ],
)
def test_a_file_that_holds_no_head_set_is_refused_by_its_name(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "heads.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"heads\.json: {told}"):
        HeadSet.load(path)
