"""What do two runs have in common, in a sentence? Computed from the measures, never canned.

The words follow the way from chance to the ceiling that RBO goes: (RBO - chance) / (ceiling - chance), with the lower
ceiling of the two runs. Nothing is said from fewer than LEAST_QUERIES queries of either run, nor how much is alike
where the divisions behind a ceiling are further apart than STEADY allows: so noisy a ceiling is passed by chance.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from relscope.analysis import LEAST_QUERIES, MeasuredSimilarity, MechanismSimilarity
from relscope.report import words
from relscope.report.comparison_findings import p_words
from relscope.report.findings import Finding, estimate, place
from relscope.report.similarity_contents import Mechanisms, PairOfRuns

LEVEL: Final = 0.05
LARGELY: Final = 2 / 3
"""From this share of the way on the runs are said to be largely alike."""
STEADY: Final = 1 / 2
"""All but 2.5 % of the divisions behind a ceiling go this share of the way from chance to it, or it is not known."""
TOP: Final = 10
_TOO_FEW: Final = "too few queries to say"


def findings(mechanisms: Mechanisms) -> list[Finding]:
    """For each pair of runs: how alike each component is, against chance and one run with itself; attention or MLPs?"""
    said = []
    for pair in mechanisms.pairs:
        said += [_finding(pair, found) for found in pair.headline]
        flow = [found for found in pair.headline if found.matched.experiment == "flow"]
        halves = {(found.matched.direction, found.matched.component): found for found in flow}
        for direction in dict.fromkeys(found.matched.direction for found in flow):
            attention, mlp = (halves.get((direction, component)) for component in ("attn_out", "mlp_out"))
            if attention is not None and mlp is not None:
                said += _attention_or_mlps(pair, attention, mlp)
    return said


def set_name(found: MechanismSimilarity) -> str:
    """`attn_out over query, document and last`, `heads (z) at the last token`."""
    matched = found.matched
    what = f"heads ({matched.component})" if matched.targets["head"].notna().any() else matched.component
    if matched.experiment == "direct":
        what = f"direct effects of {what}"
    if matched.by == "depth" and matched.component == "z":
        what = "heads (z), by depth"
    elif matched.by == "depth":
        what += ", by depth"
    many = matched.together and "<-" in matched.places[0]
    where = f"over {len(matched.places)} edges" if many else f"over {words.listing(matched.places)}"
    return f"{what} {where if matched.together else place(matched.places[0])}"


def way(one: MeasuredSimilarity) -> float:
    """How far from chance (0) to the lower ceiling (1) a similarity is; NaN where the two are not apart."""
    ceiling = min(one.ceilings)
    if not ceiling > one.chance.mean:
        return math.nan
    return (one.value.value - one.chance.mean) / (ceiling - one.chance.mean)


def steady(one: MeasuredSimilarity) -> bool:
    """True if both ceilings are above chance, and their divisions near enough to them for a share of that way."""
    return all(
        ceiling > one.chance.mean and low >= one.chance.mean + STEADY * (ceiling - one.chance.mean)
        for ceiling, low in zip(one.ceilings, one.ceilings_low, strict=True)
    )


def scatter_words(found: MechanismSimilarity, names: tuple[str, str]) -> str:
    """What the strongest sites of both runs have in common."""
    points = found.points
    sizes = [points[column].abs().to_numpy(dtype=np.float64) for column in ("one", "other")]
    n = min(TOP, len(points) // 2)
    tops = [set(np.argsort(-size, kind="stable")[:n].tolist()) for size in sizes]
    common = sorted(tops[0] & tops[1])
    noun = "depths" if found.matched.by == "depth" else "sites"
    verb = "is" if len(common) == 1 else "are"
    text = f"Of the {n} strongest {noun} of {names[0]} and of {names[1]}, {len(common)} {verb} the same"
    if common and found.matched.by == "site":
        opposite = int((points["one"] * points["other"] < 0).to_numpy()[common].sum())
        text += f"; {opposite} of these have opposite signs" if opposite else ", all with the same sign in both"
    return text + "."


def _finding(pair: PairOfRuns, found: MechanismSimilarity) -> Finding:
    rbo, rank = found.of("rbo"), found.of("spearman")
    what = f"{pair.one.letter} and {pair.other.letter}, {set_name(found)}"
    if found.matched.direction != "denoise":
        what += f" ({found.matched.direction})"
    if not np.isfinite(rank.value.value):
        return Finding(f"{what}: nothing to compare", "All effects of one of the runs are equal there.")
    noun = "depth" if found.matched.by == "depth" else "site"
    text = (
        f"RBO is {estimate(rbo.value, 2)} and Spearman's correlation {estimate(rank.value, 2)} "
        f"({p_words(rank.chance.p_value)}) over {words.count(found.n_sites, noun)}; sites "
        f"relabelled at random would give an RBO of {words.number(rbo.chance.mean)} ({p_words(rbo.chance.p_value)})"
    )
    if np.isfinite(rbo.ceilings).all():
        text += (
            f", and two halves of one run reach {words.number(rbo.ceilings[0])} ({pair.one.letter}) and "
            f"{words.number(rbo.ceilings[1])} ({pair.other.letter})"
        )
    text += "."
    if min(found.n_queries) < LEAST_QUERIES:
        text += f" Fewer than {LEAST_QUERIES} queries of a run cannot tell a mechanism from the noise of its queries."
    elif not steady(rbo) and np.isfinite(rbo.ceilings).all():
        text += (
            " The queries are too few to know the ceiling: of the divisions into halves, the lowest 2.5 % reach "
            f"{words.number(rbo.ceilings_low[0])} ({pair.one.letter}) and {words.number(rbo.ceilings_low[1])} "
            f"({pair.other.letter}) at most."
        )
    if found.n_shared_queries and way(rbo) >= 1:
        which = (
            "the same queries"
            if found.same_queries
            else f"{words.count(found.n_shared_queries, 'query', 'queries')} in common"
        )
        text += f" Both runs rest on {which}, whose noise they share and two halves do not."
    if rbo.in_layers is not None:
        more = "more alike than" if rbo.in_layers.p_value < LEVEL else "no more alike than"
        few = min(found.n_queries) < LEAST_QUERIES
        said = (
            "Relabelled within layers"
            if few
            else f"Within layers the same heads are {more} by chance: relabelled there"
        )
        text += f" {said} they would give {words.number(rbo.in_layers.mean)} ({p_words(rbo.in_layers.p_value)})."
    return Finding(f"{what}: {_judgement(found)}", text)


def _attention_or_mlps(pair: PairOfRuns, attention: MechanismSimilarity, mlp: MechanismSimilarity) -> list[Finding]:
    """Which halves of the layers keep their mechanism (experiment 2 of the paper), beside what each can reach."""
    values = [found.of("rbo").value for found in (attention, mlp)]
    if not all(np.isfinite([value.value, value.low, value.high]).all() for value in values):
        return []
    of_attention, of_mlp = values
    runs = f"{pair.one.letter} and {pair.other.letter}"
    fewest = min(*attention.n_queries, *mlp.n_queries)
    text = f"RBO is {estimate(of_attention, 2)} for attn_out and {estimate(of_mlp, 2)} for mlp_out"
    ways = [way(found.of("rbo")) for found in (attention, mlp)]
    if fewest >= LEAST_QUERIES and all(steady(found.of("rbo")) for found in (attention, mlp)):
        text += (
            f", {words.percent(ways[0])} and {words.percent(ways[1])} of the way from chance to what two halves of one "
            "run reach"
        )
    if fewest < LEAST_QUERIES:
        title = f"{runs}: RBO of attention and of the MLPs, {_TOO_FEW} which is higher"
        return [Finding(title, f"{text}; intervals over so few queries are too narrow.")]
    if of_attention.low > of_mlp.high:
        return [Finding(f"{runs}: RBO is higher for attention than for the MLPs", f"{text}; the intervals lie apart.")]
    if of_mlp.low > of_attention.high:
        return [Finding(f"{runs}: RBO is higher for the MLPs than for attention", f"{text}; the intervals lie apart.")]
    return [Finding(f"{runs}: RBO of attention and of the MLPs cannot be told apart",
                    f"{text}; the intervals overlap.")]  # fmt: skip


def _judgement(found: MechanismSimilarity) -> str:
    rbo, rank = found.of("rbo"), found.of("spearman")
    if min(found.n_queries) < LEAST_QUERIES:
        return _TOO_FEW
    if not steady(rbo):
        return f"more alike than by chance, {_TOO_FEW} how much" if rbo.chance.p_value < LEVEL else _TOO_FEW
    if rbo.chance.p_value >= LEVEL:
        if rank.chance.p_value < LEVEL:
            return "the whole order is more alike than by chance, the strongest are not"
        return "no more alike than by chance"
    share = way(rbo)
    if share >= 1:
        if found.n_shared_queries:
            return f"above the ceiling, on {words.count(found.n_shared_queries, 'query', 'queries')} that both share"
        return "as alike as a run with itself"
    degree = "largely" if share >= LARGELY else "partly"
    return f"{degree} alike, {words.percent(share)} of the way from chance to the ceiling"
