"""The command line, called in this process or started in another one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A shell without job control starts background commands with SIGINT ignored, and children inherit that.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from relscope.cli import main; main()"
)

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "tokenizers", "peft"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from relscope.cli import main
main()
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def environment(**added: str) -> dict[str, str]:
    """This process's environment, with one thread and no notion of a terminal's size."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return {**kept, "OMP_NUM_THREADS": "1", **added}


def start(words: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
    """Start `relscope WORDS...` in a process of its own, its output in pipes."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.Popen(command, **{**defaults, "env": environment(), **options})


def run_python(program: str, *words: str | Path) -> Outcome:
    """Run a Python program in a process of its own, to its end."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)
