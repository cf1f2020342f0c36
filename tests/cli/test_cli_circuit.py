"""`relscope circuit`: what it prints and leaves behind, how a saved circuit is judged elsewhere, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import Command, run_python

from relscope.analysis import Circuit
from relscope.report import build_circuit_report
from relscope.study import CircuitOptions, find_circuit, run_study
from tiny_study import Told, tiny_config

QUICK = ["--threshold", 0.6, "--reference", 2, "--pairs", 4, "--prune-sets", 3, "--minimality", 3, "--draws", 2,
         "--randoms", 2, "--device", "cpu"]  # fmt: skip
REGIONS = ["document", "query", "instruction", "last"]


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("circuit") / "run"
    # Of these ten pairs the three that are judged correctly: the others' LDs are the wrong way round.
    config = tiny_config(tiny_model_folder, pairs=10, filter="correct", experiments={"heads": {"regions": REGIONS}})
    run_study(config, out)
    return out


class ByStage(Told):
    """Remembers of each stage that was begun how many prompts were planned and how many are done."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: dict[str, list[int]] = {}

    def start(self, n_patches: int, work: float) -> None:
        assert work == n_patches
        self.prompts[self.stages[-1]] = [n_patches, 0]

    def advance(self, n_patches: int, work: float) -> None:
        assert work == n_patches
        if self.stages[-1] in self.prompts:
            self.prompts[self.stages[-1]][1] += n_patches


RERANKING = CircuitOptions(
    threshold=0.6, reference=2, pairs=4, prune_sets=3, minimality=3, draws=2, randoms=2, rerank="demo", depth=4,
    queries=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def progress() -> ByStage:
    return ByStage()


@pytest.fixture(scope="module")
def found(run: Path, progress: ByStage) -> Path:
    find_circuit(run, run.parent / "found", RERANKING, device="cpu", progress=progress)
    return run.parent / "found"


def test_it_prints_the_circuit_and_writes_circuit_curves_and_report(relscope: Command, run: Path, found: Path) -> None:
    outcome = relscope("circuit", run, *QUICK, "--rerank", "demo", "--depth", 4, "--queries", 3, "-o", found)
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    circuit = Circuit.load(found / "circuit.json")
    assert lines[0] == f"{len(circuit)} of 64 sites; demo, pointwise-dqi, hard negatives, 4 pairs of 4 queries"
    assert [line.split()[0] for line in lines[3:8]] == ["ld_gap", "f1", "accuracy", "roc_auc", "nDCG@10"]
    assert ["metric", "CPR", "CMD"] in [line.split() for line in lines]
    assert lines[-3:] == [
        f"circuit: {found / 'circuit.json'}", f"report:  {found / 'report.html'}",
        f"in the run's report: relscope report {run} --with {found}",
    ]  # fmt: skip
    assert "warning: Heads at the template's own words are never ablated" in outcome.err
    curves = pd.read_csv(found / "curves.csv")
    sizes = [0, 1, 3, 6, 13, 32, 64]
    assert curves[(curves["mode"] == "keep") & (curves["metric"] == "nDCG@10")]["n_sites"].tolist() == sizes
    ends = curves[curves["n_sites"].isin([0, 64]) & (curves["metric"] == "ld_gap")]
    assert ends["faithfulness"].tolist() == [0, 1, 1, 0]


def test_progress_counts_the_prompts_of_rerankings_beside_those_of_pairs(
    run: Path, found: Path, progress: ByStage
) -> None:
    n_members = len(Circuit.load(found / "circuit.json"))
    # Without a set: 2 prompts of each of 4 pairs; where it is reranked too, 4 documents of each of 3 queries.
    judged, both = 2 * 4, 2 * 4 + 3 * 4
    curves = "judging 12 sets of 1, 3, 6, 13, 32, 64 sites, at most 240 prompts"
    n_others = 2 + min(3, n_members) + 2 * 2
    members = (
        f"judging the circuit of {n_members} sites, {4 + n_others} sets, at most {4 * both + n_others * judged} prompts"
    )
    again = ByStage()
    find_circuit(run, found, RERANKING, device="cpu", progress=again)  # all of it is stored
    for told in (progress, again):
        assert told.prompts[curves] == [12 * both, 12 * both]
        assert told.prompts[members] == [4 * both + n_others * judged] * 2


def test_curves_of_other_sizes_end_at_the_whole_model(relscope: Command, run: Path, tmp_path: Path) -> None:
    outcome = relscope("circuit", run, *QUICK, "--minimality", 0, "--shares", "0.1, 0.5", "-o", tmp_path / "c")
    assert outcome.status == 0, outcome.err
    curves = pd.read_csv(tmp_path / "c" / "curves.csv")
    assert sorted(set(curves["n_sites"])) == [0, 6, 32, 64]


def test_the_page_is_made_of_the_rows_alone_and_is_the_same_again(found: Path) -> None:
    summary = build_circuit_report(found)
    page = summary.report.read_bytes()
    assert build_circuit_report(found).report.read_bytes() == page
    text = page.decode()
    for section in ("glance", "circuit", "curves", "members", "complete", "reading", "data"):
        assert f'<section id="{section}"' in text
    data = json.loads(text.partition('id="plot-data">')[2].partition("</script>")[0])
    assert [plot["title"] for plot in data["lines"]] == [
        "LD, relevant less other", "F1", "accuracy", "ROC AUC", "nDCG@10",
    ]  # fmt: skip
    (kept, out) = data["lines"][0]["lines"]
    assert (kept["name"], kept["x"], kept["mean"][-1]) == ("kept alone", [1, 3, 6, 13, 32, 64], 1.0)
    assert (out["name"], out["mean"][-1]) == ("knocked out", 0.0)
    of = summary.contents
    assert len(of.losses) == min(3, len(of.circuit))
    assert len(of.incompleteness) == 2
    assert len(of.ld_gap.randoms) == 2


def test_the_report_is_rebuilt_by_its_command(relscope: Command, found: Path) -> None:
    (found / "report.html").unlink(missing_ok=True)
    assert relscope("report", found).out == f"report: {found / 'report.html'}\n"
    assert (found / "report.html").is_file()


def test_a_saved_circuit_is_judged_with_another_prompt_and_on_other_data(
    relscope: Command, run: Path, found: Path, tmp_path: Path
) -> None:
    prompt = tmp_path / "idq.yaml"
    prompt.write_text("order: idq\nmax_document_tokens: 24\n")
    words = ["circuit", found / "circuit.json", "-p", prompt, "--negatives", "random", "--reference", 2, "--pairs", 3,
             "--device", "cpu", "--json", "-o", tmp_path / "there"]  # fmt: skip
    outcome = relscope(*words)
    assert outcome.status == 0, outcome.err
    said = json.loads(outcome.out)
    expected = {"data": "demo", "prompt": "pointwise-idq", "negatives": "random", "n_pairs": 3, "areas": {},
                "minimality": {}, "incompleteness": []}  # fmt: skip
    assert said | expected == said
    members = json.loads((found / "circuit.json").read_text())["members"]
    assert said["members"] == members
    assert "pairs are of queries that selected the circuit, and are not evaluated" in outcome.err
    assert '<section id="curves"' not in (tmp_path / "there" / "report.html").read_text()
    # In the report of the run: beside the folder where its circuit was found, and not alone.
    build_circuit_report(found)
    alone = relscope("report", run, "--with", tmp_path / "there")
    assert (alone.status, alone.out) == (2, "")
    assert "judges a circuit that was saved, and none of the folders given is that in which" in alone.err
    both = relscope("report", run, "--with", tmp_path / "there", "--with", found)
    assert both.status == 0, both.err
    page = (run / "report.html").read_text()
    assert page.count(f">A circuit of {len(members)} sites: heads at regions</h3>") == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{run}", "--prompt", "pointwise-idq"], "option --prompt: belongs to the run: give it with a CIRCUIT.json"),
        (["{found}/circuit.json", "--threshold", "0.5"], "option --threshold: belongs to a search: give it with a RUN"),
        (["{found}/circuit.json", "--prune-sets", "5"], "option --prune-sets: belongs to a search"),
        (["{found}/circuit.json", "--model", "smollm2-135m"], "has other weights"),
        (["{found}/circuit.json", "--shares", "0.5"], "option --shares: belongs to a search"),
        (["{run}", "--shares", "some"], "option --shares: 'some': give numbers with commas between them, such as"),
        (["{run}", "--shares", ","], "option --shares: ',': give numbers"),
        (["{run}", "--shares", "0,1"], "share 0.0 of all sites: give numbers above 0 and at most 1"),
        (["nowhere"], "nowhere: not a run folder"),
        ([__file__], "give the folder of a run, or a circuit's file (circuit.json)"),
        (["nowhere.json"], "nowhere.json: cannot be read"),
        (["{found}/circuit.json", "--data", "nowhere"], "nowhere"),
        (["{run}", "--threshold", "2"], "threshold: must be between 0 and 1, not 2.0"),
        (["{run}", "--threshold", "0.01"], "tolerance: 0.02 is not below the threshold, 0.01: pruning could leave"),
        (
            ["{run}", "--kind", "resample", "--reference", "2", "--memory", "1KiB"],
            "memory: 0.000977 MiB are too little",
        ),
        (["{run}", "--memory", "some"], "'some' is no amount of memory"),
        (["{run}", "-o", "{run}"], "is no manifest of a circuit; give another folder"),
        (["{run}", "-o", "{found}"], "holds a circuit of other settings: options."),
        (["{run}", "--reference", "60"], "queries are left beside the 10 that selected, and 60 of them would give"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    relscope: Command, run: Path, found: Path, tmp_path: Path, words: list[str], told: str, smollm2_folder: Path
) -> None:
    before = (found / "manifest.json").read_bytes()
    words = [word.format(run=run, found=found) for word in words]
    outcome = relscope("circuit", *words, *([] if "-o" in words else ["-o", tmp_path / "out"]))
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err.splitlines()[-1]
    assert (found / "manifest.json").read_bytes() == before


def test_help_names_every_option_and_imports_nothing_heavy() -> None:
    program = "import sys\nfrom relscope.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    outcome = run_python(program, "circuit", "--help")
    for option in (
        "threshold",
        "tolerance",
        "by",
        "kind",
        "select",
        "shares",
        "data",
        "prompt",
        "rerank",
        "depth",
        "memory",
        "out",
    ):
        assert f"--{option} " in outcome.out
    assert not {"torch", "numpy", "pandas"} & set(outcome.err.split())
