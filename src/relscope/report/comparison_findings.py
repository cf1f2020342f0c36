"""What are the few things to take away from a comparison? Sentences computed from the numbers, never canned.

A difference is called one only where its interval excludes 0; beside the largest of many stands how many intervals
exclude 0 and how many would by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from relscope.analysis import Estimate, JudgeQuality, excluded_by_chance
from relscope.report import words
from relscope.report.comparison_contents import Comparison, SameSites, strongest_transfers
from relscope.report.comparison_folder import TRANSFER_FOLDERS
from relscope.report.contents import CONFIDENCE
from relscope.report.findings import (
    Finding,
    by_chance,
    difference,
    estimate,
    excludes_zero,
    excluding_zero,
    layer_where_half,
    place,
)

_LEVEL = 0.05


def findings(comparison: Comparison) -> list[Finding]:
    """All that the numbers allow, in the order of the page."""
    found = []
    if comparison.quality:
        found.append(_quality(comparison.quality, comparison.quality_difference))
    if len(comparison.differences):
        for kind in ("flow", "heads"):
            found += _changes(comparison, kind)
    for name in comparison.transfers:
        found.append(_transfer(comparison, name))
    found += _moved(comparison)
    found += _same(comparison.same)
    return found


def site_name(site: Mapping[Any, Any]) -> str:
    """`L12H3@last`, `attn_out of layer 12 at the query`."""
    region = str(site["region"])
    if pd.notna(site["head"]):
        return words.site_label(int(site["layer"]), int(site["head"]), region)
    return f"{site['component']} of layer {int(site['layer'])} {place(region)}"


def of(site: Mapping[Any, Any], name: str) -> Estimate:
    """The estimate in the columns `name`, `name_low`, `name_high`."""
    return Estimate(*(float(site[f"{name}{end}"]) for end in ("", "_low", "_high")))


def p_words(p_value: float) -> str:
    """`p = 0.032`, `p < 0.001`, or nothing where there is no value."""
    if not np.isfinite(p_value):
        return ""
    return "p ≤ 0.001" if p_value < 0.0015 else f"p = {p_value:.3f}"


def _quality(quality: Mapping[str, JudgeQuality], difference: Mapping[str, Estimate]) -> Finding:
    base, tuned = quality["base"], quality["tuned"]
    change = difference["roc_auc"]
    values = f"ROC AUC {words.number(base.roc_auc.value)} before, {words.number(tuned.roc_auc.value)} after"
    if not excludes_zero(change):
        title = f"Verdicts: no difference in quality is shown ({values})"
    elif change.value > 0:
        title = f"The tuned model judges better: {values}"
    else:
        title = f"The tuned model judges worse: {values}"
    apart = difference["separation"]
    text = (
        f"ROC AUC differs by {_signed(change)}, the share of pairs in the right order by "
        f"{_signed(difference['paired_accuracy'])} ({words.count(tuned.n, 'pair')} of "
        f"{words.count(tuned.n_queries, 'query', 'queries')})."
    )
    if excludes_zero(apart):
        more = "farther apart" if apart.value > 0 else "closer together"
        size = estimate(apart if apart.value > 0 else _negative(apart))
        text += f" Tuning put the verdicts of the two prompts {size} logits {more}."
    else:
        text += (
            f" How far apart the verdicts of the two prompts are did not change beyond noise: {_signed(apart)} logits."
        )
    return Finding(title, text)


def _changes(comparison: Comparison, kind: str) -> list[Finding]:
    """The largest change of a module's or head's effect, and how many changed at all."""
    everything = comparison.largest_changes(kind, None)
    if not len(everything):
        return []
    shares = comparison.has_shares("effects")
    column = "ie_difference" if shares else "difference"
    with_interval = everything[everything[f"{column}_low"].notna()]
    n_clear = int(((with_interval[f"{column}_low"] > 0) | (with_interval[f"{column}_high"] < 0)).sum())
    n_queries = int(everything["n_queries"].max())
    expected = excluded_by_chance(n_queries, CONFIDENCE) * len(with_interval)
    best = everything.iloc[0].to_dict()
    name, change = site_name(best), of(best, column)
    what, noun = ("Heads", "head × region site") if kind == "heads" else ("Attention and MLP", "layer × region site")
    if len(with_interval) and n_clear <= expected and not _stands_out(change, len(with_interval)):
        title = f"{what}: no more effects changed than would by chance"
    else:
        title = f"{what}: what changed most is {name}"
    in_logits = (
        f"{estimate(of(best, 'effect_base'))} and {estimate(of(best, 'effect_tuned'))} logits, a difference of "
        f"{_signed(of(best, 'difference'))}"
    )
    if shares:
        text = (
            f"The share of the gap (IE) that {name} carries is {estimate(of(best, 'ie_base'))} in the base model and "
            f"{estimate(of(best, 'ie_tuned'))} in the tuned one, a difference of {_signed(change)} "
            f"(effects of {in_logits})"
        )
    else:
        text = f"In the base and in the tuned model {name} has effects of {in_logits}"
    if not excludes_zero(change) and np.isfinite(change.low):
        text += "; the interval includes 0, so even this largest one may be noise"
    text += "."
    if len(with_interval):
        excluding = excluding_zero(n_clear, words.count(len(with_interval), noun))
        would = f"{by_chance(len(with_interval), n_queries, CONFIDENCE)} would if nothing had changed"
        text += f" {excluding[0].upper()}{excluding[1:]} ({would})."
    return [Finding(title, text)]


def _transfer(comparison: Comparison, name: str) -> Finding:
    """What alone carries most of the donor's extra separation, and where the stream carries half of it."""
    effects = comparison.transfers[name]
    donor, receiver = TRANSFER_FOLDERS[name]
    top = strongest_transfers(effects, 3)
    fullest = effects.iloc[int(np.argmax(effects["n_pairs"].to_numpy()))].to_dict()
    gap = of(fullest, "gap") if receiver == "base" else _negative(of(fullest, "gap"))  # tuned - base, either way
    lead = f"{donor.capitalize()} into {receiver}"
    if not excludes_zero(gap):
        title = f"{lead}: the models separate the documents alike, so there is nothing to carry"
        text = f"The tuned model's separation differs from the base model's by {_signed(gap)} logits"
        text += ", which may be 0; shares of it would be noise."
        if len(top):
            best = top.iloc[0].to_dict()
            text += f" In logits the largest effect is that of {site_name(best)}: {_signed(of(best, 'effect'))}."
        return Finding(title, text)
    more, size = ("more", gap) if gap.value > 0 else ("less", _negative(gap))
    text = f"The tuned model separates the two prompts by {estimate(size)} logits {more} than the base model."
    if not len(top):
        return Finding(f"{lead}: only the residual stream was patched", text + _stream(comparison, name))
    best = top.iloc[0].to_dict()
    share = of(best, "ie")
    does = "brings" if receiver == "base" else "takes back"
    if excludes_zero(share):
        title = f"{lead}: {site_name(best)} alone {does} {words.percent(share.value)} of the change"
    else:
        title = f"{lead}: no single module or head stands out"
    text += f" {_capital(site_name(best))} alone {does} {_share(share)} of this"
    if not excludes_zero(share):
        text += ", and the interval includes 0"
    others = [f"{site_name(site)} {_share(of(site, 'ie'))}" for site in top.iloc[1:].to_dict("records")]
    text += f"; next {words.listing(others)}." if others else "."
    return Finding(title, text + _stream(comparison, name))


def _stream(comparison: Comparison, name: str) -> str:
    """From which layer on the last token's residual stream holds half of the donor's extra separation."""
    for family in comparison.transfer_families:
        if family.name == "resid_post" and name in family.panels:
            since = layer_where_half(family.panels[name], "last", from_end=True)
            if since is not None:
                return (
                    f" The residual stream {place('last')} carries at least half of it at every layer from "
                    f"{since.layer} on ({_share(since.ie)})."
                )
            if "last" in family.panels[name].rows:
                return f" At no layer does the residual stream {place('last')} carry half of it through to the end."
    return ""


def _moved(comparison: Comparison) -> list[Finding]:
    correlations = comparison.moved.correlations
    chosen = [c for c in correlations if c.region == "last"] or list(correlations[:2])
    chosen = [c for c in chosen if np.isfinite(c.correlation.value) and c.region == chosen[0].region]
    by_kind = {c.matters: c for c in chosen}
    if "effect_tuned" not in by_kind:
        return []
    now, changed = by_kind["effect_tuned"], by_kind.get("difference")
    where = place(now.region)
    related = [c for c in (now, changed) if c is not None and excludes_zero(c.correlation) and c.p_value < _LEVEL]
    if not related:
        title = f"Moved and matters: no relation is shown over the heads {where}"
    elif all(c.correlation.value > 0 for c in related):
        title = f"Heads that moved farther matter more {where}"
    elif all(c.correlation.value < 0 for c in related):
        title = f"Heads that moved farther matter less {where}"
    else:
        title = f"Moved and matters: two relations that disagree, over the heads {where}"
    text = (
        f"Spearman's correlation over {words.count(now.n_heads, 'head')} between how far the output moved and the "
        f"|effect| in the tuned model is {estimate(now.correlation, 2)} ({p_words(now.p_value)})"
    )
    if changed is not None:
        text += f", and the |difference| of the effects {estimate(changed.correlation, 2)} ({p_words(changed.p_value)})"
    text += "."
    heads = comparison.moved.heads
    if heads is not None:
        here = heads[heads["region"] == now.region]
        far = here.iloc[int(np.nanargmax(here["moved"].to_numpy(dtype=np.float64)))].to_dict()
        matters = of(far, "effect_tuned")
        text += (
            f" {words.head_name(int(far['layer']), int(far['head']))} moved farthest there, by "
            f"{words.percent(float(far['moved']))} of its output; its effect is {estimate(matters)} logits in the "
            "tuned model."
        )
    return [Finding(title, text)]


def _same(same: tuple[SameSites, ...]) -> list[Finding]:
    of_heads = [one for one in same if one.kind == "heads"]
    chosen = next((one for one in of_heads if one.name == "last"), of_heads[0] if of_heads else None)
    if chosen is None:
        return []
    by_measure = {s.measure: s for s in chosen.similarities}
    rank, top = by_measure["spearman"], by_measure["overlap_10"]
    where = place(chosen.name)
    if not np.isfinite(rank.value.value):
        return [Finding(f"Same heads: nothing to compare {where}", "All effects there are equal.")]
    if rank.p_value >= _LEVEL:
        title = f"Same heads: the rankings {where} are no more alike than by chance"
    elif rank.value.value >= 0.7:
        title = f"Largely the same heads matter {where} before and after"
    else:
        title = f"Partly the same heads matter {where} before and after"
    text = (
        f"Spearman's correlation of |effect| over {words.count(rank.n_sites, 'head')} is {estimate(rank.value, 2)} "
        f"({p_words(rank.p_value)})"
    )
    if np.isfinite(top.value.value):
        text += (
            f"; of the ten strongest heads of each model, {round(10 * top.value.value)} are the same (about "
            f"{words.number(10 * top.by_chance, 1)} would be by chance)"
        )
    return [Finding(title, text + ".")]


def _stands_out(largest: Estimate, n: int) -> bool:
    """True if the largest of `n` would be the largest by chance in less than one of twenty comparisons.

    Bonferroni's bound, with the standard error that the interval says; a bootstrap's own percentiles do not reach so
    far out.
    """
    normal = NormalDist()
    error = (largest.high - largest.low) / (2 * normal.inv_cdf((1 + CONFIDENCE) / 2))
    return abs(largest.value) > error * normal.inv_cdf(1 - _LEVEL / (2 * n))


def _negative(value: Estimate) -> Estimate:
    return Estimate(-value.value, -value.high, -value.low)


def _capital(name: str) -> str:
    """A sentence's first word; a component keeps its name as it is written in the rows."""
    return name if "_" in name.partition(" ")[0] else name[0].upper() + name[1:]


def _signed(value: Estimate) -> str:
    text = difference(value)
    return f"+{text}" if value.value > 0 and not text.startswith("0.00 ") else text


def _share(value: Estimate) -> str:
    """`60 % [55 %, 66 %]`."""
    text = words.percent(value.value)
    if not np.isnan(value.low):
        text += f" [{words.percent(value.low)}, {words.percent(value.high)}]"
    return text.replace("-", words.MINUS)
