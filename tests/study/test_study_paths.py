"""Paths and direct effects as a part of a study: on a known mechanism, against the plain calls, and interrupted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from replaced import fail, replace, study_module

from planted import LD_CLEAN, LD_CORRUPTED, N_HEADS, N_LAYERS, PAIRS, matching_model, saved
from relscope.analysis import effect_splits, path_effects, site_effects
from relscope.errors import InputError
from relscope.interventions import Path as PatchPath
from relscope.interventions import Site, patch_paths, path_cost
from relscope.models import Clause, Contract, JudgeModel
from relscope.results import PathEnd, Run, open_run
from relscope.study import Paths, Prepared, StudyConfig, plan_study, run_study
from relscope.study.joint import head_site
from relscope.study.paths import direct_paths, paths_between
from tiny_study import assert_same_rows, interrupted_after, tiny_config

# Of the planted models: see test_planted_models.
TOLERANCE = 1e-5
GAP = LD_CLEAN - LD_CORRUPTED
STUDY: dict[str, Any] = {"heads": {"regions": ["query", "last"]}, "paths": {"top": 2, "variants": ["frozen", "open"]}}
N_DIRECT = N_LAYERS * (2 + N_HEADS) + 1


def planted_study(folder: Path, **fields: Any) -> Run:
    model, data = saved(matching_model(), folder)
    return run_study(StudyConfig(model=str(model), data=str(data), device="cpu", **fields), folder / "run")


def of_run(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the rows say of paths and of modules, by analysis."""
    rows, query_of = run.rows(), run.manifest.query_of
    return path_effects(site_effects(rows, query_of)), effect_splits(rows, query_of)


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return planted_study(tmp_path_factory.mktemp("planted"), experiments=STUDY)


def test_the_paths_between_the_planted_heads_and_no_others_are_found(planted_run: Run) -> None:
    paths, _ = of_run(planted_run)
    assert set(planted_run.manifest.path_senders) >= {"L0H2@query", "L2H1@last", "L3H3@last"}
    assert planted_run.manifest.path_senders == planted_run.manifest.path_receivers
    # The matcher finds document words by its keys, the carrier matched words by its keys; the writer moves a value.
    frozen = {
        ("embedding@document", "L0H2@query"),
        ("embedding@document", "L0H2.k_view@document"),
        ("L0H2@query", "L2H1@last"),
        ("L0H2@query", "L2H1.k_view@query"),
        ("L2H1@last", "L3H3@last"),
        ("L2H1@last", "L3H3.v_view@last"),
    }
    # Through what lies in between, also to what reads later parts.
    through = {
        ("embedding@document", "L2H1@last"),
        ("embedding@document", "L3H3@last"),
        ("L0H2@query", "L3H3@last"),
    }
    for variant, wanted in (("frozen", frozen), ("open", frozen | through)):
        here = paths[paths["variant"] == variant]
        effect = {(row.src, row.dest): row.effect for row in here.itertuples()}
        assert wanted < set(effect)
        assert effect == pytest.approx({ends: GAP if ends in wanted else 0.0 for ends in effect}, abs=TOLERANCE)


def test_only_the_writer_acts_directly_and_every_total_is_direct_and_mediated(planted_run: Run) -> None:
    _, splits = of_run(planted_run)
    assert len(splits) == N_DIRECT - 1  # the embedding has no total effect
    wanted = {
        ("z", 2, 1): (GAP, 0.0), ("attn_out", 2, None): (GAP, 0.0),
        ("z", 3, 3): (GAP, GAP), ("attn_out", 3, None): (GAP, GAP),
    }  # fmt: skip
    for row in splits.to_dict("records"):
        key = (row["component"], row["layer"], None if pd.isna(row["head"]) else row["head"])
        total, direct = wanted.get(key, (0.0, 0.0))
        found = [row["total"], row["direct"], row["mediated"]]
        assert found == pytest.approx([total, direct, total - direct], abs=TOLERANCE), key
        assert row["direct"] + row["mediated"] == pytest.approx(row["total"], abs=1e-12)
    # Heads have theirs from `heads`; attn_out and mlp_out, which no other experiment measured, from `total`.
    assert len(planted_run.rows("total")) == len(PAIRS) * 2 * N_LAYERS


def test_totals_that_flow_and_heads_measure_are_not_measured_again(tmp_path: Path) -> None:
    chosen = {"flow": {"regions": ["last"], "components": ["attn_out", "mlp_out"]}, "heads": {"regions": ["last"]}}
    run = planted_study(tmp_path, experiments={**chosen, "paths": {"top": 0}})
    assert set(run.rows()["experiment"]) == {"judge", "flow", "heads", "direct"}
    assert len(of_run(run)[1]) == N_DIRECT - 1


def test_direct_effects_alone_need_no_other_experiment(tmp_path: Path) -> None:
    run = planted_study(tmp_path, experiments={"paths": {"top": 0}})
    n_rows = run.rows()["experiment"].astype(str).value_counts().to_dict()
    n = len(PAIRS)
    assert n_rows == {"judge": n, "total": n * (N_DIRECT - 1), "direct": n * N_DIRECT}
    assert run.manifest.path_senders == []


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_named_heads_are_the_ends_in_the_variant_and_with_the_inputs_asked_for(tmp_path: Path, direction: Any) -> None:
    named = {"senders": ["L0H2@query"], "receivers": ["L2H1@last", "L3H3@last"], "inputs": [], "variants": ["open"]}
    run = planted_study(tmp_path, direction=direction, experiments={"paths": named})
    assert (run.manifest.path_senders, run.manifest.path_receivers) == (named["senders"], named["receivers"])
    paths, _ = of_run(run)
    ends = set(itertools.product(["embedding@document", "L0H2@query"], ["L2H1@last", "L3H3@last"]))
    assert set(zip(paths["src"], paths["dest"], strict=True)) == ends
    assert set(paths["variant"]) == {"open"}
    wanted = GAP if direction == "denoise" else -GAP
    assert paths["effect"].tolist() == pytest.approx([wanted] * 4, abs=TOLERANCE)


def test_the_same_heads_may_be_named_as_both_ends() -> None:
    names = ("L0H2@query", "L2H1@last")
    chosen = StudyConfig(experiments={"paths": {"senders": names, "receivers": names}})
    assert chosen.experiments.paths == Paths(senders=names, receivers=names)


def test_paths_go_where_causality_lets_them_and_each_is_there_once() -> None:
    senders = [head_site(name) for name in ("L1H0@query", "L1H0@last", "L2H0@query")]
    receivers = [head_site(name) for name in ("L2H1@last", "L2H1@query", "L1H1@query")]
    found = paths_between(senders, receivers, Paths(), "dqi")
    assert len(found) == len(set(found))
    ends = {
        (path.sender.region, path.sender.layer, path.receiver.layer, path.receiver.component, path.receiver.region)
        for path in found
        if isinstance(path.receiver, Site) and path.sender.component == "z"
    }
    # From the query to layer 2: at its own region also by its queries; what is read at the query is one input of both.
    of_query = {("query", 1, 2, *to) for to in (("z", "last"), ("z", "query"), ("q", "query"))}
    of_query |= {("query", 1, 2, name, "query") for name in ("k_view", "v_view")}
    of_last = {("last", 1, 2, "z", "last")} | {("last", 1, 2, name, "last") for name in ("q", "k_view", "v_view")}
    assert ends == of_query | of_last
    assert sum(path.sender.component == "resid_pre" for path in found) == 3 + 2 * 2
    opened = paths_between(senders[:1], receivers[:1], Paths(variants=("open",)), "dqi")
    assert PatchPath(senders[0], Site("q", 2, "last", 1), "open") in opened
    # Before the document nothing reads it.
    assert paths_between([], [head_site("L2H1@query")], Paths(), "qdi") == []
    assert paths_between([], [], Paths(), "dqi") == []


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(tiny_config(tiny_model_folder, experiments=STUDY), tmp_path_factory.mktemp("whole") / "run")


def test_rows_of_paths_are_what_the_plain_call_gives(uninterrupted: Run, prepared: Prepared) -> None:
    rows = uninterrupted.rows()
    for pair in prepared.aligned:
        here = rows[(rows["pair_id"] == pair.pair_id) & rows["experiment"].isin(["paths", "direct"])]
        paths = [_path(row) for row in here.to_dict("records")]
        assert len(set(paths)) == len(paths) > 2 * N_DIRECT
        wanted = patch_paths(prepared.judge, pair, paths)
        # Other batches, other rounding of float32 products.
        np.testing.assert_allclose(here["ld_patched"], wanted.ld_patched, rtol=0, atol=1e-5)
        assert set(here["ld_corrupted"]) == {np.float32(wanted.ld_corrupted)}


def _path(row: dict[Any, Any]) -> PatchPath:
    def site(name: str) -> Site:
        end = PathEnd.read(name)
        return Site(end.component, end.layer, end.region, end.head)

    if row["experiment"] == "paths":
        return PatchPath(site(row["src"]), site(row["dest"]), row["component"])
    head = None if pd.isna(row["head"]) else int(row["head"])
    return PatchPath(Site(row["component"], int(row["layer"]), row["region"], head))


def test_a_study_killed_among_its_paths_goes_on_with_the_heads_it_had_chosen(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(monkeypatch, "path_sweep", "_PAIRS_PER_PART", 1)
    config = tiny_config(tiny_model_folder, experiments=STUDY)
    with interrupted_after(1, study_module("path_sweep"), "patch_paths"), pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run")
    monkeypatch.undo()
    kept = open_run(tmp_path / "run")
    assert kept.manifest.status == "running"
    assert kept.manifest.path_senders == uninterrupted.manifest.path_senders
    assert kept.rows("paths")["pair_id"].nunique() == 1
    replace(monkeypatch, "path_sweep", "strongest_heads", fail)
    run = run_study(config, tmp_path / "run")
    assert run.manifest.status == "complete"
    assert_same_rows(run, uninterrupted)
    replace(monkeypatch, "path_sweep", "patch_paths", fail)
    assert run_study(config, tmp_path / "run").manifest.status == "complete"


def test_a_plan_counts_direct_effects_and_paths_that_can_be(tiny_model_folder: Path, prepared: Prepared) -> None:
    heads = {"regions": ["query", "last"]}
    without = plan_study(tiny_config(tiny_model_folder, experiments={"heads": heads}))
    config = tiny_config(tiny_model_folder, experiments={"heads": heads, "paths": {"top": 2}})
    plan = plan_study(config)
    # Two heads of two regions, of layers 0 and 2 (numbers 0 and 8 of 16).
    spread = [head_site(name) for name in ("L0H0@query", "L2H0@query", "L0H0@last", "L2H0@last")]
    paths = direct_paths(N_LAYERS, N_HEADS) + paths_between(spread, spread, Paths(top=2), "dqi")
    costs = [path_cost(prepared.judge, pair, paths) for pair in prepared.aligned]
    n_totals = 2 * N_LAYERS  # attn_out and mlp_out at the last token
    assert plan.n_patches - without.n_patches == sum(cost.n_patches for cost in costs) + 3 * n_totals
    recording = sum(cost.recording_flops for cost in costs)
    assert plan.flops - without.flops >= recording + sum(cost.flops for cost in costs)
    assert plan.seconds > 0
    named = {"senders": ["L0H0@query"], "receivers": ["L2H0@last"], "inputs": []}
    few = plan_study(tiny_config(tiny_model_folder, experiments={"paths": named}))
    # One path from each sender, of which the embedding is one; no other experiment measures a total effect.
    assert few.n_patches == 3 * (2 + N_DIRECT + n_totals + N_LAYERS * N_HEADS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"senders": ["L1H9@last"], "receivers": ["L2H0@last"]}, r"paths\.senders: L1H9@last does not exist"),
        ({"senders": ["L1H0@last"], "receivers": ["L9H0@last"]}, r"paths\.receivers: L9H0@last does not exist"),
    ],
)
def test_heads_that_the_model_lacks_are_refused_before_anything_is_measured(
    tiny_model_folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_study(tiny_config(tiny_model_folder, experiments={"paths": options}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "clause", "needed"),
    [({"top": 0}, "residual sum", "be read out part by part"), (None, "restart", "be patched along paths")],
)
def test_a_model_that_cannot_be_patched_along_paths_is_refused_for_them(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, clause: str, needed: str
) -> None:
    names = ("shapes", "patterns", "answer logits", "residual sum", "identity patch", "final residual", "restart")
    contract = Contract(tuple(Clause(name, "as it should be", name != clause, 1.0, 0.5) for name in names))
    monkeypatch.setattr(JudgeModel, "contract", contract)
    with pytest.raises(InputError, match=f"fails the contract's clause '{clause}'.*cannot {needed}"):
        run_study(tiny_config(tiny_model_folder, experiments={"heads": {}, "paths": options or {}}), tmp_path / "run")


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (
            "paths",
            "paths chooses its heads by their effects in the experiment heads, which is not chosen: choose heads",
        ),
        ({"paths": {"senders": ["L0H0@last"]}}, "paths chooses its heads by their effects in the experiment heads"),
        ({"paths": {"top": 0, "senders": ["L0H0@last"]}}, "there are no receivers: name them too, or raise top"),
        ({"paths": {"top": -1}}, "paths.top: should be greater than or equal to 0"),
        ({"paths": {"inputs": ["k"]}}, r"paths\.inputs: input 'k' does not exist"),
        ({"paths": {"variants": ["frozn"]}}, r"paths\.variants: variant 'frozn' does not exist: did you mean 'frozen'"),
        ({"paths": {"variants": []}}, "a list of names is needed"),
        ({"paths": {"senders": ["L0@last"]}}, r"paths\.senders: 'L0@last' names no head at a region"),
        (
            {"paths": {"senders": ["L2H0@last"], "receivers": ["L1H0@last", "L3H0@last"]}},
            r"experiments\.paths\.receivers: L1H0@last can read none of the senders: a receiver lies in a later layer",
        ),
        (
            {"paths": {"senders": ["L0H0@last", "L0H1@query"], "receivers": ["L1H0@query"]}},
            r"experiments\.paths\.senders: L0H0@last reaches none of the receivers.* in the order 'dqi'",
        ),
        (
            {"paths": {"senders": ["L0H0@document_b"], "receivers": ["L1H0@last"]}},
            r"experiments\.paths\.senders: region 'document_b' does not exist in a pointwise prompt",
        ),
    ],
)
def test_options_that_cannot_be_are_named(experiments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudyConfig(experiments=experiments)
