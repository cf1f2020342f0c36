"""What is an option called here that another command calls otherwise? Named where the wrong one is given.

typer itself suggests names that are spelled alike, as `--queries` is not to `--pairs`.
"""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand

_CALLED: Final = {"--pairs": "--queries", "--queries": "--pairs", "--run": "--first-stage"}
"""An option, and what a command that does not have it may call the same."""


class Command(TyperCommand):
    """A command that knows by which other names its options may be looked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As of typer; refuses an option of another command with the name that it has here."""
        own = {name for parameter in self.params for name in parameter.opts}
        for word in args:
            name = word.partition("=")[0]
            if name not in own and _CALLED.get(name) in own:
                ctx.fail(f"No such option: {name} (here it is {_CALLED[name]})")
        return super().parse_args(ctx, args)
