"""`relscope ablate`: what it prints and leaves behind, how it goes on, and what it refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from command_line import Command, run_python

from relscope.study import run_study
from tiny_study import interrupted_after, tiny_config

Words = list[object]


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    run_study(tiny_config(tiny_model_folder, experiments={"heads": {"regions": ["query", "last"]}}), folder)
    return folder


@pytest.fixture
def words(run: Path) -> Words:
    return ["ablate", run, "--regions", "query,last", "--top", "1", "--draws", "2", "-n", "3", "--device", "cpu"]


def test_it_prints_the_table_and_writes_it_in_four_formats(relscope: Command, words: Words, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = relscope(*words, "--depth", "3", "--rerank-draws", "1", "-o", out)
    assert outcome.status == 0, outcome.err
    note = (
        "note: 1 random draw is reranked with, too few to tell whether a set changes rankings more than random sets do"
    )
    assert outcome.err.count(note) == 1
    assert "that takes --draws 19 and --rerank-draws 19" in outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split(maxsplit=1)[0] == "condition"
    assert "Judging, pointwise-dqi of the run: F1" in lines[0]
    assert "Reranking, pointwise-dqi of the run: nDCG@10" in lines[0]
    names = ["First", "Full", "Random-2", "Matched-2", "Bottom-2", "Query-1", "Last-1", "Mixed-2"]
    assert [line.split()[0] for line in lines[1:9]] == names
    assert "3 queries by which no head was chosen" in outcome.out
    assert "Mixed-2 " in outcome.out.partition("Judging, pointwise-dqi of the run: ")[2]
    assert lines[-2] == f"report: {out / 'report.html'}"
    assert lines[-1] == f"in the run's report: relscope report {words[1]} --with {out}"
    assert {"report.html", "table.csv", "table.tex", "table.md", "ablation.json"} <= {p.name for p in out.iterdir()}
    again = relscope("report", out)
    assert (again.status, again.out) == (0, f"report: {out / 'report.html'}\n")
    run = Path(str(words[1]))
    shown = relscope(*shlex.split(lines[-1].partition(": relscope ")[2]))
    assert (shown.status, shown.out) == (0, f"report: {run / 'report.html'}\n"), shown.err
    assert '<section id="downstream"' in (run / "report.html").read_text()
    refused = relscope("report", out, "--with", out)
    assert (refused.status, refused.out) == (2, "")
    assert "option --with: belongs to the folder of a run" in refused.err


def test_without_regions_the_sets_are_of_those_that_the_run_has(
    relscope: Command, words: Words, run: Path, tmp_path: Path
) -> None:
    given = [word for word in words if word not in ("--regions", "query,last")]
    outcome = relscope(*given, "--no-rerank", "-n", "1", "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert "the run has no heads at document, instruction: the sets are of query, last" in outcome.err
    assert "note: " not in outcome.err
    names = [line.split()[0] for line in outcome.out.splitlines()[1:8]]
    assert names == ["Full", "Random-2", "Matched-2", "Bottom-2", "Query-1", "Last-1", "Mixed-2"]


def test_interrupted_it_says_how_to_go_on_and_goes_on(
    relscope: Command, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with interrupted_after(3):
        outcome = relscope(*words, "--no-rerank")
    assert outcome.status == 130
    assert "relscope: interrupted; what is done is kept in runs/ablation-mine. To go on: relscope ablate" in outcome.err
    assert len(list((tmp_path / "runs" / "ablation-mine" / "rows").iterdir())) == 3
    again = shlex.split(outcome.err.strip().rpartition("To go on: ")[2])
    assert relscope(*again[1:]).status == 0
    assert len(list((tmp_path / "runs" / "ablation-mine" / "rows").iterdir())) == 9


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (["--top", "some"], "option --top: 'some' is neither a number of heads, such as 20, nor a share, such as 2%"),
        (["--top", "0"], "option --top: '0' is neither"),
        (["--top", "150%"], "option --top: '150%' is neither"),
        (["--top", "1.5"], "k is 1.5; give a number of heads, or a share"),
        (["--regions", "query,document"], "has no heads at 'document', but at query, last; give --regions of these"),
        (["--regions", "lst"], "has no heads at 'lst'"),
        (["--kind", "means"], "kind: 'means' does not exist"),
        (["--draws", "0"], "draws: must be at least 1, not 0"),
        (["--data", "nowhere"], "nowhere: there is no such data"),
        (["--rerank", "demo", "--no-rerank"], "--rerank and --no-rerank exclude each other"),
        (["--out", "{here}"], "holds 'notes.txt' and no ablation.json"),
    ],
)
def test_what_cannot_be_used_is_said(
    relscope: Command, words: Words, tmp_path: Path, added: list[str], told: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    added = [word.replace("{here}", str(tmp_path)) for word in added]
    outcome = relscope(*words, "--no-rerank" if "--rerank" not in added else "--seed=0", "-o", tmp_path / "o", *added)
    assert (outcome.status, outcome.out) == (2, "")
    # before it, a warning that the tiny model hardly says yes or no
    assert told in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def test_a_folder_that_is_no_run_is_refused(relscope: Command, tmp_path: Path) -> None:
    outcome = relscope("ablate", tmp_path)
    assert outcome.status == 2
    assert "not a run folder" in outcome.err


def test_help_names_every_option_and_imports_nothing_heavy() -> None:
    program = "import sys\nfrom relscope.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    outcome = run_python(program, "ablate", "--help")
    shown = (
        "top regions kind positions keep-only draws match seed data pairs negatives prompts rerank no-rerank "
        "first-stage depth rerank-draws dtype device memory out"
    )
    for option in shown.split():
        assert f"--{option} " in outcome.out
    assert not {"torch", "numpy", "pandas", "ir_measures"} & set(outcome.err.split())
