"""What is ranked again, and how?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relscope.analysis import HeadSet
from relscope.choices import READINGS
from relscope.errors import InputError, did_you_mean
from relscope.prompts import PromptTemplate
from relscope.study.ranking_methods import ATTENTION, METHODS


@dataclass(frozen=True)
class Reranking:
    """What is ranked again, and how.

    Attributes:
        method: pointwise or attention; of pairwise prompts sliding-window, heapsort or all-pairs; None: the first of
            these that the prompt's format allows.
        depth: at most so many documents of a query, the best of the first stage.
        top: places that sliding-window and heapsort settle; the others sort every document.
        queries: at most so many queries, the first of the collection; None: all.
        first_stage: a TREC run file, or "bm25"; None: the collection's own run, else BM25.
        heads: that the method attention reads, each once whatever its regions; queries of `chosen_on` and
            `held_out` are not ranked.
        reading: what attention makes of a head's pattern: total or largest (`relscope.interventions`).
        calibrated: whether attention takes away what the document gets from a content-free query.

    Raises:
        InputError: there is no such method or reading, a number is below 1, or heads are given without the method
            attention or the other way round.
    """

    method: str | None = None
    depth: int = 100
    top: int = 10
    queries: int | None = None
    first_stage: str | Path | None = None
    heads: HeadSet | None = None
    reading: str = "total"
    calibrated: bool = True

    def __post_init__(self) -> None:
        known = [name for methods in METHODS.values() for name in methods]
        if self.method is not None and self.method not in known:
            raise InputError(f"method: {self.method!r} does not exist: {did_you_mean(self.method, known)}")
        if (self.method == ATTENTION) != (self.heads is not None):
            if self.heads is not None:
                which = "no method is named" if self.method is None else f"{self.method} reads none"
                raise InputError(f"heads: only the method attention reads heads, and {which}: give --method attention")
            raise InputError(
                "heads: the method attention reads heads, and none are given: choose some of a finished run with "
                "'relscope heads RUN --out heads.json' (RUN: a folder of relscope run), then give --heads heads.json"
            )
        if self.reading not in READINGS:
            raise InputError(f"reading: {self.reading!r} does not exist: {did_you_mean(self.reading, READINGS)}")
        for name in ("depth", "top", "queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, not {value}")

    @property
    def model_heads(self) -> list[tuple[int, int]]:
        """Layer and head of each of the heads, each once, in order."""
        return sorted({(head.layer, head.head) for head in self.heads or ()})

    def method_of(self, template: PromptTemplate) -> str:
        """The method, for prompts of this format.

        Raises:
            InputError: the method needs prompts of the other format.
        """
        methods = METHODS[template.format]
        method = next(iter(methods)) if self.method is None else self.method
        if method not in methods:
            other = "pairwise" if template.format == "pointwise" else "pointwise"
            order = "idq" if template.order == "idq" else "dqi"
            raise InputError(
                f"method: {method} needs a {other} prompt, and this one is {template.format}: use the prompt "
                f"{other}-{order}, or the method {' or '.join(methods)}"
            )
        if method == ATTENTION and template.order == "qdi":
            raise InputError(
                "method: attention needs the query behind the document, where it can look back at it; use the prompt "
                "pointwise-dqi or pointwise-idq"
            )
        return method
