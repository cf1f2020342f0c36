"""What goes wrong because of what the user gave, as one exception type.

The command line prints such an error in one line and exits with status 2; anything else is a bug and shows its
traceback.
"""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file, line, field or option, and says what would be right.
    """
