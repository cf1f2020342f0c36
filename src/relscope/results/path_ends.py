"""What are the two ends of a path called in a row?

L12H3@last              the output z of a head at a region, which sends or receives
L12H3.k_view@query      what a head reads there: q, k_view or v_view
embedding@document      what the residual stream begins with
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from relscope.errors import InputError

HEAD_INPUTS: Final = ("q", "k_view", "v_view")
_EMBEDDING: Final = "embedding"
_HEAD: Final = re.compile(r"L([0-9]+)H([0-9]+)(?:\.([a-z_]+))?@(\S+)")


@dataclass(frozen=True)
class PathEnd:
    """One end of a path; `head` is None for the embedding, whose component is `resid_pre` of layer 0."""

    component: str
    layer: int
    head: int | None
    region: str

    @property
    def name(self) -> str:
        """As it stands in `src` and `dest` of a row."""
        if self.head is None:
            return f"{_EMBEDDING}@{self.region}"
        within = "" if self.component == "z" else f".{self.component}"
        return f"L{self.layer}H{self.head}{within}@{self.region}"

    @classmethod
    def read(cls, name: str) -> PathEnd:
        """The end that a row names.

        Raises:
            InputError: it is no such name.
        """
        start, _, region = name.partition("@")
        if start == _EMBEDDING and region:
            return cls("resid_pre", 0, None, region)
        parsed = _HEAD.fullmatch(name)
        if parsed is None or parsed[3] not in (None, *HEAD_INPUTS):
            raise InputError(
                f"{name!r} is no end of a path: one is named like L12H3@last, L12H3.q@last or embedding@document"
            )
        return cls(parsed[3] or "z", int(parsed[1]), int(parsed[2]), parsed[4])
