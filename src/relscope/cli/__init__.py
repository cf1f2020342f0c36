"""The command line: parses options, delegates to study and report, prints.

torch is imported only inside commands, so that `relscope --help` answers at once.
"""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Entry point of the `relscope` command.

    Exit status: 0 done; 1 a check failed; 2 something that was given cannot be used; 130 interrupted.
    """
    from relscope.cli.commands import app
    from relscope.errors import InputError

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal or pipe cannot take is shown as '?'; it is no reason to fail.
        sys.stdout.reconfigure(errors="replace")
    try:
        app(prog_name="relscope")
    except InputError as error:
        print(f"relscope: {error}", file=sys.stderr)
        sys.exit(2)
