"""Do heads that are patched together do more, or less, than the sum of what each does alone?

    interaction of a set = joint effect - sum of its heads' single effects             in logits

Below 0 (for effects above 0): they stand in for each other, or one works through the other. Above 0: they need each
other. Of each set all three numbers are means over the same pairs, with percentile bootstraps over queries in which
all are resampled together, so that the interval of the interaction knows how joint and single effects vary together.

Cost: no forward pass; one matrix product [set, pair] @ [pair, resample].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from relscope.analysis.intervals import check_confidence, percentile_interval
from relscope.analysis.paired import resample_shares
from relscope.analysis.site_changes import site_changes
from relscope.results import JOINT

JOINT_COLUMNS = (
    "src",
    "direction",
    "n_heads",
    "n_pairs",
    "n_queries",
    *(f"{name}{end}" for name in ("effect", "sum_of_singles", "interaction") for end in ("", "_low", "_high")),
)


def joint_interactions(
    rows: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Joint effect, sum of the single effects and interaction of every set of the experiment `joint`.

    Args:
        rows: rows as `Run.rows()` gives them.
        query_of: the query of each pair (`Manifest.query_of`).

    Returns:
        One row a set, with JOINT_COLUMNS, over the pairs on which every set of its direction was measured. Sets with a
        head whose single effect is not there are left out. `*_low`, `*_high` are NaN with one query alone.

    Raises:
        InputError: as `site_effects`.
    """
    check_confidence(confidence)
    changes = site_changes(rows[rows["experiment"] == JOINT], query_of)
    tables = []
    for direction, sites in changes.sites.groupby("direction", sort=False):
        patched = changes.patched[sites.index.to_numpy()]
        complete = ~np.isnan(patched).any(axis=0)
        query_ids = tuple(query for query, kept in zip(changes.query_ids, complete, strict=True) if kept)
        if not query_ids:
            continue
        names = [str(name) for name in sites["src"]]
        place = {name: number for number, name in enumerate(names)}
        known = [number for number, name in enumerate(names) if all(head in place for head in name.split("+"))]
        effect = patched[:, complete]
        sums = np.stack([effect[[place[head] for head in names[n].split("+")]].sum(axis=0) for n in known])
        values = {"effect": effect[known], "sum_of_singles": sums, "interaction": effect[known] - sums}
        columns: dict[str, object] = {"src": [names[n] for n in known], "direction": str(direction)}
        columns |= {"n_heads": [names[n].count("+") + 1 for n in known]}
        columns |= {"n_pairs": len(query_ids), "n_queries": len(set(query_ids))}
        for name, of_set in values.items():
            low = high = np.full(len(known), np.nan)
            if len(set(query_ids)) > 1:
                low, high = percentile_interval(of_set @ resample_shares(query_ids, n_resamples, seed), confidence)
            columns |= {name: of_set.mean(axis=1), f"{name}_low": low, f"{name}_high": high}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(JOINT_COLUMNS))
