"""Which of many prompts begin alike, and how does a model go on from what it has computed of their beginning?

What G prompts share at their beginning, P tokens long, need be run only once, which saves (G - 1) P tokens: a system
turn, an instruction or query that stands before the documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

WORTH_SHARING = 256
"""Fewer tokens than this that need not be run again are not worth a pass of their own."""


@dataclass(frozen=True)
class Beginning:
    """What some prompts begin with: its length (0: nothing), and the prompts' numbers."""

    length: int
    prompts: tuple[int, ...]

    @property
    def saved(self) -> int:
        """How many tokens need not be run."""
        return (len(self.prompts) - 1) * self.length


def shared_beginnings(prompts: Sequence[Sequence[Any]], least_saved: int) -> list[Beginning]:
    """Prompts by what they begin with: the division that saves most among those that cut all at one length.

    In the prompts' order neighbours begin most alike. For each length that neighbours share, all that share so much
    stand together; what they have in common may be longer. The last token of a prompt is never shared: it is read.

    Args:
        prompts: tokens of each, of any kind that can be ordered.
        least_saved: what saves fewer tokens is not worth a pass of its own; those prompts share nothing.

    Returns:
        Every prompt once; those that share nothing together, last.
    """
    order = sorted(range(len(prompts)), key=lambda i: list(prompts[i]))
    common = [_common(prompts[i], prompts[j]) for i, j in pairwise(order)]
    best: list[Beginning] = []
    for length in sorted(set(common) - {0}):
        worth = [group for group in _groups(order, common, length) if group.saved >= least_saved]
        if sum(group.saved for group in worth) > sum(group.saved for group in best):
            best = worth
    sharing = {i for group in best for i in group.prompts}
    alone = tuple(i for i in range(len(prompts)) if i not in sharing)
    return [*best, Beginning(0, alone)] if alone else best


def _groups(order: Sequence[int], common: Sequence[int], length: int) -> list[Beginning]:
    """Neighbours in order that share at least so many tokens, two or more together."""
    groups = []
    first = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or common[stop - 1] < length:
            if stop - first > 1:
                groups.append(Beginning(min(common[first : stop - 1]), tuple(order[first:stop])))
            first = stop
    return groups


def shared_by_all(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, short of the last one of the shortest."""
    in_order = sorted(map(list, prompts))  # no others differ earlier than the first and the last
    n = min(map(len, prompts)) - 1
    return in_order[0][: min(n, _common(in_order[0], in_order[-1]))]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many tokens two prompts share at their beginning, short of the last one of the shorter."""
    n = min(len(a), len(b)) - 1
    return next((i for i in range(n) if a[i] != b[i]), n)


KeysAndValues = Sequence[tuple[Float[Tensor, "kv_head pos d_head"], Float[Tensor, "kv_head pos d_head"]]]
"""Those of a beginning, layer by layer."""


def continued(beginning: Iterable[tuple[Tensor, Tensor]], n_runs: int) -> dict[str, Any]:
    """What makes a decoder go on from a beginning: a cache of its keys and values. Full length, windows or not."""
    cache = DynamicCache()
    for layer, (k, v) in enumerate(beginning):
        cache.update(k.expand(n_runs, *k.shape), v.expand(n_runs, *v.shape), layer)
    return {"past_key_values": cache, "use_cache": True}
