"""In which order are regions read, and which of them share no token?"""

from __future__ import annotations

from collections.abc import Iterable

BASE_REGIONS = ("query", "document", "document_a", "document_b", "instruction", "last", "all", "other")


def region_key(region: str) -> tuple[int, int, str]:
    """Sort key: whole regions in the order of the prompt's vocabulary, then their first and last tokens."""
    base, _, part = region.partition(".")
    place = BASE_REGIONS.index(base) if base in BASE_REGIONS else len(BASE_REGIONS)
    return (1 if part else 0, place, region)


def disjoint(regions: Iterable[str]) -> tuple[str, ...]:
    """Those of `regions` that share no token, in reading order: what may be compared for the largest effect.

    `all` holds every other region, `document` both documents of a pairwise prompt, `query` holds `query.first`.
    """
    measured = set(regions)
    overlapping = {"all"} | ({"document_a", "document_b"} if "document" in measured else set())
    return tuple(r for r in BASE_REGIONS if r in measured - overlapping)
