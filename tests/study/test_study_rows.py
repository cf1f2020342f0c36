"""A study's rows: every planned site of every pair once, with the value that one full forward pass would give."""

from __future__ import annotations

import importlib
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reference import Reference
from relscope.interventions import Site, patch_pair
from relscope.models import Clause, Contract, check_contract
from relscope.prompts import AlignedPair
from relscope.results import Run
from relscope.study import Prepared, Silent, StudyConfig, run_study
from relscope.study.prepare import prepare
from tiny_study import N_HEADS, N_LAYERS, Told, assert_same_rows, tiny_config

FLOW_COMPONENTS = ("attn_out", "mlp_out", "resid_post")
FLOW_REGIONS = ("query", "document", "instruction", "last", "all")
HEAD_REGIONS = ("query", "instruction", "last")


@pytest.fixture(scope="module")
def finished(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(config, tmp_path_factory.mktemp("study") / "run")


def of_pair(run: Run, experiment: str, pair_id: str) -> pd.DataFrame:
    rows = run.rows(experiment)
    return rows[rows["pair_id"] == pair_id]


def sites_of(rows: pd.DataFrame) -> list[Site]:
    return [
        Site(str(row.component), int(row.layer), str(row.region), None if pd.isna(row.head) else int(row.head))
        for row in rows.itertuples()
    ]


def test_every_planned_site_of_every_pair_has_one_row(finished: Run, prepared: Prepared) -> None:
    pair_ids = [pair.pair_id for pair in prepared.aligned]
    planned = [
        ("flow", pair_id, component, layer, -1, region)
        for pair_id, component, layer, region in itertools.product(
            pair_ids, FLOW_COMPONENTS, range(N_LAYERS), FLOW_REGIONS
        )
    ]
    planned += [
        ("heads", pair_id, "z", layer, head, region)
        for pair_id, layer, head, region in itertools.product(pair_ids, range(N_LAYERS), range(N_HEADS), HEAD_REGIONS)
    ]
    rows = finished.rows()
    patched = rows[rows["experiment"] != "judge"]
    keys = patched[["experiment", "pair_id", "component", "layer", "head", "region"]].astype({"head": "float"})
    stored = [tuple(key) for key in keys.fillna({"head": -1}).itertuples(index=False)]
    assert sorted(stored) == sorted(planned)
    assert patched["dest"].isna().all()
    assert patched["src"].isna().all()
    assert set(patched["direction"]) == {"denoise"}


def test_patched_values_are_those_of_one_full_forward_pass_for_each_site(finished: Run, prepared: Prepared) -> None:
    reference = Reference(prepared.judge.model, "llama")
    for pair, experiment in itertools.product(prepared.aligned, ("flow", "heads")):
        rows = of_pair(finished, experiment, pair.pair_id)
        expected = reference.sweep(pair, sites_of(rows), "denoise")
        # float32: the sums of a restarted run are ordered otherwise; the project's bound for every family
        np.testing.assert_allclose(rows["ld_patched"], expected, rtol=0, atol=1e-4)
        assert expected.std() > 0.01  # the sites do differ


def test_patched_values_are_exactly_what_patch_pair_returns(finished: Run, prepared: Prepared) -> None:
    for pair in prepared.aligned:
        rows = pd.concat([of_pair(finished, "flow", pair.pair_id), of_pair(finished, "heads", pair.pair_id)])
        direct = patch_pair(prepared.judge, pair, sites_of(rows))
        # the same sites in the same order: nothing may be rounded otherwise
        np.testing.assert_array_equal(rows["ld_patched"], direct.ld_patched.numpy())
        np.testing.assert_array_equal(rows["ld_clean"], np.float32(direct.ld_clean))
        np.testing.assert_array_equal(rows["ld_corrupted"], np.float32(direct.ld_corrupted))


def test_every_pair_is_judged_and_its_margins_are_softmax_differences(finished: Run, prepared: Prepared) -> None:
    reference = Reference(prepared.judge.model, "llama")
    judged = finished.rows("judge").set_index("pair_id")
    assert sorted(judged.index) == sorted(pair.pair_id for pair in prepared.aligned)
    for pair in prepared.aligned:
        for run, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            ld = reference.logit_diff(prompt.ids, pair.answer_ids)
            yes = math.exp(ld) / (1 + math.exp(ld))
            # float32 sums over batches of other lengths
            assert judged.loc[pair.pair_id, f"ld_{run}"] == pytest.approx(ld, abs=1e-4)
            assert judged.loc[pair.pair_id, f"p_{run}"] == pytest.approx(yes - (1 - yes), abs=1e-4)
    assert judged[["ld_patched", "p_patched", "component", "layer", "head", "region"]].isna().all(axis=None)


def test_patched_margins_belong_to_the_patched_logit_differences(finished: Run) -> None:
    rows = finished.rows("heads")
    yes = 1 / (1 + np.exp(-rows["ld_patched"].to_numpy(dtype=np.float64)))
    np.testing.assert_allclose(rows["p_patched"], 2 * yes - 1, rtol=0, atol=1e-6)  # stored as float32


def test_whole_prompt_patches_of_the_last_residual_give_the_clean_verdict(finished: Run) -> None:
    rows = finished.rows("flow")
    whole = rows[(rows["component"] == "resid_post") & (rows["region"] == "all")]
    last = whole[whole["layer"] == N_LAYERS - 1]
    # the same final residual, read out by the same rows of the unembedding
    np.testing.assert_allclose(last["ld_patched"], last["ld_clean"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("experiments", "expected"),
    [
        (["heads"], {"heads": ({"z"}, set(HEAD_REGIONS))}),
        (
            {"flow": {"components": ["mlp_out"], "regions": ["other", "document.first"]}},
            {"flow": ({"mlp_out"}, {"other", "document.first"})},
        ),
        (
            {"flow": {"components": ["resid_post", "attn_out"], "regions": ["last"]}, "heads": {"regions": ["all"]}},
            {"flow": ({"resid_post", "attn_out"}, {"last"}), "heads": ({"z"}, {"all"})},
        ),
    ],
)
def test_only_the_chosen_experiments_components_and_regions_are_measured(
    tiny_model_folder: Path, tmp_path: Path, experiments: Any, expected: dict[str, tuple[set[str], set[str]]]
) -> None:
    run = run_study(tiny_config(tiny_model_folder, pairs=1, experiments=experiments), tmp_path / "run")
    rows = run.rows()
    assert set(rows["experiment"]) == {"judge", *expected}
    for experiment, (components, regions) in expected.items():
        here = rows[rows["experiment"] == experiment]
        assert set(here["component"]) == components
        assert set(here["region"]) == regions
        n_heads = N_HEADS if experiment == "heads" else 1
        assert len(here) == N_LAYERS * n_heads * len(components) * len(regions)


def assert_rows_are_the_reference(run: Run, config: StudyConfig, direction: str) -> list[AlignedPair]:
    prepared = prepare(config, Silent())
    reference = Reference(prepared.judge.model, "llama")
    for pair in prepared.aligned:
        for experiment in ("flow", "heads"):
            rows = of_pair(run, experiment, pair.pair_id)
            assert set(rows["direction"]) == {direction}
            expected = reference.sweep(pair, sites_of(rows), direction)
            np.testing.assert_allclose(rows["ld_patched"], expected, rtol=0, atol=1e-4)  # as above
    return prepared.aligned


def test_noise_puts_corrupted_values_into_the_clean_run(tiny_model_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model_folder, pairs=2, direction="noise")
    assert_rows_are_the_reference(run_study(config, tmp_path / "run"), config, "noise")


def test_pairwise_prompts_have_regions_of_both_documents(tiny_model_folder: Path, tmp_path: Path) -> None:
    regions = ["document_a", "document_b", "document", "document_b.last", "last"]
    config = tiny_config(
        tiny_model_folder,
        pairs=2,
        prompt={"format": "pairwise"},
        experiments={"flow": {"regions": regions, "components": ["attn_out"]}, "heads": {"regions": ["document_b"]}},
    )
    pairs = assert_rows_are_the_reference(run_study(config, tmp_path / "run"), config, "denoise")
    assert [name for name in pairs[0].clean.parts if name.startswith("document")] == ["document_a", "document_b"]


def test_a_part_before_the_first_difference_changes_nothing_and_still_has_its_row(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        tiny_model_folder, prompt={"order": "qdi"}, experiments={"heads": {"regions": ["query", "last"]}}
    )
    rows = run_study(config, tmp_path / "run").rows("heads")
    query = rows[rows["region"] == "query"]
    assert len(query) == 3 * N_LAYERS * N_HEADS
    np.testing.assert_array_equal(query["ld_patched"], query["ld_corrupted"])


def test_a_model_that_cannot_be_restarted_gives_the_same_rows_with_a_warning(
    tiny_model_folder: Path, tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_restart(judge: Any) -> Contract:
        kept = [clause for clause in check_contract(judge).clauses if clause.name != "restart"]
        return Contract((*kept, Clause("restart", "restarting equals the full pass", False, 1.0, 1e-4)))

    monkeypatch.setattr("relscope.models.contract.check_contract", without_restart)
    told = Told()
    run = run_study(tiny_config(tiny_model_folder), tmp_path / "run", told)
    a, b = run.rows("flow")["ld_patched"], finished.rows("flow")["ld_patched"]
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)  # as for the reference
    assert any("'restart'" in text and "full forward pass" in text for text in told.warnings)


def test_progress_counts_every_site_once_and_all_the_work(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = Told()
    # In the order qdi the query's sites are not computed; they count as done all the same.
    run = run_study(tiny_config(tiny_model_folder, prompt={"order": "qdi"}), tmp_path / "run", told)
    assert told.n_patches == told.n_done == len(run.rows("flow")) + len(run.rows("heads"))
    assert told.work > 0
    assert told.work_done == pytest.approx(told.work)  # sums of floating-point operations, in another order


@pytest.mark.parametrize(("seconds_a_pair", "parts"), [(0.001, [1, 4]), (25.0, [1, 2, 2]), (100.0, [1] * 5)])
def test_rows_are_stored_each_minute_where_a_pair_alone_is_quicker(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_a_pair: float, parts: list[int]
) -> None:
    run_module, measuring = (importlib.import_module(f"relscope.study.{name}") for name in ("run", "measuring"))
    patch_pairs, time = run_module.patch_pairs, 0.0
    n_pairs = []

    def slow(judge: Any, work: Any, **options: Any) -> Any:
        nonlocal time
        n_pairs.append(len(work))
        time += seconds_a_pair * len(work)
        return patch_pairs(judge, work, **options)

    monkeypatch.setattr(run_module, "patch_pairs", slow)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: time))
    pairs = [
        {"query": "cat", "positive_document": f"The cat {word}.", "hard_negative_document": [f"A dog {word}."]}
        for word in ("sat", "ran", "ate", "saw", "hid")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = tiny_config(
        tiny_model_folder, data=str(tmp_path / "pairs.jsonl"), pairs=5, experiments={"heads": {"regions": ["last"]}}
    )
    run = run_study(config, tmp_path / "run")
    assert n_pairs == parts
    assert len(list((tmp_path / "run" / "rows").glob("heads-*"))) == len(parts)
    assert len(run.rows("heads")) == 5 * 16


def test_low_precision_is_warned_of(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = Told()
    config = tiny_config(tiny_model_folder, pairs=1, dtype="bfloat16", experiments={"heads": {"regions": ["last"]}})
    run = run_study(config, tmp_path / "run", told)
    assert run.manifest.identity["model"]["dtype"] == "bfloat16"
    assert any("bfloat16" in text for text in told.warnings)


def test_memory_bounds_change_no_row(tiny_model_folder: Path, tmp_path: Path, finished: Run) -> None:
    assert_same_rows(run_study(tiny_config(tiny_model_folder, memory="7MiB"), tmp_path / "run"), finished)
