"""Ctrl-C, a kill, a full disk: the command ends at once, says how to go on, and goes on."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, start

from relscope.results import Run, open_run
from relscope.study import run_study
from tiny_study import assert_same_rows, tiny_config

N_PAIRS = 24
PATIENCE = 120.0  # seconds until the first part is there; some ten on an idle machine


@pytest.fixture(scope="module")
def words(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompt = tmp_path_factory.mktemp("prompt") / "short.yaml"
    prompt.write_text("max_document_tokens: 24\n")
    # At best some forty parts a second: long enough to be stopped in the middle.
    # Room for one pair at a time: each is then two parts of its own.
    return ["run", "-m", str(tiny_model_folder), "-p", str(prompt), "-n", str(N_PAIRS), "--device", "cpu",
            "--memory", "7MiB"]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(tiny_model_folder, pairs=N_PAIRS)
    return run_study(config, tmp_path_factory.mktemp("uninterrupted") / "run")


def wait_for_part(folder: Path, name: str) -> None:
    patience = time.monotonic() + PATIENCE
    while not (folder / "rows" / name).exists():
        assert time.monotonic() < patience, f"no {name} after {PATIENCE} s"
        time.sleep(0.005)


def test_control_c_ends_the_run_within_seconds_and_says_how_to_go_on(
    relscope: Command, words: list[str], uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"  # its name has to be quoted
    with start([*words, "-o", str(folder)]) as process:
        wait_for_part(folder, "flow-00002.parquet")
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = process.communicate(timeout=60)
        # One pair's patches at most are waited for, and the interpreter's end; a busy machine takes its time.
        assert time.monotonic() - sent < 10
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not set("\x1b\r━") & set(err)  # a pipe is shown neither bar nor colour
    # On a busy machine there are lines of progress before it, which begin with the time.
    (said,) = [line for line in err.splitlines() if line and not line.startswith(("warning: ", "["))]
    assert said.startswith(f"relscope: interrupted; what is done is kept in {folder}. To go on: ")
    assert open_run(folder).manifest.status == "running"
    assert len(open_run(folder).rows()) < len(uninterrupted.rows())

    program, *again = shlex.split(said.partition("To go on: ")[2])
    assert program == "relscope"
    assert relscope(*again).status == 0
    assert open_run(folder).manifest.status == "complete"
    assert (folder / "report.html").is_file()
    assert_same_rows(open_run(folder), uninterrupted)


def test_a_killed_command_given_again_has_the_rows_of_an_uninterrupted_one(
    relscope: Command, words: list[str], uninterrupted: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with start([*words, "-o", str(folder)]) as process:
        wait_for_part(folder, "heads-00003.parquet")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(open_run(folder).rows()) < len(uninterrupted.rows())
    assert relscope(*words, "-o", folder).status == 0
    assert_same_rows(open_run(folder), uninterrupted)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(module), name, interrupt)


def test_the_command_that_goes_on_names_the_folder_that_nobody_named(
    relscope: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    interrupt_at(monkeypatch, "relscope.study.run", "patch_pairs")
    outcome = relscope(*words)
    assert outcome.status == 130
    (folder,) = (tmp_path / "runs").iterdir()
    again = outcome.err.strip().rpartition("To go on: ")[2]
    assert shlex.split(again) == ["relscope", *words, "--out", f"runs/{folder.name}"]
    assert open_run(folder).manifest.status == "running"


def test_interrupted_before_anything_was_done_it_says_so(
    relscope: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    interrupt_at(monkeypatch, "relscope.cli.options", "study_config")
    outcome = relscope(*words)
    assert outcome.status == 130
    assert "relscope: interrupted; nothing was done yet. To go on: relscope run " in outcome.err


@pytest.mark.parametrize("command", ["judge", "plan"])
def test_other_commands_end_without_a_traceback(
    relscope: Command, words: list[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    interrupt_at(monkeypatch, "relscope.study.prepare", "load_judge")
    outcome = relscope(command, *words[1:-2])  # judge takes no --memory
    assert outcome.status == 130
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_a_full_disk_is_told_in_one_line_and_the_command_given_again_goes_on(
    relscope: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [*words, "-n", "2", "-r", "last", "-o", str(tmp_path / "run")]
    fsync, n_flushes = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal n_flushes
        n_flushes += 1
        if n_flushes > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcome = relscope(*few)
    monkeypatch.setattr(os, "fsync", fsync)
    assert outcome.status != 0
    said = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
    assert len(said) == 1
    assert "the disk is full" in said[0]
    assert "free some space and resume" in said[0]
    assert len(open_run(tmp_path / "run").rows()) > 0
    assert relscope(*few).status == 0


@pytest.fixture(scope="module")
def small_run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at_last = {"flow": {"regions": ["last"]}, "heads": {"regions": ["last"]}}
    config = tiny_config(tiny_model_folder, pairs=1, experiments=at_last)
    return run_study(config, tmp_path_factory.mktemp("small") / "run").directory


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (["--seed", "1"], "config.seed: 0 in the folder, 1 now"),
        (["-r", "query"], "config.experiments.flow.regions"),
        (["--dtype", "bfloat16"], 'config.dtype: "auto" in the folder, "bfloat16" now'),
    ],
)
def test_a_changed_command_refuses_to_go_on_in_the_same_folder(
    relscope: Command, words: list[str], small_run: Path, changed: list[str], difference: str
) -> None:
    outcome = relscope(*words, "-n", "1", "-r", "last", "-o", small_run, *changed)
    assert (outcome.status, outcome.out) == (2, "")
    (said,) = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
    assert said.startswith(f"relscope: {small_run}: holds another run: ")
    assert difference in said
    assert "give another folder, or the same settings as before" in said
