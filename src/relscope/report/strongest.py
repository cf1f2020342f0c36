"""Which few sites of a run have the largest effects? What a command prints before it names the report.

Of each experiment, and of each of its components, the sites with q ≤ 0.05 in order of |effect|; among regions that
share no token, since `all` holds every other region and would always win.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from relscope.analysis import MOST_Q, significance_limits
from relscope.report import words
from relscope.report.findings import estimate, estimate_of, strongest
from relscope.report.notices import REMEDY
from relscope.report.support import SUPPORTED, site_name

MOST_SITES: Final = 3


@dataclass(frozen=True)
class Strongest:
    """The strongest sites of one component of an experiment.

    Attributes:
        name: of the experiment, with the component where it has several.
        n_sites: in regions that share no token.
        n_significant: those of them with q ≤ 0.05.
        sites: of the first few of these the name, the effect in logits with its interval, and q.
    """

    name: str
    n_sites: int
    n_significant: int
    sites: tuple[tuple[str, str, str], ...]


def few_queries_caveat(effects: pd.DataFrame) -> str:
    """Why no site may have q ≤ 0.05: what the number of queries allows, where it held any experiment back.

    Args:
        effects: of a run, as `site_effects` gives them.

    Returns:
        A sentence, or nothing.
    """
    of_sites = effects[effects["experiment"].isin(SUPPORTED)]
    held = []
    for limit in significance_limits(of_sites):
        here = of_sites[(of_sites["experiment"] == limit.experiment) & (of_sites["direction"] == limit.direction)]
        if limit.sites_needed != 1 and not (here["q_value"] <= MOST_Q).any():
            held.append(limit)
    if not held:
        return ""
    n_queries = max(limit.n_queries for limit in held)
    queries = words.count(n_queries, "query", "queries")
    if n_queries < 2:
        return f"With {queries} no test is possible, so that no site can have q ≤ {MOST_Q:g}: {REMEDY}."
    least = f"With {queries} p is at least {max(limit.smallest_p_value for limit in held):.2g}"
    if not any(limit.reachable for limit in held):
        return f"{least}, so that no site can have q ≤ {MOST_Q:g}: {REMEDY}."
    several = of_sites["direction"].nunique() > 1
    needed = words.listing(
        f"{limit.sites_needed:,} of {limit.n_sites:,} ({limit.experiment}{f', {limit.direction}' if several else ''})"
        if limit.reachable
        else f"none ({limit.experiment})"
        for limit in held
    )
    return f"{least}, so that at least so many sites have q ≤ {MOST_Q:g} together, or none has: {needed}; {REMEDY}."


def strongest_sites(effects: pd.DataFrame) -> tuple[Strongest, ...]:
    """The strongest sites of each experiment of single sites, component and direction.

    Args:
        effects: of a run, as `site_effects` gives them.
    """
    found = []
    of_sites = effects[effects["experiment"].isin(SUPPORTED)]
    of_sites = of_sites.sort_values(
        "experiment", key=lambda names: names.astype(str).map(SUPPORTED.index), kind="stable"
    )
    several = of_sites["direction"].nunique() > 1
    for (experiment, component, direction), sites in of_sites.groupby(
        ["experiment", "component", "direction"], sort=False, observed=True
    ):
        there = sites["region"].dropna()
        kept = sites[sites["region"].isna() | sites["region"].isin(words.disjoint(there))] if len(there) else sites
        significant = kept[kept["q_value"] <= MOST_Q]
        name = str(experiment) if experiment == "heads" else f"{experiment}, {component}"
        rows = tuple(
            (site_name(site), estimate(estimate_of(site, "effect")), words.probability(site["q_value"]))
            for site in strongest(significant, "effect", MOST_SITES).to_dict("records")
        )
        found.append(Strongest(f"{name} ({direction})" if several else name, len(kept), len(significant), rows))
    return tuple(found)
