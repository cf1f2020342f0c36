"""How much of a module's effect is direct, and which paths between heads carry most?

    total    = what the module's patch changes, all that comes after it computed anew         in logits
    direct   = what it changes where the final norm alone sees it
    mediated = total - direct: what later parts make of it

Of each module all three are means over the same pairs, with percentile bootstraps over queries in which they are
resampled together. They need not be of one sign: later parts often take back what an earlier one writes.

Cost: no forward pass; matrix products [module, pair] @ [pair, resample].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from relscope.analysis.intervals import check_confidence, percentile_interval
from relscope.analysis.paired import resample_shares, same_pairs
from relscope.analysis.significance import N_FLIPS, q_values, sign_flip_p_values
from relscope.analysis.site_changes import site_changes
from relscope.results import DIRECT, PATHS, TOTAL, PathEnd

_PARTS: Final = ("total", "direct", "mediated")
_ENDS: Final = ("", "_low", "_high", "_p_value", "_q_value")
_MODULE: Final = ["component", "layer", "head", "region", "direction"]
SPLIT_COLUMNS: Final = (
    *_MODULE,
    "n_pairs",
    "n_queries",
    *(f"{part}{end}" for part in _PARTS for end in _ENDS),
)


def effect_splits(
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    n_flips: int = N_FLIPS,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Total, direct and mediated effect of every module that has a direct and a total one.

    Args:
        rows: rows as `Run.rows()` gives them: `direct`, and of `flow`, `heads` and `total` what is of its modules.
        query_of: the query of each pair (`Manifest.query_of`).
        n_resamples: of the queries; n_flips: sign patterns, as for `site_effects`.

    Returns:
        One row a module and direction, with SPLIT_COLUMNS, in logits, over the pairs that have both of its effects.
        `*_low`, `*_high`, `*_p_value` and `*_q_value` are as in `site_effects`, NaN with one query alone; q-values
        count all modules of a direction.

    Raises:
        InputError: as `site_effects`.
    """
    check_confidence(confidence)
    changes = site_changes(rows[rows["experiment"].isin((DIRECT, TOTAL, "flow", "heads"))], query_of)
    place = np.arange(len(changes.sites))
    is_direct = (changes.sites["experiment"] == DIRECT).to_numpy(dtype=bool)
    modules = [changes.sites.loc[which, _MODULE].assign(place=place[which]) for which in (is_direct, ~is_direct)]
    both = modules[0].merge(modules[1], on=_MODULE, suffixes=("_direct", "_total"), validate="one_to_one")
    direct, total = (changes.patched[both[f"place_{part}"].to_numpy(dtype=np.intp)] for part in ("direct", "total"))
    values = {"total": total, "direct": direct, "mediated": total - direct}
    found = both[_MODULE].assign(**dict.fromkeys(SPLIT_COLUMNS[len(_MODULE) :], np.nan))
    for chosen, pairs in same_pairs(values["mediated"], max(1, len(both))):
        query_ids = tuple(query for query, kept in zip(changes.query_ids, pairs, strict=True) if kept)
        if not query_ids:
            continue
        found.loc[chosen, ["n_pairs", "n_queries"]] = len(query_ids), len(set(query_ids))
        for part, of_part in values.items():
            effect = of_part[np.ix_(chosen, np.flatnonzero(pairs))]
            found.loc[chosen, part] = effect.mean(axis=1)
            if len(set(query_ids)) > 1:
                ends = percentile_interval(effect @ resample_shares(query_ids, n_resamples, seed), confidence)
                found.loc[chosen, f"{part}_low"], found.loc[chosen, f"{part}_high"] = ends
                found.loc[chosen, f"{part}_p_value"] = sign_flip_p_values(effect, query_ids, n_flips, seed)
    found = found[found["n_pairs"].notna()].astype({"n_pairs": "int64", "n_queries": "int64"})
    for part in _PARTS:
        together = found.groupby("direction", sort=False)[f"{part}_p_value"]
        found[f"{part}_q_value"] = together.transform(lambda p: q_values(p.to_numpy(dtype=np.float64)))
    return found.reset_index(drop=True)


def path_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """The paths among the effects, with both ends taken apart.

    Args:
        effects: a table of `site_effects`.

    Returns:
        The rows of the experiment `paths` with its columns `src` and `dest` (the ends' names), `variant`, `direction`
        and the numbers, and besides `input`, what the receiver reads (z: everything), and layer, head and region of
        either end: `sender_layer`, ..., `receiver_region`; the embedding has no head.

    Raises:
        InputError: an end has a name that is none.
    """
    paths = effects[effects["experiment"] == PATHS].reset_index(drop=True)
    ends = {
        end: [PathEnd.read(str(name)) for name in paths[column]]
        for end, column in (("sender", "src"), ("receiver", "dest"))
    }
    places = {
        f"{end}_{name}": pd.array([getattr(of, name) for of in found], dtype="object" if name == "region" else "Int16")
        for end, found in ends.items()
        for name in ("layer", "head", "region")
    }
    named = paths.rename(columns={"component": "variant"}).drop(columns=["experiment", "layer", "head", "region"])
    return named.assign(input=[of.component for of in ends["receiver"]], **places)
