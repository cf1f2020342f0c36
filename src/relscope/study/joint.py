"""Which heads does the experiment `joint` patch together, and in which sets?

    singles, every pair, and a growing set: the first 1, 2, 4, 8, ... heads in order of |effect|, and all of them

The interaction of a set is its joint effect less the sum of its heads' single effects. The heads are chosen on the same
pairs that then measure them, so that their single effects are somewhat flattered: chance helped to choose them.

Cost: n (n + 1) / 2 patches a pair for n heads, and log2(n) more; two more recorded runs a pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from relscope.analysis import top_heads
from relscope.interventions import Direction, Joint, Site
from relscope.study.head_names import head_at, head_name_of


def head_name(site: Site) -> str:
    """A head's output at a region, such as "L12H3@last"."""
    return head_name_of(site.layer, site.head, site.region)


def head_site(name: str) -> Site:
    """The head's output that a name such as "L12H3@last" means.

    Raises:
        InputError: it is no such name, or the region does not exist.
    """
    layer, head, region = head_at(name)
    return Site("z", layer, region, head)


def set_name(heads: Joint) -> str:
    """The heads of a set by their names, by layer, head and region: "L1H2@query+L3H0@last"."""
    return "+".join(map(head_name, heads.sites))


def joint_sets(heads: Sequence[Site]) -> list[Joint]:
    """The sets to patch, each once: singles, pairs, and the growing set of heads in the order that is given."""
    sizes = [*(1 << power for power in range(len(heads).bit_length()) if 1 << power < len(heads)), len(heads)]
    sets: Iterable[tuple[Site, ...]] = itertools.chain(
        ((head,) for head in heads),
        itertools.combinations(heads, 2),
        (tuple(heads[:size]) for size in sizes if size),
    )
    return list(dict.fromkeys(Joint(tuple(sorted(chosen, key=_place))) for chosen in sets))


def strongest_heads(rows: pd.DataFrame, direction: Direction, regions: Sequence[str], top: int) -> list[Site]:
    """The heads of largest |mean effect| at each region, the largest first; ties by layer, head and region.

    Args:
        rows: of the experiment `heads`, of all pairs.
        direction: of the rows.
        regions: where heads are chosen.
        top: how many at each region.
    """
    start = rows["ld_corrupted" if direction == "denoise" else "ld_clean"]
    change = rows["ld_patched"].astype(np.float64) - start.astype(np.float64)
    of_site = rows.assign(effect=change, region=rows["region"].astype(str))
    by_site = of_site.groupby(["component", "layer", "head", "region"], observed=True)
    effects: pd.DataFrame = by_site[["effect"]].mean().reset_index()
    chosen = pd.concat([top_heads(effects, region, top) for region in regions])
    chosen = chosen.assign(size=chosen["effect"].abs())
    chosen = chosen.sort_values(["size", "layer", "head", "region"], ascending=[False, True, True, True])
    heads = zip(chosen["layer"], chosen["region"], chosen["head"], strict=True)
    return [Site("z", int(layer), str(region), int(head)) for layer, region, head in heads]


def spread_heads(regions: Sequence[str], top: int, n_layers: int, n_heads: int) -> list[Site]:
    """As many heads as `strongest_heads` chooses, evenly over the layers: what a plan counts before there are rows."""
    n_all = n_layers * n_heads
    n_chosen = min(top, n_all)
    places = [divmod(number * n_all // n_chosen, n_heads) for number in range(n_chosen)]
    return [Site("z", layer, region, head) for region in regions for layer, head in places]


def _place(site: Site) -> tuple[int, int | None, str]:
    return site.layer, site.head, site.region
