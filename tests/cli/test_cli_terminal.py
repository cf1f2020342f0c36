"""A terminal is shown a bar with rate and time left; a pipe is not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import subprocess
from pathlib import Path

from command_line import environment, start

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_terminal(controller: int) -> str:
    """Everything written to a terminal until its last writer closes it."""
    pieces = []
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # what Linux says at the end
                raise
            piece = b""
        if not piece:
            return b"".join(pieces).decode(errors="replace")
        pieces.append(piece)


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_stdout_stays_clean(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    prompt = tmp_path / "short.yaml"
    prompt.write_text("max_document_tokens: 24\n")
    controller, terminal = pty.openpty()
    # Eight pairs, so that the bar is drawn several times while they are patched.
    words = ["run", "-m", tiny_model_folder, "-n", "8", "-p", prompt, "-o", tmp_path / "run"]
    env = environment(TERM="xterm-256color", COLUMNS="140")
    with start(words, stderr=terminal, env=env) as process:
        os.close(terminal)
        shown = read_terminal(controller)
        out = process.stdout.read() if process.stdout else ""
    os.close(controller)
    assert process.returncode == 0, shown
    text = _CONTROL.sub("", shown)
    assert "patching 864 sites of 8 pairs" in text  # (3 components x 5 regions + 4 heads x 3 regions) x 4 layers x 8
    assert "━" in text
    assert "writing the report" in text
    # Done of all, how many a second, time elapsed, time left.
    assert re.search(r"[1-9][0-9]*/864 [0-9,]+/s 0:[0-9:]{5} 0:[0-9:]{5} left", text), text[-2000:]
    assert "\x1b" not in out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"


def test_a_pipe_is_shown_neither_bar_nor_colour(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "short.yaml"
    prompt.write_text("max_document_tokens: 24\n")
    words = ["run", "-m", tiny_model_folder, "-n", "3", "-p", prompt, "-e", "heads", "-o", tmp_path / "run"]
    with start(words, env=environment(TERM="xterm-256color")) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert all(line.startswith("warning: ") for line in err.splitlines()), err
    assert not set("\x1b\r━") & set(out + err)


def test_text_that_the_terminal_cannot_show_is_replaced(tiny_model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    pair = {"query": "日本 the cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]}
    data.write_text(json.dumps(pair))
    words = ["judge", "-m", tiny_model_folder, "-d", data]
    with start(words, env=environment(PYTHONIOENCODING="ascii"), encoding="ascii") as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "?? the cat" in out


def test_a_reader_that_stops_early_causes_no_traceback(tiny_model_folder: Path) -> None:
    with start(["judge", "-m", tiny_model_folder, "-n", "3"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with contextlib.closing(process.stdout):
            pass  # as `| head -0` does
        assert process.stderr is not None
        err = process.stderr.read()
    assert "Traceback" not in err
