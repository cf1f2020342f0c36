"""`relscope compare-models` takes what `run` takes, says what it found, and its report can be rebuilt."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from command_line import WITHOUT_TORCH, Command, run_python

from relscope.report import words
from relscope.study import StudyConfig
from synthetic_comparison import BASE, TUNED, new_head, write_comparison


class Compared:
    """Takes the place of the study: writes a synthetic comparison, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[StudyConfig, str | None, Path]] = []
        self.options: dict[str, Any] = {}

    def __call__(self, config: StudyConfig, tuned: str | None, out: Path, progress: Any) -> Path:
        self.calls.append((config, tuned, Path(out)))
        progress.stage("comparing")
        return write_comparison(Path(out), 8, 3, 3, ("query", "last"), **self.options)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    fake = Compared()
    monkeypatch.setattr("relscope.study.compare_models", fake)
    return fake


def test_it_prints_both_qualities_the_strongest_carriers_and_the_reports_path(
    relscope: Command, compared: Compared, tmp_path: Path
) -> None:
    outcome = relscope("compare-models", "before", "after", "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == f"base:  {BASE}"
    assert lines[1] == f"tuned: {TUNED}"
    (auc,) = [line for line in lines if line.startswith("ROC AUC")]
    assert auc.count("[") == 3
    head = words.head_name(*new_head(3))
    for title in ("tuned into base: what alone carries most", "base into tuned: what alone carries most"):
        start = next(i for i, line in enumerate(lines) if line.startswith(title))
        listed = lines[start + 1 : start + 6]
        assert [re.split(" at |@", line)[0] for line in listed[:2]] == [f"attn_out of layer {new_head(3)[0]}", head]
        assert all("[" in line for line in listed)
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.usefixtures("without_figures")
def test_the_options_become_the_configuration_of_the_base(
    relscope: Command, compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").touch()  # data that are not there are refused first
    options = "-d pairs.jsonl -n 7 --negatives random -p pairwise-idq -e flow -r last --components mlp_out"
    more = "--direction noise --seed 3 --dtype float32 --device cpu --memory 1MiB --revision main --trust-remote-code"
    outcome = relscope(
        "compare-models", "org/before", "org/after", *options.split(), *more.split(), "-o", tmp_path / "a"
    )
    assert outcome.status == 0, outcome.err
    ((config, tuned, out),) = compared.calls
    assert (config.model, config.adapter, tuned, out) == ("org/before", None, "org/after", tmp_path / "a")
    assert (config.data, config.pairs, config.negatives.kind, config.seed) == ("pairs.jsonl", 7, "random", 3)
    assert (config.prompt.format, config.prompt.order) == ("pairwise", "idq")
    assert config.experiments.flow is not None
    assert (config.experiments.flow.regions, config.experiments.flow.components) == (("last",), ("mlp_out",))
    assert config.experiments.heads is None
    assert (config.direction, config.dtype, config.device, config.memory) == ("noise", "float32", "cpu", 1 << 20)
    assert (config.revision, config.trust_remote_code) == ("main", True)


@pytest.mark.usefixtures("without_figures")
def test_an_adapter_takes_the_place_of_the_tuned_model(
    relscope: Command, compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert relscope("compare-models", "org/before", "--adapter", "loras/mine").status == 0
    ((config, tuned, out),) = compared.calls
    assert (config.model, config.adapter, tuned) == ("org/before", "loras/mine", None)
    assert str(out) == "runs/before-and-mine-demo-pointwise-dqi"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["before"], "TUNED or --adapter: neither was given"),
        (["before", "after", "--adapter", "lora"], "TUNED or --adapter: both were given"),
        (["before", "after", "--components", "mlp_out", "-e", "heads"], "option --components: belongs to"),
        (["before", "after", "-p", "pointwise-xyz"], "a pointwise prompt is pointwise-dqi"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_read(
    relscope: Command, compared: Compared, words: list[str], message: str
) -> None:
    outcome = relscope("compare-models", *words)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert compared.calls == []


@pytest.mark.usefixtures("without_figures")
def test_models_that_separate_alike_are_shown_without_shares(
    relscope: Command, compared: Compared, tmp_path: Path
) -> None:
    compared.options = {"alike": True}
    outcome = relscope("compare-models", "before", "after", "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("share (the separation may be the same)") == 2


def test_control_c_says_what_is_kept_and_how_to_go_on(
    relscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relscope.study.compare_models", interrupt)
    outcome = relscope("compare-models", "before", "after", "-n", "3")
    assert (outcome.status, outcome.out) == (130, "")
    folder = "runs/before-and-after-demo-pointwise-dqi"
    assert outcome.err.strip().startswith(f"relscope: interrupted; what is done is kept in {folder}. To go on: ")
    again = shlex.split(outcome.err.rpartition("To go on: ")[2])
    assert again == ["relscope", "compare-models", "before", "after", "-n", "3", "--out", folder]


def test_the_report_of_a_comparison_is_rebuilt_where_torch_is_not_installed(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compared", 4, 2, 2, ("last",))
    outcome = run_python(WITHOUT_TORCH, "report", folder)
    assert (outcome.status, outcome.out) == (0, f"report: {folder / 'report.html'}\n"), outcome.err
    assert "relscope comparison" in (folder / "report.html").read_text(encoding="utf-8")


def test_help_is_answered_without_anything_heavy() -> None:
    show = "import sys; from relscope.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    outcome = run_python(show, "compare-models", "--help")
    assert outcome.status == 0
    assert "BASE" in outcome.out
    assert "TUNED" in outcome.out
    imported = {name.partition(".")[0] for name in outcome.err.split()}
    assert imported.isdisjoint({"torch", "transformers", "pandas", "numpy", "scipy", "matplotlib", "plotly"})
