"""How does the benchmark start a peer, ask it to patch, and what becomes of one that cannot be installed or run?

A peer's environment is made once, under `.bench/`, from its pinned requirements, and again when these change; beside it
lies what the peer last wrote to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relscope.prompts import AlignedPair

BENCHMARKS = Path(__file__).resolve().parents[1]
ENVIRONMENTS = BENCHMARKS.parent / ".bench"
PEERS = ("transformer_lens", "nnsight", "pyvene")


class PeerError(Exception):
    """A peer could not be installed, or failed; says why."""


class Peer:
    """One library in its own process, which waits without cost until it is asked.

    Raises:
        PeerError: it cannot be installed, or cannot load the model.
    """

    def __init__(self, name: str, folder: Path, threads: int, **placement: str) -> None:
        """Start it with a model's folder; `placement`, a device and a dtype, is for those that can be placed."""
        self.name = name
        python = _installed(name)
        # Without the caller's own path of modules: the environment alone decides what is imported.
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
        self._log = ENVIRONMENTS / f"{name}.log"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "peers.protocol", name],
                cwd=BENCHMARKS, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        try:
            answer = self._ask({"ask": "load", "folder": str(folder), "threads": threads, **placement})
        except PeerError:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def take_pair(self, pair: AlignedPair) -> None:
        """Record the clean run of a pair; not timed."""
        ids = {"clean_ids": list(pair.clean.ids), "corrupted_ids": list(pair.corrupted.ids)}
        self._ask({"ask": "pair", **ids, "answer_ids": list(pair.answer_ids)})

    def patch(self, cells: Sequence[tuple[int, int]], positions: Sequence[int]) -> tuple[list[float], list[float]]:
        """LD and seconds of each (layer, head), patched at the positions."""
        answer = self._ask({"ask": "patch", "positions": list(positions), "cells": [list(cell) for cell in cells]})
        return answer["ld"], answer["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            said = _short(self._log.read_text(encoding="utf-8", errors="replace"))
            raise PeerError(f"ended with status {self._process.returncode}: {said}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(_short(answer["error"]))
        return answer


def is_installed(name: str) -> bool:
    """Whether the peer's environment has been made, from the requirements as they are now."""
    stamp = _stamp(name)
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _requirements(name).read_text(encoding="utf-8")


def _installed(name: str) -> Path:
    """The Python of the peer's environment, made on first use.

    Raises:
        PeerError: pip could not install it.
    """
    requirements = _requirements(name)
    environment = ENVIRONMENTS / name
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if is_installed(name):
        return python
    print(f"installing {name} into {environment}", file=sys.stderr)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(requirements)]
    for command in ([sys.executable, "-m", "venv", "--clear", str(environment)], [str(python), *pip]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(f"not installed: {_short(done.stderr or done.stdout)}")
    _stamp(name).write_text(requirements.read_text(encoding="utf-8"), encoding="utf-8")
    return python


def _requirements(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.txt")


def _stamp(name: str) -> Path:
    return ENVIRONMENTS / name / "installed.txt"


def _short(output: str) -> str:
    """The line of a program's output that says what went wrong: pip's last error, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    line = (errors or lines or ["it gave no reason"])[-1]
    return line if len(line) <= 200 else f"{line[:197]}..."
