"""What is ablated, and on what is it evaluated?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from relscope.analysis.ablation import LEAST_DRAWS
from relscope.analysis.head_sets import N_DRAWS
from relscope.choices import Kind, Positions
from relscope.errors import InputError, did_you_mean

N_RERANK_DRAWS: Final = 3
MATCH = ("mixed", "all")


@dataclass(frozen=True)
class AblationOptions:
    """What is ablated, and on what it is evaluated.

    Attributes:
        data: of the evaluation; None: the run's.
        pairs: at most so many queries of the evaluation, the first ones that are not the run's; None: all.
        negatives: hard or random; None: as in the run.
        prompts: names or YAML files; None: the run's prompt.
        top: heads a region, or below 1 the share of all heads.
        regions: whose heads make up the sets; None: document, query, instruction and last, as far as the run has them.
        kind: mean, zero or resample.
        positions: of means: region, relative or fixed.
        keep_only: ablate all heads but the set, at all positions.
        draws: random sets of each kind.
        match: random sets are matched to the largest set ("mixed"), or to each ("all").
        rerank: the data whose documents are ranked again; True: those of the evaluation; False: none.
        first_stage: a TREC run file, or "bm25"; None: the collection's own run, else BM25.
        depth: at most so many documents of a query.
        rerank_draws: so many of the draws are reranked with.
        seed: of the draws, of resampled ablations, and of the intervals.

    Raises:
        InputError: an option has a value that does not exist.
    """

    data: str | None = None
    pairs: int | None = None
    negatives: str | None = None
    prompts: tuple[str, ...] | None = None
    top: int | float = 20
    regions: tuple[str, ...] | None = None
    kind: str = "mean"
    positions: str = "region"
    keep_only: bool = False
    draws: int = N_DRAWS
    match: str = "mixed"
    rerank: str | bool = True
    first_stage: str | None = None
    depth: int = 100
    rerank_draws: int = N_RERANK_DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(Kind)), ("positions", get_args(Positions)), ("match", MATCH)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}: {value!r} does not exist: {did_you_mean(value, known)}")
        if self.negatives not in (None, "hard", "random"):
            known = ("hard", "random")
            raise InputError(
                f"negatives: {self.negatives!r} does not exist: {did_you_mean(str(self.negatives), known)}"
            )
        for name in ("pairs", "draws", "depth", "rerank_draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, not {value}")
        for name in ("regions", "prompts"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise InputError(f"{name}: give at least one, and each once, not {', '.join(values) or 'none'}")
        if self.kind != "mean" and self.positions != "region":
            of = {"resample": "a resampled position is found by its relative position", "zero": "zero has none"}
            raise InputError(f"positions: belong to the mean; {of[self.kind]}")

    @property
    def remark(self) -> str:
        """What reranking with so few random draws leaves open, and what it takes; empty where it leaves nothing."""
        n = min(self.rerank_draws, self.draws)
        if self.rerank is False or n >= LEAST_DRAWS:
            return ""
        needed = [name for name in ("draws", "rerank_draws") if getattr(self, name) < LEAST_DRAWS]
        options = " and ".join(f"--{name.replace('_', '-')} {LEAST_DRAWS}" for name in needed)
        return (
            f"{n} random {'draw is' if n == 1 else 'draws are'} reranked with, too few to tell whether a set changes "
            f"rankings more than random sets do; that takes {options}, where each draw more is one more reranking of "
            "every kind of random set"
        )
