"""How far can the effects of one experiment be trusted? Which sites are important, and would others be found again?

A site is important only by q-value and size together. Where so few queries were measured that no site could be, that
is said instead of passing for a result. Everything here is a sentence computed from the effects and the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from relscope.analysis import (
    LEAST_IE,
    LEAST_QUERIES,
    MOST_Q,
    N_SPLITS,
    Stability,
    important_sites,
    significance_limits,
    split_half_stability,
)
from relscope.report import words
from relscope.report.findings import Finding, estimate, estimate_of, place, strongest
from relscope.results import DIRECT, PATHS, PathEnd

SUPPORTED: Final = ("flow", "heads", "edges", DIRECT, PATHS)
"""Experiments of single sites; the sets of `joint` share their heads, so that counting them would count heads twice."""
MOST_NAMED = 5
RULE: Final = f"q ≤ {MOST_Q:g} and |IE| ≥ {LEAST_IE:g}"


@dataclass(frozen=True)
class Support:
    """Sentences about one experiment and direction; `caveat` is empty where there is none."""

    experiment: str
    direction: str
    important: str
    caveat: str
    stability: str

    @property
    def finding(self) -> Finding:
        """Which sites are important, with the caveat."""
        return Finding(f"Important {self.experiment}", f"{self.important} {self.caveat}".rstrip())


def supports(
    rows: pd.DataFrame, effects: pd.DataFrame, query_of: Mapping[str, str], confidence: float
) -> list[Support]:
    """What can be said for each direction of `flow`, `heads`, `edges` and both kinds of rows of `paths`.

    Args:
        rows: of the run.
        effects: of all its sites, as `site_effects` gives them.
        query_of: the query of each pair.
        confidence: share of the divisions that the range of the stability holds.
    """
    rows = rows[rows["experiment"].isin(SUPPORTED)]
    effects = effects[effects["experiment"].isin(SUPPORTED)]
    stabilities = {(s.experiment, s.direction): s for s in split_half_stability(rows, query_of, confidence=confidence)}
    found = []
    for limit in significance_limits(effects):
        key = (limit.experiment, limit.direction)
        here = effects[(effects["experiment"] == key[0]) & (effects["direction"] == key[1])]
        # a limit that some sites have passed is none to the reader
        passed = limit.sites_needed == 1 or bool((here["q_value"] <= MOST_Q).any())
        caveat = "" if passed else f"{limit}."
        important = important_words(here, _apart(here) if key[0] == PATHS else "")
        found.append(Support(*key, important, caveat, stability_words(stabilities[key], confidence)))
    return found


def important_words(sites: pd.DataFrame, kinds: str = "") -> str:
    """How many of these sites are important, and the strongest of them by name; of none, what they lack.

    Args:
        sites: a table of `site_effects`, or some of its rows.
        kinds: what the sites are, where they are of several kinds: "38 paths and 72 of their inputs apart".
    """
    of = f"of {words.count(len(sites), 'site')}{f' ({kinds})' if kinds else ''}"
    if sites["unstable_ie"].all():
        return f"None {of} can be called important: the gap may be 0, so that IE has no size."
    chosen = sites[important_sites(sites)]
    if not len(chosen):
        return f"None {of} is important ({RULE}): {_lacking(sites)}."
    named = [
        f"{site_name(site)} (IE {estimate(estimate_of(site, 'ie'))}, q {words.probability(site['q_value'])})"
        for site in strongest(chosen, "ie", MOST_NAMED).to_dict("records")
    ]
    more = len(chosen) - len(named)
    rest = [f"{more:,} more"] if more else []
    verb = "is" if len(chosen) == 1 else "are"
    return f"{len(chosen):,} {of} {verb} important ({RULE}): {words.listing([*named, *rest])}."


def _lacking(sites: pd.DataFrame) -> str:
    """How many sites pass each half of the rule that none passes whole."""
    of_size = sites[~sites["unstable_ie"]]
    n_sure, n_large = (of_size["q_value"] <= MOST_Q).sum(), (of_size["ie"].abs() >= LEAST_IE).sum()
    low, high = (LEAST_IE * of_size["gap"].abs().agg(end) for end in ("min", "max"))
    decimals = words.decimals_for([high])
    least = words.number(low, decimals)
    # sites of fewer pairs have another gap
    in_logits = f" ({least} logits)" if least == words.number(high, decimals) else ""
    sure, large = f"q ≤ {MOST_Q:g}", f"|IE| ≥ {LEAST_IE:g}{in_logits}"
    if n_sure:
        text = f"{n_sure:,} {_have(n_sure)} {sure}, {'none of these' if n_sure > 1 else 'but not'} {large}"
        text += f"; {n_large:,} {_have(n_large)} that size, without such a q" if n_large else ""
    else:
        text = f"none has {sure}, {f'{n_large:,}' if n_large else 'none'} {_have(n_large or 1)} {large}"
    without = len(sites) - len(of_size)
    return f"{text}; of {without:,} more IE has no size, as the gap may be 0" if without else text


def _have(n: int) -> str:
    return "has" if n == 1 else "have"


def _apart(paths: pd.DataFrame) -> str:
    """Of how many of these paths the receiver reads everything, and of how many one input."""
    whole = sum(PathEnd.read(str(name)).component == "z" for name in paths["dest"])
    inputs = len(paths) - whole
    return f"{words.count(whole, 'path')} and {inputs:,} of their inputs apart" if inputs else ""


def stability_words(stability: Stability, confidence: float) -> str:
    """How well two halves of the queries agree."""
    if math.isnan(stability.pearson.value):
        return "Split-half stability: none can be given; it needs two queries, three sites, and sites that differ."
    n, ways = stability.n_queries, stability.n_divisions
    if n < LEAST_QUERIES:
        halves = "into halves in one way only" if ways == 1 else f"into halves in {ways} ways only"
        return (
            f"Split-half stability: none is given below {LEAST_QUERIES} queries. {n} can be divided {halves}, which "
            "says nothing about other queries."
        )
    among = f", of which there are {ways:,}" if ways < N_SPLITS else ""
    text = (
        f"Split-half stability: the effects of two random halves of the {n:,} queries correlate with "
        f"Pearson's r = {estimate(stability.pearson, 2)} and Spearman's {estimate(stability.spearman, 2)} over "
        f"{words.count(stability.n_sites, 'site')} (in brackets: {words.percent(confidence)} of the divisions{among})"
    )
    whole = stability.pearson_of_whole
    return f"{text}; two whole runs would reach r = {words.number(whole)}." if math.isfinite(whole) else f"{text}."


def site_name(site: Mapping[Any, Any]) -> str:
    """`L12H3@last`, `L12H3 (scores, query<-document)`, `mlp_out of layer 3 at the document`, or a path."""
    if site["experiment"] == PATHS:
        return f"{path_name(site)} ({site['component']})"
    if pd.notna(site["head"]):
        if site["dest"] is None:
            return words.site_label(int(site["layer"]), int(site["head"]), str(site["region"]))
        name = words.head_name(int(site["layer"]), int(site["head"]))
        return f"{name} ({site['component']}, {site['dest']}<-{site['src']})"
    return f"{site['component']} of layer {int(site['layer'])} {place(str(site['region']))}"


def path_name(path: Mapping[Any, Any]) -> str:
    """`L8H11@query → L12H3@last`, the ends named as in the rows."""
    return f"{path['src']} → {path['dest']}"
