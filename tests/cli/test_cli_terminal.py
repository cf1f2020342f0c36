"""A terminal is shown a bar with rate and time left; that a pipe is not is tested with interrupted commands."""

from __future__ import annotations

import errno
import os
import pty
import re
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
