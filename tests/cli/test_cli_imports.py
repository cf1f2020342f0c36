"""Help is answered without torch, and a report is built where torch is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import WITHOUT_TORCH, run_python

from relscope.study import run_study
from tiny_study import tiny_config

HEAVY = ("torch", "transformers", "pandas", "numpy", "matplotlib", "plotly", "pyarrow", "scipy")

SHOW_IMPORTS = """
import sys
from relscope.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["judge", "-h"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    outcome = run_python(SHOW_IMPORTS, *words)
    assert outcome.status == 0
    imported = set(outcome.err.split())
    assert "relscope" in imported
    assert imported.isdisjoint(HEAVY)


def test_help_names_every_command_and_each_option_of_run() -> None:
    outcome = run_python("from relscope.cli import main; main()", "--help")
    for command in ("run", "plan", "judge", "prompts", "check", "report"):
        assert f" {command} " in outcome.out
    outcome = run_python("from relscope.cli import main; main()", "run", "--help")
    options = "model data prompt experiments regions pairs components seed dtype device out filter direction memory"
    for option in options.split():
        assert f"--{option} " in outcome.out


def test_a_report_is_rebuilt_where_torch_is_not_installed(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_study(tiny_config(tiny_model_folder, pairs=2), tmp_path / "run")
    outcome = run_python(WITHOUT_TORCH, "report", run.directory)
    assert (outcome.status, outcome.out) == (0, f"report: {run.directory / 'report.html'}\n"), outcome.err
    assert (run.directory / "report.html").stat().st_size > 10_000


def test_the_refusal_of_torch_is_real() -> None:
    outcome = run_python(WITHOUT_TORCH, "judge")
    assert "is not installed here" in outcome.err
