"""`relscope rerank`: what it prints and leaves behind, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import ir_measures
import pytest
from command_line import Command, run_python

from relscope.data import load_collection, read_run
from relscope.models import JudgeModel
from tiny_study import interrupted_after

Words = list[object]


@pytest.fixture
def words(tiny_model_folder: Path, short_prompt: Path) -> Words:
    return ["rerank", "-m", tiny_model_folder, "-p", short_prompt, "-n", 4, "--depth", 6]


def test_it_prints_the_measures_beside_the_first_stages_and_writes_the_run(
    relscope: Command, words: Words, tmp_path: Path
) -> None:
    out = tmp_path / "run.trec"
    outcome = relscope(*words, "--measures", "nDCG@10, P(rel=2)@5", "-o", out)
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].endswith(" on demo: pointwise-dqi, method pointwise; 24 prompts for 24 documents of 4 queries")
    assert lines[2].split() == ["measure", "BM25", "reranked", "difference", "p", "(t-test)", "p", "(sign", "flips)"]
    assert lines[3].startswith("nDCG@10 ")
    assert lines[4].startswith("P(rel=2)@5 ")
    assert "4 judged queries; 95 % intervals over queries" in outcome.out
    assert "p by Holm's correction over 2 measures" in outcome.out
    assert re.fullmatch(
        r"time: [0-9.]+ CPU seconds per 100 documents \([0-9.]+ s by the clock, cpu\), from 24 prompts judged",
        lines[-2],
    )
    assert lines[-1] == f"run: {out}"
    assert {len(ranked) for ranked in read_run(out).values()} == {6}
    assert len((tmp_path / "run.trec.verdicts" / "verdicts.jsonl").read_text().splitlines()) == 24


def test_json_is_one_object_whose_ndcg_is_that_of_ir_measures_on_the_written_file(
    relscope: Command, words: Words, tmp_path: Path
) -> None:
    outcome = relscope(*words, "--json", "-o", tmp_path / "run.trec")
    assert outcome.out.count("\n") == 1
    said = json.loads(outcome.out)
    expected = {"n_queries": 4, "n_documents": 24, "n_prompts": 24, "n_left_out": {}, "method": "pointwise",
                "first_stage": "BM25", "run": str(tmp_path / "run.trec"), "data": "demo",
                "prompt": {"format": "pointwise", "order": "dqi"}}  # fmt: skip
    assert said | expected == said
    (measure,) = said["measures"]
    qrels = {q: dict(load_collection("demo").qrels[q]) for q in read_run(tmp_path / "run.trec")}
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    value = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert measure["value"]["value"] == pytest.approx(value, abs=1e-12)  # summed in another order
    assert measure["difference"]["low"] <= measure["difference"]["value"] <= measure["difference"]["high"]
    assert measure["p_t_holm"] == measure["p_t"]
    assert (said["depth"], said["last_layer"], said["verdicts"]) == (6, 3, f"{tmp_path / 'run.trec'}.verdicts")
    cost = said["cost"]
    assert (cost["n_calls"], cost["n_prompts_timed"], cost["devices"]) == (1, 24, ["cpu"])
    assert cost["cpu_seconds_per_100_documents"] == pytest.approx(100 * cost["cpu_seconds"] / 24)


@pytest.mark.parametrize("method", ["sliding-window", "heapsort", "all-pairs"])
def test_pairwise_methods_rank_a_run_file(
    relscope: Command, tiny_model_folder: Path, tmp_path: Path, method: str
) -> None:
    prompt = tmp_path / "pairs.yaml"
    prompt.write_text("format: pairwise\nmax_document_tokens: 24\n")
    first = tmp_path / "first.trec"
    first.write_text("".join(f"q01 Q0 p{i:03} {i} {-i} mine\n" for i in range(1, 5)))
    top = [] if method == "all-pairs" else ["--top", 2]
    outcome = relscope("rerank", "-m", tiny_model_folder, "-p", prompt, "--first-stage", first, "--method", method,
                       "-n", 1, *top, "--json", "-o", tmp_path / "out.trec")  # fmt: skip
    said = json.loads(outcome.out)
    assert (said["method"], said["first_stage"], said["n_queries"]) == (method, "first.trec", 1)
    assert said["n_prompts"] <= 12
    assert sorted(read_run(tmp_path / "out.trec")["q01"]) == ["p001", "p002", "p003", "p004"]
    assert said["measures"][0]["p_flip"] is None  # one query


def test_interrupted_it_says_how_to_go_on_and_goes_on(
    relscope: Command, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = [*words, "--depth", "20"]  # two queries of the four have the 16 prompts that make a part of their own
    with interrupted_after(1):
        outcome = relscope(*many)
    assert outcome.status == 130
    assert "relscope: interrupted; what is done is kept in runs/" in outcome.err
    assert "-pointwise-dqi-pointwise.trec.verdicts. To go on: relscope rerank " in outcome.err
    again = shlex.split(outcome.err.strip().rpartition("To go on: ")[2])
    assert again[-2] == "--out"
    out = Path(again[-1])
    assert not out.exists()
    n_stored = len((tmp_path / f"{out}.verdicts" / "verdicts.jsonl").read_text().splitlines())
    assert n_stored > 0
    resumed = relscope(*again[1:])
    assert resumed.status == 0
    assert "from 80 prompts judged in 2 calls\n" in resumed.out
    assert relscope(*many, "-o", "whole.trec").status == 0
    assert read_run(tmp_path / out) == read_run(tmp_path / "whole.trec")


def test_given_again_it_judges_nothing_and_prints_the_same(
    relscope: Command, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = relscope(*words, "-o", tmp_path / "run.trec")
    monkeypatch.setattr(JudgeModel, "relevance", None)
    assert relscope(*words, "-o", tmp_path / "run.trec").out == first.out


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (["--method", "heap"], "method: 'heap' does not exist: did you mean 'heapsort'?"),
        (["--method", "all-pairs"], "method: all-pairs needs a pairwise prompt, and this one is pointwise: use the"),
        (["--measures", "ndcg@10"], "measures: 'ndcg@10' is none that ir-measures reads"),
        (["--measures", "nDCG@10,"], "measures: '' is none that ir-measures reads"),
        (["--measures", "AP,AP"], "measures: one is named twice"),
        (["--depth", "0"], "depth: must be at least 1, not 0"),
        (["--queries", "0"], "queries: must be at least 1, not 0"),
        (["--top", "0"], "top: must be at least 1, not 0"),
        (["--top", "3"], "option --top: is for sliding-window and heapsort; the method pointwise does not read it"),
        (["--reading", "largest"], "option --reading: is for attention; the method pointwise does not read it"),
        (["--uncalibrated"], "option --calibrated: is for attention; the method pointwise does not read it"),
        (["--first-stage", "nowhere.trec"], "nowhere.trec: there is no such file"),
        (["--first-stage", "{here}/other.trec"], 'other.trec: demo holds none of its documents, such as "D7"'),
        (["--first-stage", "{here}/notes.txt"], "notes.txt, line 1: must have 6 columns"),
        (["--data", "pairs.jsonl"], "pairs.jsonl: there is no such file"),
        (["--out", "{here}"], "is a folder; give a file for the run"),
        (["--out", "{here}/notes.txt"], "notes.txt: is there already, and not from reranking"),
        (["--out", "{here}/notes.txt/run.trec"], "cannot make this folder"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    relscope: Command, words: Words, tmp_path: Path, added: list[str], told: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "other.trec").write_text("q01 Q0 D7 1 1 t\n")
    added = [word.replace("{here}", str(tmp_path)) for word in added]
    outcome = relscope(*words, "-o", tmp_path / "run.trec", *added)
    assert (outcome.status, outcome.out) == (2, "")
    (said,) = outcome.err.splitlines()
    assert told in said
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_other_settings_in_the_same_place_are_refused(relscope: Command, words: Words, tmp_path: Path) -> None:
    assert relscope(*words, "-o", tmp_path / "run.trec").status == 0
    outcome = relscope(*words, "-p", "pointwise-idq", "-o", tmp_path / "run.trec")
    assert outcome.status == 2
    assert 'prompt.order: "dqi" in the folder, "idq" now' in outcome.err
    assert "; give another --out" in outcome.err


def test_more_documents_and_queries_in_the_same_place_go_on_from_what_is_stored(
    relscope: Command, words: Words, tmp_path: Path
) -> None:
    out = tmp_path / "run.trec"
    verdicts = tmp_path / "run.trec.verdicts" / "verdicts.jsonl"
    assert relscope(*words, "-o", out).status == 0
    before = verdicts.read_text()
    outcome = relscope(*words, "-n", 5, "--depth", 8, "-o", out)
    assert outcome.status == 0, outcome.err
    assert "40 prompts for 40 documents of 5 queries" in outcome.out
    after = verdicts.read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 40
    assert {len(ranked) for ranked in read_run(out).values()} == {8}


def test_help_names_every_option_and_imports_nothing_heavy() -> None:
    program = "import sys\nfrom relscope.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    outcome = run_python(program, "rerank", "--help")
    for option in (
        "data",
        "first-stage",
        "depth",
        "queries",
        "prompt",
        "method",
        "top",
        "measures",
        "model",
        "out",
        "json",
    ):
        assert f"--{option} " in outcome.out
    assert not {"torch", "numpy", "pandas", "ir_measures"} & set(outcome.err.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rerank", "--pairs", "3"], "No such option: --pairs (here it is --queries)"),
        (["rerank", "--run=a.trec"], "No such option: --run (here it is --first-stage)"),
        (["ablate", "x", "--queries", "3"], "No such option: --queries (here it is --pairs)"),
        (["run", "--queries", "3"], "No such option: --queries (here it is --pairs)"),
        (["rerank", "--first-stages", "x"], "No such option: --first-stages (Possible options: --first-stage)"),
    ],
)
def test_an_option_that_is_called_otherwise_here_is_named(relscope: Command, words: list[str], told: str) -> None:
    outcome = relscope(*words)
    assert outcome.status == 2
    assert told in " ".join(outcome.err.replace("│", " ").split())


def test_heads_that_a_run_puts_first_rank_the_queries_that_did_not_choose_them(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    model = ["-m", tiny_model_folder, "-p", short_prompt, "--device", "cpu"]
    run, file = tmp_path / "run", tmp_path / "heads.json"
    measured = relscope("run", *model, "-n", 2, "-e", "heads,interaction", "-r", "query", "-o", run)
    assert measured.status == 0, measured.err
    chosen = relscope("heads", run, "-k", 3, "--below", 2, "-o", file)
    assert chosen.out.startswith("query-3 below 2: L")
    assert f"chosen by 2 queries, which are not reranked\nheads: {file}" in chosen.out
    assert f"chosen in {tiny_model_folder}, " in chosen.out
    assert relscope("heads", run, "--by", "interaction", "-o", tmp_path / "alone.json").status == 0
    assert json.loads(file.read_text())["chosen_on"] == ["q01", "q02"]
    words = ["rerank", *model, "-n", 3, "--depth", 4, "--method", "attention"]
    outcome = relscope(*words, "--heads", file, "-o", tmp_path / "run.trec")
    assert outcome.status == 0, outcome.err
    assert ": pointwise-dqi, method attention of query-3 below 2 (total, calibrated), read up to layer " in outcome.out
    assert "2 held_out" in outcome.err
    assert set(read_run(tmp_path / "run.trec")) == {"q03", "q04", "q05"}
    said = json.loads(relscope(*words, "--heads", file, "--reading", "largest", "--uncalibrated", "--json",
                               "-o", tmp_path / "other.trec").out)  # fmt: skip
    assert said["n_left_out"] == {"held_out": 2}
    assert (said["heads"]["name"], said["heads"]["reading"], said["heads"]["calibrated"]) == (
        "query-3 below 2", "largest", False,
    )  # fmt: skip
    assert len(said["heads"]["members"]) == 3


def _numbers(text: str) -> list[float]:
    return [float(number.replace("−", "-")) for number in re.findall(r"[−+-]?[0-9]+\.[0-9]{3}(?![0-9])", text)]


def test_the_runs_report_shows_what_was_printed(
    relscope: Command, tiny_model_folder: Path, short_prompt: Path, tmp_path: Path
) -> None:
    model = ["-m", tiny_model_folder, "-p", short_prompt, "--device", "cpu"]
    run, judge, heads = tmp_path / "run", tmp_path / "judge.trec", tmp_path / "heads.trec"
    assert relscope("run", *model, "-n", 2, "-e", "heads", "-r", "query", "-o", run).status == 0
    assert relscope("heads", run, "-k", 3, "-o", tmp_path / "heads.json").status == 0
    words = ["rerank", *model, "--depth", 4, "--measures", "nDCG@10,RR,P@3"]
    by_judge = relscope(*words, "-n", 8, "-o", judge)
    by_heads = relscope(*words, "-n", 6, "-o", heads, "--method", "attention", "--heads", tmp_path / "heads.json")
    report = relscope("report", run, "--with", judge, "--with", f"{heads}.verdicts")
    assert report.status == 0, report.err
    html = (run / "report.html").read_text()
    shown = html[html.index('<section id="rerankings"') :]
    rows = re.findall(
        r'<th scope="row">([^<]+)</th>(.*?)<td class="num">[^<]*</td><td class="num">[^<]*</td><td class="strip', shown
    )
    printed = [
        line for outcome in (by_judge, by_heads) for line in outcome.out.splitlines()
        if line.startswith(("nDCG@10 ", "RR ", "P@3 "))
    ]  # fmt: skip
    assert len(printed) == len(rows) == 6
    for (measure, cells), line in zip(rows, printed, strict=True):
        assert line.startswith(f"{measure} ")
        # the first stage, the ranking, their difference and its interval
        assert _numbers(cells) == _numbers(line)[:5]
    assert "6 queries that all of these rank" in shown
    assert "Heads query-3 (total)" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["rerank", "--method", "attention"],
            "the method attention reads heads, and none are given: choose some of a finished run with",
        ),
        (["rerank", "--method", "attention", "--heads", "gone.json"], "gone.json: cannot be read: No such file"),
        (
            ["rerank", "--heads", "{here}/a.json"],
            "heads: only the method attention reads heads, and no method is named: give --method attention",
        ),
        (
            ["rerank", "--method", "attention", "--heads", "{here}/a.json", "-p", "pointwise-qdi"],
            "query behind the doc",
        ),
        (["rerank", "--method", "attention", "--heads", "{here}/a.json"], "heads: layer 99, head 0 does not exist"),
        (["heads", "gone"], "gone"),
    ],
)
def test_heads_that_cannot_be_used_are_said_in_one_line(
    relscope: Command, tiny_model_folder: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "a.json").write_text('{"name": "a", "members": [[99, 0, "query"]], "chosen_on": ["q01"]}')
    model = ["-m", tiny_model_folder, "-o", tmp_path / "x.trec", "--depth", 2] if words[0] == "rerank" else []
    outcome = relscope(words[0], *model, *(word.replace("{here}", str(tmp_path)) for word in words[1:]))
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err.splitlines()[-1]
