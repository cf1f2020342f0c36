"""Which heads does a run say should be read, or ablated, together: those of largest effect, or of largest attention?

    REGION                 largest |effect| of `z` at the region                     (experiment heads)
    DEST<-SRC              largest |effect| of the attention scores on the edge      (experiment edges)
    interaction            largest S = mean over queries of s(q, d_positive) - s(q, d_negative), signed: what they
                           attend to alone, whatever it causes                       (experiment interaction)

The set carries the queries on which it was chosen: on them it looks better than it is; those that the run judged and
its filter kept from choosing, which are no fresh ones either; and the run and its model, in which alone its heads are
what was measured. Cost: no forward pass.
"""

from __future__ import annotations

from typing import Final

import pandas as pd

from relscope.analysis.effects import site_effects
from relscope.analysis.head_sets import Head, HeadSet, seen_by
from relscope.analysis.interaction import interaction_score_means
from relscope.errors import InputError
from relscope.results import INTERACTION, Run, read_readout

BY_INTERACTION: Final = "interaction"
_BY_DEFAULT: Final = ("query", "last", "instruction", "document")


def chosen_heads(run: Run, k: int, *, by: str | None = None, below: int | None = None) -> HeadSet:
    """The `k` heads that a run puts first, named after `by`.

    Args:
        run: has finished the experiment that `by` needs.
        k: number of heads.
        by: a region of the experiment heads, an edge such as `query<-document` of the experiment edges (its component
            `scores`), or `interaction`; None: of query, last, instruction and document the first with measured heads.
        below: only heads of layers below this one; None: of all layers.

    Returns:
        The heads, first the one put first; region `query` for edges and the interaction. `chosen_on` has the queries of
        all pairs that are patched, `held_out` the others of the run, `query_texts` the texts of both, `source` the run
        and its model.

    Raises:
        InputError: the run is not complete, has not measured this, or has fewer than k heads.
    """
    if run.manifest.status != "complete":
        raise InputError(f"{run.directory}: the run is not complete; give its relscope run again, then choose heads")
    by = _default_region(run) if by is None else by
    ranked = _by_interaction(run) if by == BY_INTERACTION else _by_effect(run, by)
    ranked = ranked if below is None else ranked[ranked["layer"] < below]
    if not 1 <= k <= len(ranked):
        where = "" if below is None else f" in layers below {below}"
        raise InputError(f"k is {k}; give a number from 1 to {len(ranked)}, the heads measured by {by!r}{where}")
    region = "query" if by == BY_INTERACTION or "<-" in by else by
    members = tuple(
        Head(int(layer), int(head), region) for layer, head in zip(ranked["layer"][:k], ranked["head"][:k], strict=True)
    )
    name = f"{by}-{k}" if below is None else f"{by}-{k} below {below}"
    return HeadSet(name, members, **seen_by(run))


def _default_region(run: Run) -> str:
    measured = set(run.rows("heads")["region"])
    return next((region for region in _BY_DEFAULT if region in measured), _BY_DEFAULT[0])


def _by_interaction(run: Run) -> pd.DataFrame:
    read = read_readout(run.directory, INTERACTION)
    if read.empty:
        raise InputError(f"{run.directory}: has no interaction scores; run it with --experiments interaction")
    means = interaction_score_means(read, run.manifest.query_of, n_resamples=1)
    return means.sort_values(["mean", "layer", "head"], ascending=[False, True, True])


def _by_effect(run: Run, by: str) -> pd.DataFrame:
    dest, arrow, src = by.partition("<-")
    rows = run.rows("edges" if arrow else "heads")
    if arrow:
        measured = rows[rows["component"] == "scores"]
        rows = measured[(measured["dest"] == dest) & (measured["src"] == src)]
        known = sorted({f"{one}<-{other}" for one, other in zip(measured["dest"], measured["src"], strict=True)})
    else:
        known = sorted({str(region) for region in rows["region"]})
        rows = rows[(rows["component"] == "z") & (rows["region"] == by)]
    if rows.empty:
        experiment = "edges" if arrow else "heads"
        there = f"it has {', '.join(known)}" if known else f"it has none; run with --experiments {experiment}"
        wanted = "scores of the experiment edges" if arrow else "heads of the experiment heads"
        raise InputError(f"{run.directory}: has measured no {wanted} at {by!r}; {there}")
    effects = site_effects(rows, run.manifest.query_of, n_resamples=1, n_flips=1)
    effects = effects.assign(size=effects["effect"].abs())
    return effects.sort_values(["size", "layer", "head"], ascending=[False, True, True])
