"""What each command prints and leaves behind when all is well, and where a check fails."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Command

from relscope.cli import show
from relscope.interventions import patch_cost
from relscope.models import Clause, Contract, check_contract
from relscope.results import open_run
from relscope.study import Silent, judge_pairs, run_study
from relscope.study.prepare import prepare
from tiny_study import N_RIGHT_OF_10, SHORT, assert_same_rows, tiny_config

MEASURES = ("accuracy", "f1", "roc_auc", "paired_accuracy")


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("n_pairs", [1, 4])
def test_judge_prints_one_json_object_and_nothing_else_on_stdout(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, n_pairs: int
) -> None:
    outcome = relscope("judge", "-m", tiny_model_folder, "-n", n_pairs, "-p", short_prompt, "--json")
    assert outcome.status == 0
    assert outcome.out.count("\n") == 1
    said = json.loads(outcome.out, parse_constant=refuse_constant)
    asked = ("model", "adapter", "revision", "data", "pairs", "filter", "seed", "prompt", "negatives", "dtype")
    assert set(said) == {"n", "n_kept", "n_excluded", *MEASURES, *asked}
    assert [said[name] for name in asked] == [
        str(tiny_model_folder), None, None, "demo", n_pairs, "all", 0, {"format": "pointwise", "order": "dqi"},
        {"kind": "hard", "per_query": 1, "depth": 100}, "float32",
    ]  # fmt: skip
    assert (said["n"], said["n_excluded"]) == (n_pairs, 0)
    quality = judge_pairs(tiny_config(tiny_model_folder, pairs=n_pairs)).quality
    for name in MEASURES:
        assert set(said[name]) == {"value", "low", "high"}
        assert said[name]["value"] == getattr(quality, name).value
        if n_pairs == 1:
            assert (said[name]["low"], said[name]["high"]) == (None, None)  # one query gives no interval
        else:
            assert said[name]["low"] <= said[name]["value"] <= said[name]["high"]


def test_judge_warns_of_chance_and_of_other_answers_on_stderr_alone(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path
) -> None:
    for as_json in ([], ["--json"]):
        outcome = relscope("judge", "-m", tiny_model_folder, "-n", "3", "-p", short_prompt, *as_json)
        warnings = outcome.err.splitlines()
        assert len(warnings) == 2
        assert all(line.startswith("warning: ") for line in warnings)
        assert "say little about relevance" in outcome.err
        assert "probability is on 'yes' and 'no'" in outcome.err
        assert "warning" not in outcome.out


def test_judge_counts_whom_it_leaves_out(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    good = {"query": "cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]}
    lines = [good, good | {"query": ""}, good | {"hard_negative_document": ["The cat sat."]}]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = relscope("judge", "-m", tiny_model_folder, "-d", data, "-p", short_prompt, "--json")
    said = json.loads(outcome.out)
    assert (said["n"], said["n_excluded"]) == (1, 2)


def test_judge_with_the_filter_lists_pairs_judged_correctly_and_measures_all(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path
) -> None:
    words = ("judge", "-m", tiny_model_folder, "-p", short_prompt, "--pairs", "10", "--json")
    said = json.loads(relscope(*words, "--filter", "correct").out)
    assert (said["n"], said["n_kept"], said["n_excluded"]) == (10, N_RIGHT_OF_10, 0)
    assert said["accuracy"] == json.loads(relscope(*words).out)["accuracy"]


def test_judge_says_how_many_the_filter_leaves_out(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path
) -> None:
    outcome = relscope("judge", "-m", tiny_model_folder, "-p", short_prompt, "--pairs", "3", "--filter", "correct")
    assert outcome.status == 0
    assert outcome.out.startswith(f"{tiny_model_folder} on demo: pointwise, order dqi, hard negatives\n")
    assert "not listed (filter: correct), but measured: 3 of 3 pairs" in outcome.out


def test_judge_shows_each_pair_on_one_line(relscope: Command, tiny_model_folder: Path, short_prompt: Path) -> None:
    outcome = relscope("judge", "-m", tiny_model_folder, "-n", "3", "-p", short_prompt)
    verdicts = judge_pairs(tiny_config(tiny_model_folder)).verdicts
    for row in verdicts.itertuples():
        (line,) = [line for line in outcome.out.splitlines() if line.startswith(str(row.pair_id))]
        assert f"{row.ld_clean:+.3f}" in line
        assert f"{row.ld_corrupted:+.3f}" in line
        assert str(row.query_text)[:40] in line


def test_text_that_the_terminal_cannot_show_is_replaced(
    relscope: Command, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "pairs.jsonl"
    pair = {"query": "日本 the cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]}
    data.write_text(json.dumps(pair))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert relscope("judge", "-m", tiny_model_folder, "-d", data).status == 0
    sys.stdout.flush()
    assert b"?? the cat" in shown.getvalue()


def test_check_passes_a_good_model_clause_by_clause(relscope: Command, tiny_model_folder: Path) -> None:
    outcome = relscope("check", tiny_model_folder)
    assert outcome.status == 0
    for clause in (
        "shapes",
        "patterns",
        "answer logits",
        "residual sum",
        "identity patch",
        "final residual",
        "restart",
    ):
        assert re.search(rf"^ok +{clause} ", outcome.out, re.MULTILINE)
    # A lint warns only: a random model does not answer yes or no.
    assert re.search(r"^warning +answer mass ", outcome.out, re.MULTILINE)
    assert "4 layers, 4 heads, 2 key/value heads, d_model 32" in outcome.out


@pytest.mark.parametrize("width", [80, 120])
def test_check_names_the_model_as_it_was_asked_for_and_fits_the_window(
    relscope: Command, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    def as_adapted(judge: Any) -> Contract:
        judge.identity = dataclasses.replace(judge.identity, name="the-base", adapter="sha256:of-its-adapter")
        return check_contract(judge)

    monkeypatch.setattr("relscope.models.contract.check_contract", as_adapted)
    monkeypatch.setattr(show.OUT, "_width", width)
    outcome = relscope("check", tiny_model_folder)
    assert " ".join(outcome.out.split()).startswith(f"{tiny_model_folder} (the-base with its adapter): llama")
    assert max(map(len, outcome.out.splitlines())) <= width


def test_check_ends_with_status_1_where_a_clause_fails(
    relscope: Command, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(judge: Any) -> Contract:
        failed = Clause("restart", "restarting from any layer equals the full forward pass", False, 0.5, 1e-4)
        return Contract((*check_contract(judge).clauses[:-1], failed))

    monkeypatch.setattr("relscope.models.contract.check_contract", broken)
    outcome = relscope("check", tiny_model_folder)
    assert outcome.status == 1
    assert re.search(r"^FAILS +restart .* 0\.5 +0\.0001 *$", outcome.out, re.MULTILINE)


def test_plan_prints_the_sums_of_what_each_pair_costs(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path
) -> None:
    outcome = relscope("plan", "-m", tiny_model_folder, "-n", "3", "-p", short_prompt)
    config = tiny_config(tiny_model_folder)
    prepared = prepare(config, Silent())
    sites = [site for chosen in config.sites(4, 4).values() for site in chosen]
    costs = [patch_cost(prepared.judge, pair, sites, restart=True) for pair in prepared.aligned]
    n_tokens = sum(2 * len(pair.clean.ids) for pair in prepared.aligned)
    flops = sum(cost.flops + cost.recording_flops for cost in costs)
    for label, value in (
        ("pairs", "3 (0 excluded"),
        ("patches", f"{sum(cost.n_patches for cost in costs):,}"),
        ("tokens in prompts", f"{n_tokens:,}"),
        ("positions recomputed", f"{sum(cost.n_positions for cost in costs):,} "),
        ("floating-point operations", f"{flops:.3g} "),
    ):
        assert re.search(rf"^{label} +{re.escape(value)}", outcome.out, re.MULTILINE), outcome.out
    assert re.search(r"^estimated time +\S+", outcome.out, re.MULTILINE)
    n_flow, n_heads = (3 * len(config.sites(4, 4)[name]) for name in ("flow", "heads"))
    for name, n_patches in (("flow", n_flow), ("heads", n_heads), ("all", n_flow + n_heads)):
        assert re.search(rf"^{name} +{n_patches:,} +[0-9.e+]+ +\S+", outcome.out, re.MULTILINE), outcome.out
    assert outcome.status == 0


def test_run_leaves_rows_and_a_report_and_says_where(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    outcome = relscope("run", "-m", tiny_model_folder, "-n", "2", "-p", short_prompt, "--device", "cpu", "-o", out)
    assert outcome.status == 0
    assert f"rows:   {out / 'rows'}" in outcome.out
    assert f"report: {out / 'report.html'}" in outcome.out
    assert "2 pairs, 0 excluded" in outcome.out
    # Two queries can have no q of 0.05 or less.
    assert re.search(r"^heads: 0 of 48 sites have q ≤ 0.05", outcome.out, re.MULTILINE)
    assert re.search(r"^flow, mlp_out: 0 of 16 sites", outcome.out, re.MULTILINE)  # all tokens are not compared
    assert (out / "report.html").stat().st_size > 10_000
    assert_same_rows(open_run(out), run_study(tiny_config(tiny_model_folder, pairs=2), tmp_path / "direct"))


def test_run_says_nothing_twice(relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path) -> None:
    outcome = relscope(
        "run", "-m", tiny_model_folder, "-n", "3", "-p", short_prompt, "-r", "last", "-o", tmp_path / "run"
    )
    warnings = outcome.err.splitlines()
    assert len(warnings) == len(set(warnings)) == 2  # of chance, and of the answers' mass
    # In a pipe there is neither bar nor colour.
    assert "\x1b" not in outcome.out + outcome.err
    assert "\r" not in outcome.out + outcome.err


@pytest.mark.usefixtures("without_figures")
def test_options_win_over_the_study_file(
    relscope: Command, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"model: {tiny_model_folder}\npairs: 3\nseed: 5\nprompt: {{order: idq, max_document_tokens: 24}}\n"
        "negatives: {depth: 30}\nexperiments:\n  flow: {components: [mlp_out], regions: [query]}\n  heads:\n"
    )
    words = ["-n", "1", "-r", "last", "--negatives", "random", "-p", "pointwise-qdi", "-o", tmp_path / "run"]
    assert relscope("run", study, *words).status == 0
    identity = open_run(tmp_path / "run").manifest.identity
    assert identity["config"] | {"model": None} == {
        **identity["config"],
        "model": None,
        "pairs": 1,
        "seed": 5,
        "negatives": {"kind": "random", "per_query": 1, "depth": 30},
        "experiments": {"flow": {"components": ["mlp_out"], "regions": ["last"]}, "heads": {"regions": ["last"]}},
    }
    assert (identity["prompt"]["order"], identity["prompt"]["max_document_tokens"]) == (
        "qdi",
        SHORT["max_document_tokens"],
    )


@pytest.mark.usefixtures("without_figures")
def test_experiments_are_chosen_by_name_and_regions_go_to_those_that_have_them(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    words = ["-m", tiny_model_folder, "-n", "2", "-p", short_prompt, "-e", "heads,edges,joint,vocabulary", "-r", "last"]
    assert relscope("plan", *words).status == 0
    assert relscope("run", *words, "-o", tmp_path / "run").status == 0
    run = open_run(tmp_path / "run")
    chosen = run.manifest.identity["config"]["experiments"]
    assert set(chosen) == {"heads", "edges", "joint", "vocabulary"}
    assert (chosen["heads"], chosen["vocabulary"]) == ({"regions": ["last"]}, {"regions": ["last"]})
    assert chosen["joint"] == {"top": 8, "heads": None}
    # 4 layers of 4 heads, one region; six edges of two components; 8 heads, their 28 pairs, and sets of 4 and 8
    n_rows = run.rows().groupby("experiment", observed=True).size()
    assert n_rows.to_dict() == {"judge": 2, "heads": 2 * 16, "edges": 2 * 16 * 12, "joint": 2 * (8 + 28 + 2)}
    assert sorted(path.stem for path in (tmp_path / "run" / "readouts").iterdir()) == [
        "contributions", "lens", "vocabulary"
    ]  # fmt: skip


def test_paths_are_planned_measured_and_reported(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    study = tmp_path / "paths.yaml"
    study.write_text("experiments: {heads: {regions: [last]}, paths: {top: 2, inputs: [q]}}\n")
    words = [study, "-m", tiny_model_folder, "-n", "2", "-p", short_prompt]
    planned = relscope("plan", *words)
    assert planned.status == 0
    assert relscope("run", *words, "-o", tmp_path / "run").status == 0
    run = open_run(tmp_path / "run")
    n_rows = run.rows().groupby("experiment", observed=True).size().to_dict()
    # 4 layers of 4 heads, of two components and of the embedding; the two heads' one path, where they differ in layer
    assert n_rows.pop("paths") >= 2 * 2
    assert n_rows == {"judge": 2, "heads": 2 * 16, "direct": 2 * (16 + 8 + 1), "total": 2 * 8}
    assert len(run.manifest.path_senders) == 2
    assert '<section id="paths"' in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert relscope("run", *words[1:], "-e", "paths", "-o", tmp_path / "other").status == 2


@pytest.mark.usefixtures("without_figures")
def test_without_out_the_folder_is_named_after_model_data_and_prompt(
    relscope: Command, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my pairs.jsonl").write_text(
        json.dumps({"query": "cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]})
    )
    words = ["-m", tiny_model_folder, "-d", "my pairs.jsonl", "-p", "pairwise-idq", "-e", "heads", "-r", "last"]
    assert relscope("run", *words).status == 0
    name = f"{tiny_model_folder.name}-my-pairs.jsonl-pairwise-idq"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name]


def test_report_is_rebuilt_from_the_rows(relscope: Command, tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_study(tiny_config(tiny_model_folder, pairs=2), tmp_path / "run")
    outcome = relscope("report", run.directory)
    assert (outcome.status, outcome.out) == (0, f"report: {run.directory / 'report.html'}\n")
    first = (run.directory / "report.html").read_bytes()
    (run.directory / "report.html").unlink()
    relscope("report", run.directory)
    assert (run.directory / "report.html").read_bytes() == first


def test_prompts_are_printed_with_their_regions_named(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path
) -> None:
    outcome = relscope("prompts", "-m", tiny_model_folder, "-n", "1", "-p", short_prompt)
    assert outcome.status == 0
    (pair,) = prepare(tiny_config(tiny_model_folder, pairs=1), Silent()).aligned
    assert f"[query:  {pair.query_text}]" in outcome.out
    assert "[instruction: Does the document answer the query? Only output 'yes' or 'no'.]" in outcome.out
    assert outcome.out.count("[document: ") == 2  # clean and corrupted


def test_prompts_say_who_is_left_out(relscope: Command, tiny_model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    same = "the same words " * 20
    lines = [
        {"query": "cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]},
        {"query": "same", "positive_document": same + "one", "hard_negative_document": [same + "two"]},
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompt = tmp_path / "short.yaml"
    prompt.write_text("max_document_tokens: 24\n")
    outcome = relscope("prompts", "-m", tiny_model_folder, "-d", data, "-p", prompt)
    assert "excluded: line2:0: identical_after_cut" in outcome.out


def test_version_is_printed(relscope: Command) -> None:
    from relscope.version import __version__

    outcome = relscope("--version")
    assert (outcome.status, outcome.out) == (0, f"{__version__}\n")
