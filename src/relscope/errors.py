"""What goes wrong because of what the user gave, as one exception type, and how to say what would be right.

The command line prints such an error in one line and exits with status 2; anything else is a bug and shows its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file, line, field or option, and says what would be right.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known names, and all of them; the end of an error message.

    A known name may be dotted (a field of a section); the last part alone is then near enough.
    """
    options = list(known)
    near = [option for option in options if option.rpartition(".")[2] == name.lower()]
    near = near or difflib.get_close_matches(name.lower(), options, n=1, cutoff=0.5)
    one_of = f"one of: {', '.join(options)}"
    if not near:
        return f"use {one_of}"
    return f"did you mean {near[0]!r}?" + (f" ({one_of})" if len(options) > 1 else "")
