"""What must a reader know before trusting anything below? The warnings at the top of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relscope.analysis import LEAST_QUERIES, MOST_Q, excluded_by_chance, smallest_p_value
from relscope.report import facts, words
from relscope.report.contents import CONFIDENCE, Contents
from relscope.results import Manifest

FEW_QUERIES = 10
"""The fewest over which 95 % intervals exclude 0 by chance less than twice as often as they say (9.6 %)."""
REMEDY = "measure more, by a larger --pairs or more data"
"""What to do where queries are too few."""
EMBEDDED_MODEL = (
    "It has 135 million parameters and comes with relscope so that everything can be tried without a model hub. What "
    "is shown here is how this small model judges short English passages; it is no evidence of how a large judge "
    "works, and the model is not meant to judge anything that matters."
)
"""What the embedded models are, and are not."""


@dataclass(frozen=True)
class Notice:
    """A box at the top of the page: `alarm` where the numbers may mislead, `warn` where less is wrong."""

    level: Literal["alarm", "warn"]
    title: str
    text: str
    points: tuple[str, ...] = ()


def notices(contents: Contents) -> list[Notice]:
    """All that hold for this run, the gravest first."""
    found = []
    quality, manifest = contents.quality, contents.manifest
    if quality is not None and quality.at_chance:
        title = (
            f"{n_queries(quality.n_queries)} cannot tell the verdicts from chance"
            if quality.too_few
            else "The verdicts are not better than chance, so the effects mean little"
        )
        found.append(Notice("alarm", title, quality.sentence))
    if facts.lookup(manifest.identity, "model.kind") == "embedded":
        found.append(Notice("warn", "This is a model to learn and test with", EMBEDDED_MODEL))
    if contents.complete and not any(not pair.filtered for pair in manifest.pairs):
        found.append(
            Notice(
                "alarm",
                "No pair was left to patch",
                "Every pair was excluded or filtered out, so there are no effects; the exclusions say why.",
            )
        )
    if not contents.complete:
        found.append(
            Notice(
                "warn",
                "This run is not complete",
                "What follows is computed from the rows stored so far and may change.",
                tuple(step.words for step in contents.progress),
            )
        )
    found += failed_checks(manifest, "the model", "the section on verdict quality")
    return found + few_queries("The effects rest", contents.n_queries)


def n_queries(n: int) -> str:
    """How many queries, at the beginning of a sentence."""
    return "One query" if n == 1 else f"{n:,} queries"


def failed_checks(manifest: Manifest, whose: str, all_checks: str) -> list[Notice]:
    """A warning that lists the failed checks of `whose` model, or none; `all_checks` is what lists the others too."""
    failed = [lint for lint in manifest.lints if not lint.ok]
    if not failed:
        return []
    title = f"{words.count(len(failed), 'check')} of {whose} failed"
    text = f"What depends on it is in doubt; {all_checks} lists all checks."
    points = tuple(f"{lint.name}: {lint.message}" if lint.message else lint.name for lint in failed)
    return [Notice("warn", title, text, points)]


def few_queries(what_rests: str, n_queries: int) -> list[Notice]:
    """A warning where numbers rest on less than FEW_QUERIES queries; none where there are no numbers."""
    if not 1 <= n_queries < FEW_QUERIES:
        return []
    if n_queries == 1:
        text = "A single query allows no interval over queries: nothing here tells signal from noise."
    else:
        share = words.percent(excluded_by_chance(n_queries, CONFIDENCE))
        text = (
            f"Intervals over so few queries are too narrow: {share} of them exclude 0 where there is nothing to find, "
            f"and not {words.percent(1 - CONFIDENCE)}."
        )
    if n_queries < LEAST_QUERIES:
        if n_queries > 1:
            smallest = words.number(smallest_p_value(n_queries), 2)
            text += f" No sign-flip p can be below {smallest}, so that nothing can be told from chance."
        text += (
            f" At least {LEAST_QUERIES} queries are needed for p ≤ {MOST_Q:g}, more where many sites are compared: "
            f"{REMEDY}."
        )
    return [Notice("warn", f"{what_rests} on {words.count(n_queries, 'query', 'queries')} only", text)]
