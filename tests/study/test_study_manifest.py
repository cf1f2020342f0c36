"""A run's manifest says which model, data and prompts, on which machine, and who was left out, where and why."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch
import transformers

from relscope.data import load_pairs
from relscope.errors import InputError
from relscope.results import Run
from relscope.study import Silent, run_study
from relscope.study.prepare import prepare
from relscope.version import __version__
from tiny_study import N_HEADS, N_LAYERS, Told, tiny_config

LINES = [
    {
        "query": "where did the cat sit",
        "positive_document": "The cat sat on the mat near the river.",
        "hard_negative_document": ["The dog ran to the hill, and sat there until noon."],
    },
    {"query": "why does bread rise", "positive_document": "Yeast makes gas.", "hard_negative_document": []},
    {
        "query": "which part is the same",
        "positive_document": "the same words " * 20 + "and then another end",
        "hard_negative_document": ["the same words " * 20 + "and then no end"],
    },
    {"query": "", "positive_document": "A text.", "hard_negative_document": ["Another."]},
]


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(
        tiny_model_folder, data=str(pair_file), pairs=None, seed=7, experiments={"heads": {"regions": ["last"]}}
    )
    return run_study(config, tmp_path_factory.mktemp("manifest") / "run")


def test_whoever_was_left_out_is_named_with_stage_and_reason(run: Run) -> None:
    left_out = {(e.pair_id, e.stage, e.reason) for e in run.manifest.exclusions}
    assert left_out == {
        ("line2", "data", "no_hard_negative"),
        ("line4", "data", "empty_query"),
        ("line3:0", "alignment", "identical_after_cut"),
    }
    assert all(e.detail for e in run.manifest.exclusions)
    assert [pair.pair_id for pair in run.manifest.pairs] == ["line1:0"]
    assert run.manifest.n_pairs_loaded == 4


def test_the_model_is_identified_by_its_weights(run: Run, tiny_model_folder: Path) -> None:
    model = run.manifest.identity["model"]
    assert model["name"] == str(tiny_model_folder)
    assert (model["kind"], model["dtype"], model["model_type"]) == ("folder", "float32", "llama")
    assert len(model["fingerprint"]) == 64
    shape = run.manifest.model_shape
    assert (shape["n_layers"], shape["n_heads"], shape["n_kv_heads"], shape["d_model"]) == (N_LAYERS, N_HEADS, 2, 32)


def test_data_prompt_and_configuration_are_part_of_the_identity(
    run: Run, tiny_model_folder: Path, pair_file: Path
) -> None:
    identity = run.manifest.identity
    assert identity["data"]["sha256"] == load_pairs(pair_file).sha256
    assert identity["prompt"]["instruction"] == "Does the document answer the query? Only output 'yes' or 'no'."
    assert identity["prompt"]["max_document_tokens"] == 24
    assert identity["config"]["experiments"] == {"heads": {"regions": ["last"]}}
    assert identity["relscope_version"] == __version__
    # Where and how fast it runs changes no row.
    assert not {"device", "memory"} & identity["config"].keys()
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert run.manifest.identity_hash == hashlib.sha256(canonical.encode()).hexdigest()


def test_machine_packages_seed_and_time_are_on_record(run: Run) -> None:
    environment = run.manifest.environment
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["packages"]["transformers"] == transformers.__version__
    assert environment["python"] == platform.python_version()
    assert environment["hardware"]["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    assert run.manifest.seeds == {"seed": 7}
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(run.manifest.created)
    assert datetime.timedelta(0) <= age < datetime.timedelta(hours=1)
    assert run.manifest.status == "complete"


def test_prompt_samples_are_the_prompts_that_were_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model_folder, pairs=4, experiments={"heads": {"regions": ["last"]}})
    manifest = run_study(config, tmp_path / "run").manifest
    prepared = prepare(config, Silent())
    read = {
        (pair.pair_id, run): prompt.text
        for pair in prepared.aligned[:3]
        for run, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted))
    }
    shown = {(s.pair_id, s.run): "".join(part.text for part in s.segments) for s in manifest.prompt_samples}
    assert shown == read
    for sample in manifest.prompt_samples:
        regions = [segment.region for segment in sample.segments]
        assert [r for r in regions if r != "other"] == ["document", "query", "instruction", "last"]
    tokens = {pair.pair_id: pair.n_tokens for pair in manifest.pairs}
    assert tokens == {pair.pair_id: len(pair.clean.ids) for pair in prepared.aligned}


def test_contract_clauses_and_verdict_lints_are_on_record(run: Run) -> None:
    lints = {lint.name: lint for lint in run.manifest.lints}
    clauses = ("shapes", "patterns", "answer logits", "residual sum", "identity patch", "final residual", "restart")
    assert all(lints[f"contract: {name}"].ok for name in clauses)
    assert lints["verdict: answer tokens"].ok
    # A random model spreads its probability over all tokens.
    assert not lints["verdict: answer mass"].ok
    assert "'yes'" in lints["verdict: answer mass"].message


def test_a_lint_that_fails_is_said_while_the_study_runs(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = Told()
    config = tiny_config(tiny_model_folder, pairs=1, experiments={"heads": {"regions": ["last"]}})
    run_study(config, tmp_path / "run", told)
    assert any("probability is on 'yes' and 'no'" in text for text in told.warnings)


def test_a_study_without_any_alignable_pair_says_why(tiny_model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "same.jsonl"
    data.write_text(json.dumps(LINES[2]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no pair is left: all 1 were excluded \(identical_after_cut\)"):
        run_study(tiny_config(tiny_model_folder, data=str(data)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prompts_longer_than_the_model_reads_are_excluded_with_both_lengths(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    # Two documents of 400 tokens do not fit into the tiny model's 512 positions.
    data = tmp_path / "long.jsonl"
    long = {
        "query": "where did the cat sit",
        "positive_document": "quick brown fox " * 60,
        "hard_negative_document": ["lazy red hen " * 60],
    }
    data.write_text("".join(json.dumps(line) + "\n" for line in (LINES[0], long)), encoding="utf-8")
    config = tiny_config(
        tiny_model_folder,
        data=str(data),
        prompt={"format": "pairwise", "max_document_tokens": 400},
        experiments={"heads": {"regions": ["last"]}},
    )
    (exclusion,) = run_study(config, tmp_path / "run").manifest.exclusions
    assert (exclusion.pair_id, exclusion.stage, exclusion.reason) == ("line2:0", "alignment", "longer_than_context")
    assert "the model reads 512" in exclusion.detail
    assert "prompt.max_document_tokens" in exclusion.detail
