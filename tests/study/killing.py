"""Studies in the children of a server (study_server), which are killed at chosen moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import study_server

PATIENCE = 60.0  # seconds; what is waited for takes less than one on an idle machine
Server = subprocess.Popen[str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, study_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.kill()


def start(server: Server, request: dict[str, Any]) -> int:
    """Have a study begun; returns the process id of the child that runs it."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def exit_status(server: Server) -> int:
    """Wait until the child has ended; minus the signal's number where a signal ended it."""
    assert server.stdout is not None
    return int(server.stdout.readline())


def wait_for(n: int, count: Callable[[], int]) -> None:
    """Wait until `count` comes to n."""
    patience = time.monotonic() + PATIENCE
    while count() < n:
        assert time.monotonic() < patience, f"no file number {n} after {PATIENCE} s"
        time.sleep(0.001)
