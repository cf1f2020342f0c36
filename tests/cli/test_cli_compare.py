"""`relscope compare` reads run folders alone, prints every pair of runs, and refuses what it cannot compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import WITHOUT_TORCH, Command, run_python

from relscope.results import Manifest, create_or_resume, open_run
from synthetic import write_synthetic_run
from synthetic_comparison import write_comparison


def small_run(folder: Path, order: str, seed: int) -> Path:
    """A run of one component, and the order of its prompt."""
    source = open_run(write_synthetic_run(folder / f"source-{order}", 6, 4, 2, ("last",), seed, ("attn_out",)))
    stored = source.manifest.model_dump()
    identity = {**stored["identity"], "prompt": {**stored["identity"]["prompt"], "order": order}}
    manifest = Manifest.model_validate({**stored, "identity": identity, "identity_hash": ""})
    rows = source.rows()
    with create_or_resume(folder / order, manifest) as run:
        for experiment in ("judge", "flow"):
            run.write_part(experiment, rows[rows["experiment"] == experiment])
    return folder / order


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [small_run(tmp_path, order, 0) for order in ("dqi", "qdi", "idq")]


def test_it_prints_each_pair_of_runs_and_writes_report_and_tables(
    relscope: Command, runs: list[Path], tmp_path: Path
) -> None:
    outcome = relscope("compare", *runs, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[:3] == ["A (dqi)", "B (qdi)", "C (idq)"]
    rows = [line for line in lines if line[:4] in ("A, B", "A, C", "B, C")]
    assert len(rows) == 3
    # the same rows under other prompts; 4 sites are too few for an overlap
    assert all("attn_out at the last token  1.00 [1.00, 1.00]" in row and "  -  " in row for row in rows)
    assert "A and C, attn_out at the last token: too few queries to say" in outcome.out
    assert "warning: The comparison rests on 3 queries only" in outcome.err
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "similarity.csv", "similarity.json"}


def test_without_a_folder_it_is_named_after_the_runs(
    relscope: Command, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = relscope("compare", *runs)
    assert outcome.out.splitlines()[-1] == "report: runs/similarity-dqi-and-qdi-and-1-more/report.html"


def test_it_needs_no_torch(runs: list[Path], tmp_path: Path) -> None:
    outcome = run_python(WITHOUT_TORCH, "compare", *runs[:2], "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err


def test_what_cannot_be_compared_is_refused(relscope: Command, runs: list[Path], tmp_path: Path) -> None:
    compared = write_comparison(tmp_path / "compared", 4, 2, 2, ("last",))
    for given, message in (
        (runs[:1], "one run was given; give 2 to 26 folders of `relscope run`"),
        ([runs[0], tmp_path], "not a run folder"),
        ([runs[0], compared], "holds a comparison of two models, not a run"),
    ):
        outcome = relscope("compare", *given, "-o", tmp_path / "out")
        assert (outcome.status, outcome.out) == (2, "")
        assert message in outcome.err.replace("\n", " ")
        assert not (tmp_path / "out").exists()
