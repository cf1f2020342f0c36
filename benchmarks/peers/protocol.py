"""What does the benchmark ask a peer's process, and how does it answer? One line of JSON each way.

    {"ask": "load", "folder": ..., "threads": ...}                              -> {"versions": {...}}
    {"ask": "pair", "clean_ids": ..., "corrupted_ids": ..., "answer_ids": ...}  -> {}
    {"ask": "patch", "positions": [...], "cells": [[layer, head], ...]}         -> {"ld": [...], "seconds": [...]}

Anything that goes wrong is answered with {"error": ...}. Between questions a process waits for its input and costs no
processor time, so peers can be measured in turns. `python -m peers.protocol NAME` serves `peers.NAME_worker`, which
has the library's name on the package index (`PACKAGE`) and `load`, which gives the `Patcher` of a model's folder,
float32, on the CPU; one whose `load` takes them is also told a device and a dtype. Runs in the peers' environments:
needs nothing but torch there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO


class Patcher(Protocol):
    """One library with the model loaded, patching head outputs `z` of the clean run into the corrupted one."""

    def take_pair(self, clean_ids: Sequence[int], corrupted_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Record the clean run of a pair; not timed."""

    def patch(self, layer: int, head: int, positions: Sequence[int]) -> float:
        """LD of the corrupted run with one head's output taken from the clean run at some positions; timed."""


def serve(name: str) -> None:
    """Answer questions until the input ends."""
    # Libraries print, some as they are imported: that goes to standard error, and the answers alone to the pipe.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = _Server(name)
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as failure:
            answer = {"error": f"{type(failure).__name__}: {failure}"}
        _write(answers, answer)


class _Server:
    """The state between questions: the loaded model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._patcher: Patcher | None = None
        self._is_warm = False

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        import torch

        ask = question.pop("ask")
        if ask == "load":
            return self._start(**question)
        assert self._patcher is not None
        with torch.no_grad():
            if ask == "pair":
                self._patcher.take_pair(**question)
                return {}
            return self._patch(self._patcher, **question)

    def _start(self, folder: str, threads: int, **placement: str) -> dict[str, Any]:
        import torch

        torch.set_num_threads(threads)
        worker = importlib.import_module(f"peers.{self._name}_worker")
        with torch.no_grad():
            self._patcher = worker.load(folder, **placement)
        packages = (worker.PACKAGE, "transformers", "torch")
        return {"versions": {package: importlib.metadata.version(package) for package in packages}}

    def _patch(self, patcher: Patcher, positions: list[int], cells: list[list[int]]) -> dict[str, Any]:
        values, seconds = [], []
        if not self._is_warm:  # what a library prepares at its first patch is not counted
            patcher.patch(*cells[0], positions)
            self._is_warm = True
        for layer, head in cells:
            began = time.perf_counter()
            values.append(patcher.patch(layer, head, positions))
            seconds.append(time.perf_counter() - began)
        return {"ld": values, "seconds": seconds}


def _write(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
