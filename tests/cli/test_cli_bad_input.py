"""Whatever is wrong with what was given is said in one line that names it; exit status 2, and nothing on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Command, Outcome

HERE = "{here}"  # stands for the test's folder
MODEL = "{model}"

BAD_OPTIONS = [
    (["--filter", "corect"], "filter: 'corect' does not exist: did you mean 'correct'? (one of: all, correct)"),
    (["--direction", "noize"], "direction: 'noize' does not exist: did you mean 'noise'?"),
    (
        ["--dtype", "flaot32"],
        "dtype: 'flaot32' does not exist: did you mean 'float32'? (one of: auto, float32, bfloat16-weights,",
    ),
    (
        ["--dtype", "int8"],
        "dtype: 'int8' does not exist: use one of: auto, float32, bfloat16-weights, bfloat16, float16",
    ),
    (["--precision", "exakt"], "precision: 'exakt' does not exist: did you mean 'exact'? (one of: auto, exact, delta)"),
    (["--negatives", "hrad"], "negatives.kind: 'hrad' does not exist: did you mean 'hard'?"),
    (["--prompt", "pontwise-dqi"], "prompt: 'pontwise-dqi' does not exist: did you mean 'pointwise-dqi'?"),
    (["--prompt", "pairwise-qdi"], "does not exist: a pairwise prompt is pairwise-dqi or pairwise-idq (or give a"),
    (["--prompt", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
    (
        ["--experiments", "flwo"],
        "experiment 'flwo' does not exist: did you mean 'flow'? (one of: flow, heads, edges, joint",
    ),
    (["--experiments", ","], "experiments: no experiment is chosen; choose from flow, heads, edges, joint"),
    (["--regions", "qeury"], "experiments.flow.regions: region 'qeury' does not exist: did you mean 'query'?"),
    (["--regions", "query.frist"], "region 'query.frist' does not exist: did you mean 'query.first'?"),
    (["--regions", ","], "experiments.flow.regions: a list of names is needed, such as [query, document]"),
    (["--regions", "document_a"], "region 'document_a' does not exist in a pointwise prompt"),
    (["--components", "attn"], "component 'attn' does not exist: did you mean 'attn_out'?"),
    (["-e", "heads", "--components", "attn_out"], "--components: belongs to the experiment flow"),
    (["-e", "edges,joint"], "joint chooses its heads by their effects in the experiment heads"),
    (["-e", "paths"], "paths chooses its heads by their effects in the experiment heads, which is not chosen"),
    (["-e", "edges", "--regions", "last"], "--regions: belongs to flow, heads, vocabulary, none of which is chosen"),
    (["-e", "interaction", "-p", "pointwise-qdi"], "experiments.interaction: needs the query behind the document"),
    (["--memory", "lots"], "memory: 'lots' is no amount of memory; write for example 1GiB"),
    (["--memory", "1.2.3GiB"], "memory: '1.2.3GiB' is no amount of memory"),
    (["--memory", "0"], "memory: should be greater than or equal to 1, not '0'"),
    (["--pairs", "0"], "pairs: should be greater than or equal to 1, not 0"),
    (["--pairs", "-3"], "pairs: should be greater than or equal to 1, not -3"),
    (["--seed", "-1"], "seed: should be greater than or equal to 0, not -1"),
    (["--device", "gpu"], "device 'gpu' cannot be used here"),
    (["--data", "nothing.jsonl"], "nothing.jsonl: there is no such file"),
    (["--data", "nothing"], 'nothing: there is no such data; give "demo"'),
    (["--data", f"{HERE}/one.jsonl"], 'one.jsonl, line 1: field "positive_document" is missing'),
    (["--model", f"{HERE}/empty"], "empty': the folder has no config.json, so it holds no model"),
    (["--model", f"{HERE}/pickle"], "pickle': the folder has no *.safetensors; other weight formats can run code"),
    (["--model", "./nowhere"], "model './nowhere': there is no such folder"),
    (["--model", f"{HERE}/one.jsonl"], "is a file; a model is a folder, a .gguf file, or a hub id"),
    (["--model", f"{HERE}/none.gguf"], "there is no such GGUF file"),
    (["--adapter", f"{HERE}/empty"], "adapter"),
    (["--out", f"{HERE}/one.jsonl"], "one.jsonl: is a file; give a folder for the run"),
    (["--out", f"{HERE}/one.jsonl/run"], "cannot make this folder (Not a directory)"),
    (["--out", f"{HERE}/pickle"], "holds 'config.json' and no manifest.json, so it is no run folder"),
    ([f"{HERE}/nofile.yaml"], "nofile.yaml: cannot be read: No such file or directory"),
    (["smoljudge"], "smoljudge: there is no such file of a study; a model is named with --model smoljudge"),
]

BAD_YAML = [
    ("- 1\n- 2\n", "study.yaml: a mapping of fields is needed, such as 'name: value', not [1, 2]"),
    ("model: [\n", "study.yaml, line 2, column 1: is not YAML: expected the node content, but found '<stream end>'"),
    (b"model: caf\xe9\n", "study.yaml: is not UTF-8 text (byte 10)"),
    ("modle: x\n", "study.yaml: unknown field 'modle': did you mean 'model'?"),
    ("self: 1\n", "study.yaml: unknown field 'self'"),
    ("1: 2\n", "study.yaml: unknown field '1'"),
    ("negatives: {knid: hard}\n", "unknown field 'negatives.knid': did you mean 'kind'?"),
    ("negatives: {depth: 0}\n", "negatives.depth: should be greater than or equal to 1, not 0"),
    ("negatives: {per_query: true}\n", "negatives.per_query: should be a valid integer, not True"),
    ("negatives: 5\n", "negatives: a mapping of kind, per_query, depth is needed, not 5"),
    ("negatives: hrad\n", "negatives.kind: 'hrad' does not exist: did you mean 'hard'?"),
    ("negatives: {per_query: 5, depth: 2}\n", "depth must be at least per_query (5), not 2"),
    ("experiments:\n  flow:\n    region: [last]\n", "unknown field 'experiments.flow.region': did you mean 'regions'?"),
    ("experiments:\n  flow:\n    regions: [lst]\n", "experiments.flow.regions: region 'lst' does not exist"),
    ("experiments:\n  flow:\n    regions: 5\n", "experiments.flow.regions: a list of names is needed"),
    ("experiments:\n  heads:\n    components: [z]\n", "unknown field 'experiments.heads.components'"),
    ("experiments: {flow: 5}\n", "experiment flow: a mapping of options is needed, such as 'regions: [last]', not 5"),
    ("experiments: [flow, haeds]\n", "experiment 'haeds' does not exist: did you mean 'heads'?"),
    ("experiments: [[flow]]\n", "experiment ['flow'] does not exist"),
    ("experiments: {}\n", "experiments: no experiment is chosen"),
    ("prompt: {ordr: qdi}\n", "prompt: unknown field 'ordr': did you mean 'order'?"),
    ("prompt: {answers: [yes, no]}\n", "YAML reads yes and no without quotes as true and false: write ['yes', 'no']"),
    ("prompt: {format: pairwise, order: qdi}\n", "a pairwise prompt has the order dqi or idq, not qdi"),
    ("prompt: {format: pairwise}\nexperiments: {flow: {regions: [document_c]}}\n", "did you mean 'document_b'?"),
    ("prompt: [1]\n", "prompt: a mapping of format, order, "),
    ("prompt: pairwise-qdi\n", "'pairwise-qdi' does not exist: a pairwise prompt is pairwise-dqi or pairwise-idq"),
    ("memory: 1.5\n", "memory: should be a valid integer, not 1.5"),
    ("pairs: true\n", "pairs: should be a valid integer, not True"),
    ("pairs: many\n", "pairs: should be a valid integer, not 'many'"),
    ("model: 5\n", "model: should be a valid string, not 5"),
    (
        "filter: corect\ndirection: nois\n",
        "filter: 'corect' does not exist: did you mean 'correct'? (one of: all, correct); direction: 'nois'",
    ),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text(json.dumps({"query": "x"}) + "\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "config.json").write_text("{}")
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    return tmp_path


def assert_refused_in_one_line(outcome: Outcome, message: str) -> None:
    assert outcome.status == 2
    assert outcome.out == ""
    assert message in outcome.err
    said = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
    assert len(said) == 1, outcome.err
    assert said[0].startswith("relscope: ")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("words", "message"), BAD_OPTIONS, ids=lambda value: " ".join(value)[:40] if value else "")
def test_a_bad_option_is_refused_in_one_line(
    relscope: Command, here: Path, tiny_model_folder: Path, words: list[str], message: str
) -> None:
    given = [word.format(here=here) for word in words]
    chosen = [] if "--model" in given else ["--model", tiny_model_folder]
    few = [] if "--pairs" in given else ["--pairs", "1"]
    assert_refused_in_one_line(relscope("run", *chosen, *few, *given), message)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(("text", "message"), BAD_YAML, ids=lambda value: str(value)[:40])
def test_a_bad_study_file_is_refused_in_one_line(
    relscope: Command, here: Path, text: str | bytes, message: str
) -> None:
    (here / "study.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused_in_one_line(relscope("plan", "study.yaml"), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "texts.yaml: a mapping of fields is needed, such as 'name: value', not [1]"),
        ("ordr: qdi\n", "texts.yaml: unknown field 'ordr': did you mean 'order'?"),
        ("instruction: ''\n", "texts.yaml: instruction: it is empty"),
    ],
)
def test_a_bad_file_of_prompt_texts_is_refused_by_its_name(
    relscope: Command, here: Path, text: str, message: str
) -> None:
    (here / "texts.yaml").write_text(text)
    assert_refused_in_one_line(relscope("run", "--prompt", "texts.yaml"), message)


def test_a_bad_option_beside_a_good_file_is_not_blamed_on_the_file_alone(relscope: Command, here: Path) -> None:
    (here / "study.yaml").write_text("seed: 1\n")
    outcome = relscope("run", "study.yaml", "--filter", "corect")
    assert_refused_in_one_line(outcome, "study.yaml and options: filter: 'corect' does not exist")


def test_what_is_wrong_in_the_file_alone_is_not_blamed_on_the_options_beside_it(relscope: Command, here: Path) -> None:
    (here / "study.yaml").write_text("experiments: {interaction: {regions: [query]}}\n")
    outcome = relscope("run", "study.yaml", "--pairs", "1")
    told = "relscope: study.yaml: unknown field 'experiments.interaction.regions': interaction has no options"
    assert_refused_in_one_line(outcome, told)
    outcome = relscope("run", "study.yaml", "--pairs", "0")  # both are wrong
    assert_refused_in_one_line(outcome, "relscope: study.yaml and options: pairs: ")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--modle", "x"],
        ["run", "--pairs", "many"],
        ["run", "a.yaml", "b.yaml"],
        ["check"],
        ["frobnicate"],
    ],
    ids=" ".join,
)
def test_what_is_no_option_or_command_is_a_usage_error(relscope: Command, words: list[str]) -> None:
    outcome = relscope(*words)
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Usage: relscope" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", ["plan", "judge", "prompts"])
def test_every_command_refuses_missing_data_in_one_line(
    relscope: Command, here: Path, tiny_model_folder: Path, command: str
) -> None:
    outcome = relscope(command, "-m", tiny_model_folder, "-d", "nothing.jsonl")
    assert_refused_in_one_line(outcome, "nothing.jsonl: there is no such file")


@pytest.mark.parametrize("folder", ["nowhere", "empty", "one.jsonl"])
def test_a_report_of_what_is_no_run_is_refused(relscope: Command, here: Path, folder: str) -> None:
    assert_refused_in_one_line(relscope("report", folder), f"{folder}: not a run folder (no manifest.json)")


@pytest.mark.usefixtures("without_figures")
def test_a_report_of_a_damaged_run_names_the_part(
    relscope: Command, here: Path, tiny_model_folder: Path, short_prompt: Path
) -> None:
    ended = relscope(
        "run", "-m", tiny_model_folder, "-n", "1", "-p", short_prompt, "-e", "heads", "-r", "last", "-o", "run"
    )
    assert ended.status == 0, ended.err
    part = here / "run" / "rows" / "heads-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert_refused_in_one_line(relscope("report", "run"), "heads-00000.parquet: damaged")


def test_a_check_of_no_model_is_refused(relscope: Command, here: Path) -> None:
    assert_refused_in_one_line(relscope("check", "./nowhere"), "model './nowhere': there is no such folder")
