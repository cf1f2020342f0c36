"""How is a circuit searched and evaluated?"""

from __future__ import annotations

from dataclasses import dataclass

from relscope.analysis import SHARES, RankedBy, check_measures, circuit_sizes
from relscope.errors import InputError, did_you_mean


@dataclass(frozen=True)
class CircuitOptions:
    """How a circuit is searched and evaluated.

    Attributes:
        threshold: the f (of LD) that the circuit is grown to.
        tolerance: how much of it pruning may cost, in all; below the threshold, or nothing need be left.
        by: sites are ranked by the `magnitude` of their effect, or by the `effect`.
        kind: of ablation: mean, zero, resample.
        positions: of means: region or relative.
        reference: queries whose prompts give the values (none for zero).
        pairs: at most so many pairs are evaluated; None: all that are left.
        select: share of the run's queries that selects; None: all of them, others of the data being left.
        shares: of all sites, at which the curves are measured; all sites are always the last point.
        prune_sets: sets that pruning may measure.
        minimality: at most so many members are left out one by one, drawn at random where there are more.
        draws: random parts of the circuit for its completeness.
        randoms: random sets of the circuit's size, as many at each region, kept alone for comparison.
        seed: of all draws, those of the prompts that `resample` takes its activations from included.
        rerank: a collection that is reranked under each ablation, or None.
        depth, queries: of the reranking.
        measure: of the reranking, as ir-measures names it.

    Raises:
        InputError: a value is out of its range.
    """

    threshold: float = 0.85
    tolerance: float = 0.02
    by: RankedBy = "magnitude"
    kind: str = "mean"
    positions: str = "region"
    reference: int = 16
    pairs: int | None = None
    select: float | None = None
    shares: tuple[float, ...] = SHARES
    prune_sets: int = 64
    minimality: int = 32
    draws: int = 8
    randoms: int = 3
    seed: int = 0
    rerank: str | None = None
    depth: int = 20
    queries: int | None = None
    measure: str = "nDCG@10"

    def __post_init__(self) -> None:
        circuit_sizes(1, self.shares)
        for name, low, high in (("threshold", 0.0, 1.0), ("tolerance", -1e-9, 1.0), ("select", 0.0, 1.0)):
            value = getattr(self, name)
            if value is not None and not low < value <= high:
                raise InputError(f"{name}: must be between 0 and 1, not {value}")
        if self.tolerance >= self.threshold:
            raise InputError(
                f"tolerance: {self.tolerance:g} is not below the threshold, {self.threshold:g}: pruning could leave "
                "nothing; give a lower tolerance or a higher threshold"
            )
        for name, known in (("by", ("magnitude", "effect")), ("kind", ("mean", "zero", "resample")),
                            ("positions", ("region", "relative"))):  # fmt: skip
            given = getattr(self, name)
            if given not in known:
                raise InputError(f"{name}: {given!r} does not exist: {did_you_mean(given, known)}")
        for name, least in (("reference", 1), ("pairs", 1), ("prune_sets", 0), ("minimality", 0), ("draws", 0),
                            ("randoms", 0), ("seed", 0), ("depth", 1), ("queries", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: must be at least {least}, not {value}")
        if self.rerank is not None:
            check_measures([self.measure])
