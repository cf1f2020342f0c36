"""Which is the smallest circuit that is faithful enough? Grown by rank, then pruned.

    grow     the first sizes of a grid until f reaches the threshold; between that size and the one before, bisection
    prune    from the weakest members on: a block is removed if f stays at or above a floor; a block that may not go is
             halved, and each half tried, down to single members; all that is left never goes at once

Bisection takes f to rise with the size between two sizes of the grid; where it does not, the size that is found reaches
the threshold, and need not be the smallest that does. Pruning is one pass: a member that may not go is not tried again
after others went.

Cost: of bisection, log2 of the gap between two sizes; of pruning k needed members out of n, about 2 k (1 + log2(n / k))
sets, and never more than 2 n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relscope.analysis import Head, without

Faithfulness = Callable[[Sequence[Head]], float]
"""f of a set that is kept alone."""


@dataclass(frozen=True)
class Pruned:
    """What pruning left.

    Attributes:
        kept: the members that are left, in their order; at least one.
        faithfulness: f of these.
        n_tried: sets that were measured.
        n_untried: members left only because the number of sets was used up.
    """

    kept: tuple[Head, ...]
    faithfulness: float
    n_tried: int
    n_untried: int


def smallest_size(ranked: Sequence[Head], sizes: Sequence[int], faithfulness: Faithfulness, threshold: float) -> int:
    """The size of the smallest circuit found, of the first so many ranked sites, whose f reaches the threshold.

    Args:
        ranked: all sites, the strongest first; kept all together they have f = 1.
        sizes: rising, the last one that of all sites.
        faithfulness: measures a set.
        threshold: at most 1.
    """
    below = 0
    for size in sizes:
        if size == len(ranked) or faithfulness(ranked[:size]) >= threshold:
            break
        below = size
    while size - below > 1:
        middle = (below + size) // 2
        if faithfulness(ranked[:middle]) >= threshold:
            size = middle
        else:
            below = middle
    return size


def prune(members: Sequence[Head], faithfulness: Faithfulness, floor: float, most: int) -> Pruned:
    """Remove members but one, the weakest first, as long as f stays at or above the floor.

    Args:
        members: at least one, the strongest first; their own f is at or above the floor.
        faithfulness: measures a set.
        floor: below which f may not fall, whatever is removed.
        most: sets that may be measured.
    """
    kept, reached, n_tried = tuple(members), faithfulness(members), 0
    weakest_first = list(reversed(members))
    blocks = _halves(weakest_first)
    n_untried = 0
    while blocks:
        block = blocks.pop(0)
        less = without(kept, block)
        if not less:
            blocks = _halves(block) if len(block) > 1 else []
            continue
        if n_tried == most:
            n_untried += len(block)
            continue
        n_tried += 1
        if (found := faithfulness(less)) >= floor:
            kept, reached = less, found
        elif len(block) > 1:
            blocks = _halves(block) + blocks
    return Pruned(kept, reached, n_tried, n_untried)


def _halves(block: list[Head]) -> list[list[Head]]:
    middle = (len(block) + 1) // 2
    return [half for half in (block[:middle], block[middle:]) if half]
