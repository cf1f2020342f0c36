"""In which order do verdicts put the documents of one query, and which verdicts does that take?

A method is a generator: it yields the prompts that it wants judged next, each as one document (pointwise) or as
documents A and B (pairwise), gets their LDs, and returns the documents, best first, each with a value. So the prompts
of many queries can be judged together, and no method knows the model.

    pointwise        value = LD(d), highest first
    attention        value = relevance_score(d), highest first: what some heads attend to, and no verdict
                     (`relscope.interventions.relevance_score`)
    pairwise         margin(a, b) = LD(a, b) - LD(b, a): both orders, so that what is added to a verdict because a
                     document stands first falls out. a goes before b if margin(a, b) > 0

- `all-pairs`: value = number of documents that d goes before, a margin of 0 counting half to both; equal values by the
  sum of their margins.
- `sliding-window`: a window of two documents goes from the end of the ranking to its beginning and swaps them where
  the lower one goes before the upper; each pass brings the best that is left to its place. `top` passes settle the
  first `top` places; what is behind them has moved up or down by what the passes met.
- `heapsort`: the best `top` documents, taken one by one from a heap; the others behind them in the order of the first
  stage.

All ties go by the order of the first stage. Where preferences are consistent, every method gives the one order that
they have (the latter two in its first `top` places).

Source: Qin et al., Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting, 2024 (arXiv
2306.17563): all-pairs, sorting, and sliding windows of K passes. There the two orders vote and a disagreement is a tie;
here their difference decides.

Cost, in prompts of a query with n documents, top = k (`most_prompts`):

    pointwise        n
    attention        n, none of them run to the end
    all-pairs        n (n - 1)
    sliding-window   at most 2 (n - 1 + n - 2 + ... + n - k): two documents that meet again are not judged again
    heapsort         at most 2 (2 n + 2 (k - 1) log2 n), mostly much less
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import combinations
from typing import Final

Documents = tuple[str, ...]
"""One prompt: its documents in the order in which they stand in it."""
Ranked = list[tuple[str, float]]
"""Documents, best first, each with a value that never rises."""
Ranking = Generator[list[Documents], list[float], Ranked]


def pointwise(documents: Sequence[str], top: int) -> Ranking:
    """By LD; every document is sorted, whatever `top` is."""
    lds = yield [(document,) for document in documents]
    return sorted(zip(documents, lds, strict=True), key=lambda ranked: -ranked[1])


def all_pairs(documents: Sequence[str], top: int) -> Ranking:
    """By the number of documents that each goes before; every document is sorted, whatever `top` is."""
    pairs = list(combinations(documents, 2))
    margins = yield from _margins(pairs)
    wins, sums = dict.fromkeys(documents, 0.0), dict.fromkeys(documents, 0.0)
    for (a, b), margin in zip(pairs, margins, strict=True):
        share = 0.5 if margin == 0 else float(margin > 0)
        wins[a] += share
        wins[b] += 1 - share
        sums[a] += margin
        sums[b] -= margin
    order = sorted(documents, key=lambda document: (-wins[document], -sums[document]))
    return [(document, wins[document]) for document in order]


def sliding_window(documents: Sequence[str], top: int) -> Ranking:
    """By `top` passes of a window of two documents, from the end to the beginning."""
    order = list(documents)
    for settled in range(min(top, len(order) - 1)):
        for lower in range(len(order) - 1, settled, -1):
            upper = lower - 1
            (margin,) = yield from _margins([(order[upper], order[lower])])
            if margin < 0:
                order[upper], order[lower] = order[lower], order[upper]
    return _by_place(order)


def heapsort(documents: Sequence[str], top: int) -> Ranking:
    """The best `top` documents by a heap, the others in the order in which they came."""
    place = {document: i for i, document in enumerate(documents)}
    heap = list(documents)

    def goes_before(a: str, b: str) -> Generator[list[Documents], list[float], bool]:
        (margin,) = yield from _margins([(a, b)])
        return margin > 0 or (margin == 0 and place[a] < place[b])

    def sift_down(root: int) -> Generator[list[Documents], list[float], None]:
        while (child := 2 * root + 1) < len(heap):
            if child + 1 < len(heap) and (yield from goes_before(heap[child + 1], heap[child])):
                child += 1
            if (yield from goes_before(heap[root], heap[child])):
                return
            heap[root], heap[child] = heap[child], heap[root]
            root = child

    for root in reversed(range(len(heap) // 2)):
        yield from sift_down(root)
    best: list[str] = []
    while heap:
        best.append(heap[0])
        last = heap.pop()
        if heap:
            heap[0] = last
        if len(best) == top:
            break
        yield from sift_down(0)
    return _by_place(best + sorted(heap, key=place.__getitem__))


ATTENTION: Final = "attention"
METHODS: Final[dict[str, dict[str, Callable[[Sequence[str], int], Ranking]]]] = {
    "pointwise": {"pointwise": pointwise, ATTENTION: pointwise},
    "pairwise": {"sliding-window": sliding_window, "heapsort": heapsort, "all-pairs": all_pairs},
}
"""The methods of each format of prompt, the default first."""
UNDER_ABLATION: Final = {"pointwise": "pointwise", "pairwise": "heapsort"}
"""The method of each format by which rankings under ablations are compared: of pairwise prompts, that of the fewest
prompts for the best ten."""


def most_prompts(method: str, n_documents: int, top: int) -> int:
    """The most prompts that a method has judged for a query with so many documents."""
    n, k = n_documents, min(top, max(n_documents - 1, 0))
    if method in METHODS["pointwise"]:
        return n
    if method == "all-pairs":
        return n * (n - 1)
    if method == "sliding-window":
        return 2 * sum(n - 1 - settled for settled in range(k))
    # An element at height h sinks h levels at most, two comparisons each; n / 2^(h + 1) elements have the height h.
    return 2 * (2 * n + 2 * max(k - 1, 0) * max(n.bit_length() - 1, 0)) if n > 1 else 0


def _margins(pairs: Sequence[tuple[str, str]]) -> Generator[list[Documents], list[float], list[float]]:
    """LD(a, b) - LD(b, a) of each pair of documents."""
    lds = yield [documents for a, b in pairs for documents in ((a, b), (b, a))]
    return [one - other for one, other in zip(lds[::2], lds[1::2], strict=True)]


def _by_place(order: Sequence[str]) -> Ranked:
    return [(document, float(len(order) - place)) for place, document in enumerate(order)]
