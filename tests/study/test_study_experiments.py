"""Edges, sets of heads and readouts as parts of a study: on known mechanisms, and against references."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from planted import LD_CLEAN, LD_CORRUPTED, PAIRS, Planted, decoy_model, matching_model, redundant_model, saved
from reference_attention import AttentionReference
from relscope.errors import InputError
from relscope.interventions import Joint, Site, patch_cost
from relscope.models import Clause, Contract, JudgeModel
from relscope.prompts import Prompt
from relscope.report import build_report
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, Run, open_run, read_readout
from relscope.study import Prepared, StudyConfig, plan_study, run_study
from relscope.study.joint import head_site, joint_sets, set_name, spread_heads
from tiny_study import N_HEADS, N_LAYERS, N_RIGHT_OF_10, tiny_config

# Of the planted models: see test_planted_models.
TOLERANCE = 1e-5
PAIR_IDS = ("cat", "bread", "hill")

Study = Callable[..., Run]


@pytest.fixture
def study_of(tmp_path: Path) -> Study:
    def run(planted: Planted, **fields: Any) -> Run:
        model, data = saved(planted, tmp_path)
        return run_study(StudyConfig(model=str(model), data=str(data), device="cpu", **fields), tmp_path / "run")

    return run


def effects(rows: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    """LD_patched less LD_corrupted of each site, where it is the same number in all pairs."""
    keys = ["component", "layer", "head", "region", "dest", "src"]
    by_site = rows.assign(effect=rows["ld_patched"] - rows["ld_corrupted"]).astype(dict.fromkeys(keys, object))
    grouped = by_site.groupby(keys, dropna=False)["effect"]
    assert grouped.count().eq(len(PAIRS)).all()
    assert grouped.std().max() < TOLERANCE
    return {tuple(None if pd.isna(part) else part for part in key): value for key, value in grouped.mean().items()}


def test_edges_of_the_planted_heads_and_no_others_have_effects(study_of: Study) -> None:
    planted = matching_model()
    found = effects(study_of(planted, experiments="edges").rows("edges"))
    assert len(found) == 6 * 2 * N_LAYERS * N_HEADS  # of the seven edges of the paper, six are possible in dqi
    (at_match, match), (at_carry, carry) = planted.matcher, planted.carriers[0]
    causal = {
        (component, *place)
        for component in ("scores", "pattern")
        for place in ((at_match, match, None, "query", "document"), (at_carry, carry, None, "last", "query"))
    }
    wanted = {site: LD_CLEAN - LD_CORRUPTED if site in causal else 0.0 for site in found}
    assert causal < set(found)
    assert found == pytest.approx(wanted, abs=TOLERANCE)


def test_the_strongest_heads_of_the_run_are_patched_together(study_of: Study) -> None:
    planted = matching_model()
    run = study_of(planted, experiments={"heads": {"regions": ["query", "last"]}, "joint": {"top": 2}})
    heads = run.manifest.joint_heads
    # At the query one head alone matters; of the others, which all do nothing, the first stands for the second place.
    assert set(heads[:3]) == {"L0H2@query", "L2H1@last", "L3H3@last"}
    assert heads[3].endswith("@query")
    found = effects(run.rows("joint"))
    matter = set(heads[:3])
    wanted = {}
    for key in found:
        of_set = set(key[5].split("+"))
        assert key[:5] == ("joint", min(int(name[1]) for name in of_set), None, None, None)
        wanted[key] = LD_CLEAN - LD_CORRUPTED if of_set & matter else 0.0
    assert found == pytest.approx(wanted, abs=TOLERANCE)
    assert len(found) == 4 + 6 + 1  # singles, pairs, all four


def test_redundant_heads_do_together_what_neither_does_alone(study_of: Study) -> None:
    names = ["L2H3@last", "L2H0@last"]
    run = study_of(redundant_model(), direction="noise", experiments={"joint": {"heads": names}})
    assert run.manifest.joint_heads == names
    rows = run.rows("joint")
    by_set = rows.groupby("src", observed=True)["ld_patched"].agg(["min", "max"])
    assert sorted(by_set.index) == ["L2H0@last", "L2H0@last+L2H3@last", "L2H3@last"]
    for name, row in by_set.iterrows():
        wanted = LD_CORRUPTED if "+" in str(name) else LD_CLEAN
        assert row.tolist() == pytest.approx([wanted] * 2, abs=TOLERANCE)


def test_a_head_that_attends_and_writes_nothing_has_a_score_and_no_effect(study_of: Study) -> None:
    planted = decoy_model()
    run = study_of(planted, experiments={"heads": {"regions": ["query"]}, "interaction": {}})
    table = read_readout(run.directory, INTERACTION)
    assert len(table) == len(PAIRS) * N_LAYERS * N_HEADS
    matching = {planted.matcher, planted.decoy}
    for row in table.itertuples():
        # One query word finds its document word, with weight 1; the others find <bos>, with weight 0 for documents.
        # Heads whose scores are all 0 attend to every position alike.
        if (row.layer, row.head) in matching:
            assert (row.positive, row.negative) == pytest.approx((1.0, 0.0), abs=TOLERANCE)
        else:
            assert row.positive == pytest.approx(row.negative, abs=TOLERANCE)
    strong = {key[1:3] for key, effect in effects(run.rows("heads")).items() if abs(effect) > TOLERANCE}
    assert strong == {planted.matcher}


def test_what_the_planted_writer_writes_is_read_in_words_and_in_logits(study_of: Study) -> None:
    run = study_of(matching_model(), experiments={"vocabulary": {"regions": ["query", "last"]}})
    # LD = 4 verdict; MLP 0 writes verdict -1, the writer (layer 3, head 3) +2 where the match was carried.
    parts = read_readout(run.directory, CONTRIBUTIONS)
    assert len(parts) == len(PAIRS) * 2 * (N_LAYERS * N_HEADS + 2 * N_LAYERS + 3)
    for row in parts.itertuples():
        clean = row.run == "clean"
        wanted = {
            ("mlp", 0): -4.0,
            ("head", 3, 3): 8.0 if clean else 0.0,
            ("logit_diff",): LD_CLEAN if clean else LD_CORRUPTED,
        }
        key = (row.part, *(place for place in (row.layer, row.head) if not pd.isna(place)))
        assert row.value == pytest.approx(wanted.get(key, 0.0), abs=TOLERANCE), key
    lens = read_readout(run.directory, LENS)
    assert len(lens) == len(PAIRS) * 2 * 2 * N_LAYERS
    for row in lens.itertuples():
        says_yes = (row.run, row.region, row.layer) == ("clean", "last", N_LAYERS - 1)
        assert row.logit_diff == pytest.approx(LD_CLEAN if says_yes else LD_CORRUPTED, abs=TOLERANCE)
    words = read_readout(run.directory, VOCABULARY)
    assert set(words["n_pairs"]) == {len(PAIRS)}
    assert len(words) == 2 * N_LAYERS * N_HEADS * 2 * 10
    # The unembedding has +2 verdict for yes and -2 for no.
    writer = words[(words["region"] == "last") & (words["layer"] == 3) & (words["head"] == 3) & (words["rank"] == 0)]
    best = {row.end: (row.token, row.logit) for row in writer.itertuples()}
    assert best == {"top": ("yes", pytest.approx(4.0, abs=TOLERANCE)), "bottom": ("no", pytest.approx(-4.0, abs=1e-5))}
    others = words.drop(words[(words["region"] == "last") & (words["layer"] == 3) & (words["head"] == 3)].index)
    assert others["logit"].abs().max() < TOLERANCE


def test_every_experiment_together_makes_a_run_and_its_report(study_of: Study) -> None:
    chosen = ["flow", "heads", "edges", "joint", "interaction", "vocabulary"]
    run = study_of(matching_model(), experiments=chosen)
    assert run.manifest.status == "complete"
    assert set(run.rows()["experiment"]) == {"judge", "flow", "heads", "edges", "joint"}
    assert build_report(run.directory).is_file()


EXPERIMENTS: dict[str, Any] = {
    "heads": {"regions": ["query", "last"]},
    "edges": {"edges": ["query<-document", "last<-query"], "components": ["scores", "pattern_renormalised"]},
    "joint": {"top": 2},
}


@pytest.fixture(scope="module")
def finished(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(tiny_model_folder, experiments={**EXPERIMENTS, "interaction": {}, "vocabulary": {}})
    return run_study(config, tmp_path_factory.mktemp("experiments") / "run")


def test_rows_of_edges_are_what_one_full_forward_pass_for_each_gives(finished: Run, prepared: Prepared) -> None:
    rows = finished.rows("edges")
    reference = AttentionReference(prepared.judge.model, "llama")
    planned = set(
        itertools.product(
            ("scores", "pattern_renormalised"), range(N_LAYERS), range(N_HEADS),
            (("query", "document"), ("last", "query")),
        )
    )  # fmt: skip
    for pair in prepared.aligned:
        here = rows[rows["pair_id"] == pair.pair_id]
        stored = [(r.component, int(r.layer), int(r.head), (r.dest, r.src)) for r in here.itertuples()]
        assert len(stored) == len(planned)
        assert set(stored) == planned
        sites = [Site(component, layer, dest, number, src) for component, layer, number, (dest, src) in stored]
        wanted = reference.sweep_patches(pair, [(site,) for site in sites], "denoise")
        # float32, sums in another order: the project's bound for every family
        np.testing.assert_allclose(here["ld_patched"], wanted, rtol=0, atol=1e-4)
        assert float(wanted.std()) > 1e-3  # the edges do differ
    assert rows["region"].isna().all()


def test_rows_of_sets_are_what_full_forward_passes_with_all_of_their_heads_give(
    finished: Run, prepared: Prepared
) -> None:
    rows = finished.rows("joint")
    reference = AttentionReference(prepared.judge.model, "llama")
    for pair in prepared.aligned:
        here = rows[rows["pair_id"] == pair.pair_id]
        sets = [tuple(head_site(name) for name in str(text).split("+")) for text in here["src"]]
        wanted = reference.sweep_patches(pair, sets, "denoise")
        np.testing.assert_allclose(here["ld_patched"], wanted, rtol=0, atol=1e-4)  # as above
        assert float(wanted.std()) > 1e-3


def test_the_heads_of_joint_are_those_of_the_largest_mean_effects_in_order(finished: Run) -> None:
    rows = finished.rows("heads")
    change = (rows["ld_patched"].astype(float) - rows["ld_corrupted"]).groupby(
        [rows["region"].astype(str), rows["layer"], rows["head"]]
    )
    size = change.mean().abs()
    wanted = {
        f"L{layer}H{number}@{region}": size[region, layer, number]
        for region in ("query", "last")
        for layer, number in size[region].nlargest(2).index
    }
    assert finished.manifest.joint_heads == sorted(wanted, key=lambda name: -wanted[name])
    heads = finished.manifest.joint_heads
    found = {frozenset(str(text).split("+")) for text in finished.rows("joint")["src"].unique()}
    pairs = {frozenset(pair) for pair in itertools.combinations(heads, 2)}
    assert found == {frozenset([name]) for name in heads} | pairs | {frozenset(heads)}


def test_readouts_are_of_the_pairs_that_the_filter_keeps(tiny_model_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_model_folder, pairs=10, filter="correct", experiments={"vocabulary": {"regions": ["last"]}}
    )
    run = run_study(config, tmp_path / "run")
    kept = {pair.pair_id for pair in run.manifest.pairs if not pair.filtered}
    assert len(kept) == N_RIGHT_OF_10
    assert set(read_readout(run.directory, CONTRIBUTIONS)["pair_id"]) == kept
    assert set(read_readout(run.directory, VOCABULARY)["n_pairs"]) == {N_RIGHT_OF_10}


def test_contributions_sum_to_the_logit_difference_that_the_verdict_has(finished: Run) -> None:
    parts = read_readout(finished.directory, CONTRIBUTIONS)
    judged = finished.rows("judge").set_index("pair_id")
    for (pair_id, run), of_run in parts.groupby(["pair_id", "run"]):
        whole = of_run["part"] == "logit_diff"
        # float32 sums of 27 parts of order 1
        assert of_run[~whole]["value"].sum() == pytest.approx(of_run[whole]["value"].item(), abs=1e-4)
        assert of_run[whole]["value"].item() == pytest.approx(judged.loc[pair_id, f"ld_{run}"], abs=1e-4)


def test_a_plan_counts_edges_and_as_many_sets_as_joint_takes(tiny_model_folder: Path, prepared: Prepared) -> None:
    plan = plan_study(tiny_config(tiny_model_folder, experiments={**EXPERIMENTS, "vocabulary": {}, "interaction": {}}))
    # heads at two regions; two edges of two components; 4 singles, 6 pairs and all four
    assert plan.n_patches == 3 * (2 * 16 + 4 * 16 + 4 + 6 + 1)
    alone = plan_study(tiny_config(tiny_model_folder, experiments={"heads": EXPERIMENTS["heads"]}))
    assert alone.n_patches == 3 * 2 * 16
    named = ["L0H1@last", "L3H0@last", "L1H2@query"]
    config = tiny_config(tiny_model_folder, experiments={"joint": {"heads": named}})
    assert plan_study(config).n_patches == 3 * (3 + 3 + 1)
    # Readouts patch nothing: both prompts of each pair once through the model.
    read = plan_study(tiny_config(tiny_model_folder, experiments=["interaction", "vocabulary"]))
    judge, pairs = prepared.judge, prepared.aligned
    recording = sum(patch_cost(judge, pair, [], restart=True).recording_flops for pair in pairs)
    assert (read.n_patches, read.flops) == (0, recording)


def test_a_plan_spreads_heads_that_are_not_known_yet_over_the_layers() -> None:
    heads = spread_heads(("query", "last"), 3, N_LAYERS, N_HEADS)
    # Of 16 heads, numbers 0, 5 and 10.
    assert heads == [Site("z", n, region, n) for region in ("query", "last") for n in range(3)]
    assert len(spread_heads(("last",), 99, N_LAYERS, N_HEADS)) == N_LAYERS * N_HEADS


def test_sets_grow_by_doubling_and_each_is_there_once() -> None:
    heads = [head_site(f"L{11 - number}H{number}@last") for number in range(11)]
    sets = joint_sets(heads)
    sizes = [len(patch.sites) for patch in sets]
    assert {size: sizes.count(size) for size in sizes} == {1: 11, 2: 55, 4: 1, 8: 1, 11: 1}
    assert len(set(sets)) == len(sets)
    grown = [set(patch.sites) for patch in sets if len(patch.sites) > 2]
    assert grown == [set(heads[:4]), set(heads[:8]), set(heads)]
    # By number, not by text: layer 9 stands before layer 10.
    assert set_name(sets[11]) == "L10H1@last+L11H0@last"
    assert set_name(Joint(tuple(sets[-2].sites)))[:20] == "L4H7@last+L5H6@last+"
    assert joint_sets([]) == []


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (
            {"joint": {"heads": ["L4H0@last", "L0H0@last"]}},
            r"L4H0@last does not exist: the model has layers 0 to 3 with heads 0 to",
        ),
        ({"joint": {"heads": ["L0H4@last", "L0H0@last"]}}, r"experiments\.joint\.heads: L0H4@last does not exist"),
    ],
)
def test_heads_that_the_model_lacks_are_refused_before_anything_is_measured(
    tiny_model_folder: Path, tmp_path: Path, experiments: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_study(tiny_config(tiny_model_folder, experiments=experiments), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("experiment", "clause"), [("edges", "patterns"), ("interaction", "patterns"), ("vocabulary", "residual sum")]
)
def test_a_model_that_fails_the_clause_an_experiment_needs_is_refused_for_it(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str, clause: str
) -> None:
    names = ("shapes", "patterns", "answer logits", "residual sum", "identity patch", "final residual")
    contract = Contract(tuple(Clause(name, "as it should be", name != clause, 1.0, 0.5) for name in names))
    monkeypatch.setattr(JudgeModel, "contract", contract)
    with pytest.raises(InputError, match=f"fails the contract's clause '{clause}'"):
        run_study(tiny_config(tiny_model_folder, experiments=experiment), tmp_path / "run")


def test_a_region_without_positions_is_named_before_anything_is_patched(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Prompt.region
    monkeypatch.setattr(Prompt, "region", lambda self, name: () if name == "other" else region(self, name))
    config = tiny_config(tiny_model_folder, experiments={"heads": {}, "vocabulary": {"regions": ["last", "other"]}})
    with pytest.raises(InputError, match="region 'other' has no positions in a prompt"):
        run_study(config, tmp_path / "run")
    assert len(open_run(tmp_path / "run").rows("heads")) == 0
