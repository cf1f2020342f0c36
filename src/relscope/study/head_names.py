"""How is a head at a region written in a configuration? As "L12H3@last": layer 12, head 3, at the last token."""

from __future__ import annotations

import re

from relscope.errors import InputError, did_you_mean
from relscope.prompts import REGIONS

_HEAD = re.compile(r"L([0-9]+)H([0-9]+)@(\S+)")


def head_name_of(layer: int, head: int | None, region: str) -> str:
    """A head's output at a region, such as "L12H3@last"."""
    return f"L{layer}H{head}@{region}"


def head_at(name: str) -> tuple[int, int, str]:
    """Layer, head and region of a name such as "L12H3@last".

    Raises:
        InputError: it is no such name, or the region does not exist.
    """
    parsed = _HEAD.fullmatch(name.strip())
    if parsed is None:
        raise InputError(f"{name!r} names no head at a region: write for example L12H3@last (layer 12, head 3)")
    if parsed[3] not in REGIONS:
        raise InputError(f"head {name!r}: region {parsed[3]!r} does not exist: {did_you_mean(parsed[3], REGIONS)}")
    return int(parsed[1]), int(parsed[2]), parsed[3]
