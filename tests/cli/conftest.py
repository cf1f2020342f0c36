"""The command line in this process, and the tiny model to give it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from command_line import Command, Outcome

from relscope.cli import main, progress, show
from tiny_study import tiny_model_folder

__all__ = ["tiny_model_folder"]


@pytest.fixture
def relscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `relscope WORDS...` in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets one
    monkeypatch.setattr(progress, "QUIET", math.inf)  # a busy machine gets no lines either
    monkeypatch.setattr(show.OUT, "_width", 200)  # as wide as in a pipe, also where a test runner sets COLUMNS

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["relscope", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def short_prompt(tmp_path: Path) -> Path:
    """A prompt file that keeps documents short."""
    path = tmp_path / "short.yaml"
    path.write_text("max_document_tokens: 24\n")
    return path


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are built without their figures, which take longer than a study of the tiny model."""
    monkeypatch.setattr("relscope.report.build.draw_figures", lambda *_: [])
    monkeypatch.setattr("relscope.report.comparison.draw_comparison", lambda *_: [])
