"""Could chance alone give this effect, and which sites may be called important?

A site without effect moves LD up in some queries and down in others. With T_q the summed change of the pairs of query
q, the sign-flip test (Fisher, The Design of Experiments, 1935, section 21) gives every query a random sign s_q; all
pairs of a query flip together, because they are not independent:

    p = share of the sign patterns with |sum over q of s_q T_q| >= |sum over q of T_q|           two-sided

- The null hypothesis: each query's change is as likely to be +T_q as -T_q. Nothing else is assumed of its distribution.
- A pattern and its opposite give the same absolute sum, so that n queries have 2^(n-1) patterns to tell apart. If those
  are no more than `n_flips`, all are gone through and p is exact. Otherwise `n_flips` are drawn at random and
  p = (1 + hits) / (1 + n_flips): the measured pattern is one of those that chance could have given (Phipson and Smyth,
  Permutation p-values should never be zero, 2010).
- The smallest p is then 2 / 2^n, or 1 / (1 + n_flips). One query alone has no p (NaN).

Among thousands of sites many have a small p by chance. The q-value of a site (Benjamini and Hochberg, Controlling the
false discovery rate, 1995) is the share of false ones to expect at most among all sites of its experiment and direction
whose q-value is no larger:

    q of the i-th smallest p = min over j >= i of (n_sites / j) * p_(j)

This is proved for independent sites and for some that depend on each other positively (Benjamini and Yekutieli, 2001);
the sites of one model are neither quite. A q-value says nothing of the size of an effect: see `important_sites`.

Cost: no forward pass; one matrix product [site, query] @ [query, pattern].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy import stats

from relscope.errors import InputError

N_FLIPS: Final = 10_000
"""Sign patterns of a test: p down to 1e-4, and 14 queries or fewer are tested exactly."""
MOST_Q: Final = 0.05
"""The usual level: of the sites called important, one in twenty at most is expected to have no effect."""
LEAST_QUERIES: Final = 6
"""The fewest with which a p can be at most MOST_Q: that of five is 2 / 2^5 = 0.06 at best."""
LEAST_IE: Final = 0.02
"""Fifty sites of this size add up to the whole gap; smaller ones explain a verdict only as a crowd."""

_MOST_CELLS = 16_000_000
"""Float64 sums of one chunk of sites: 128 MB."""
_ROUNDING = 1e-12
"""Share of the summed |T_q| by which two equal sums may differ: float64 rounding of thousands of queries, and more."""

_OfSite = Float64[np.ndarray, " site"]


@dataclass(frozen=True)
class SignificanceLimit:
    """What the number of queries, of sites and of sign flips allows in one experiment and direction.

    Attributes:
        n_queries: of the site that was measured on most.
        smallest_p_value: no p can be smaller; NaN with fewer than two queries.
        sites_needed: at least so many sites reach q <= most_q together, or none does; more than `n_sites` if none
            can, None with fewer than two queries.
    """

    experiment: str
    direction: str
    n_sites: int
    n_queries: int
    most_q: float
    smallest_p_value: float
    sites_needed: int | None

    @property
    def reachable(self) -> bool:
        """True if any site can reach q <= most_q at all."""
        return self.sites_needed is not None and self.sites_needed <= self.n_sites

    def __str__(self) -> str:
        of = f"{self.experiment} ({self.direction})"
        if self.sites_needed is None:
            return f"{of}: no test is possible with fewer than two queries"
        at_best = f"{of}: p is at least {self.smallest_p_value:.2g} with {self.n_queries:,} queries"
        if not self.reachable:
            return f"{at_best}, so that none of {self.n_sites:,} sites can reach q ≤ {self.most_q:g}; {self._remedy}"
        if self.sites_needed == 1:
            return f"{at_best}, so that a single one of {self.n_sites:,} sites can reach q ≤ {self.most_q:g}"
        return (
            f"{at_best}, so that of {self.n_sites:,} sites at least {self.sites_needed:,} together reach "
            f"q ≤ {self.most_q:g}, or none does; {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        every_pattern = self.smallest_p_value == _smallest_exact(self.n_queries)
        return "use more queries" if every_pattern else "use more sign flips"


def sign_flip_p_values(
    changes: Float64[np.ndarray, "site pair"], query_ids: Sequence[str], n_flips: int = N_FLIPS, seed: int = 0
) -> _OfSite:
    """Two-sided p-value of each site's mean change, by flipping the signs of whole queries.

    Args:
        changes: what the patch changed in each pair.
        query_ids: the query of each pair.
        n_flips: random sign patterns; all patterns are gone through where they are no more than this.

    Returns:
        p of each site; NaN throughout if the pairs are of one query alone. 1 where nothing changes.

    Raises:
        InputError: `changes` and `query_ids` differ in length, or fewer than one flip.
    """
    check_flips(n_flips)
    if changes.shape[1] != len(query_ids):
        raise InputError(f"changes of {changes.shape[1]} pairs, but {len(query_ids)} query ids; give one a pair")
    queries, query = np.unique(np.asarray(query_ids, dtype=str), return_inverse=True)
    n_sites, n_queries = len(changes), len(queries)
    if n_queries < 2:
        return np.full(n_sites, np.nan)
    of_query = changes @ np.eye(n_queries)[query]  # [site, query]
    observed = np.abs(of_query.sum(axis=1))
    least = observed - _ROUNDING * np.abs(of_query).sum(axis=1)
    signs = _all_patterns(n_queries) if _exact(n_queries, n_flips) else _random_patterns(n_queries, n_flips, seed)
    n_patterns = signs.shape[1]
    hits = np.empty(n_sites)
    step = max(1, _MOST_CELLS // n_patterns)
    for start in range(0, n_sites, step):
        chunk = slice(start, start + step)
        sums = of_query[chunk] @ signs  # [site, pattern]
        hits[chunk] = (np.abs(sums, out=sums) >= least[chunk, None]).sum(axis=1)
    # where all are gone through, the measured pattern is among them
    drawn = 0 if _exact(n_queries, n_flips) else 1
    p_values: _OfSite = (hits + drawn) / (n_patterns + drawn)
    return p_values


def q_values(p_values: _OfSite) -> _OfSite:
    """Benjamini-Hochberg q-values of these sites; sites without a p-value are left out and stay NaN."""
    found = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        found[known] = stats.false_discovery_control(p_values[known], method="bh")
    return found


def important_sites(
    effects: pd.DataFrame, *, most_q: float = MOST_Q, least_ie: float = LEAST_IE
) -> Bool[np.ndarray, " site"]:
    """Which sites are important: q_value <= `most_q` and |ie| >= `least_ie`, both.

    A small q-value alone may be a tiny effect that many queries share, a large effect alone may be the noise of few
    queries. A site without a q-value, and one whose gap may be 0 (`unstable_ie`), is not called important.

    Args:
        effects: a table of `site_effects`, or some of its rows.

    Returns:
        One truth value a row of `effects`.

    Raises:
        InputError: `most_q` is not between 0 and 1, or `least_ie` is negative.
    """
    check_q(most_q)
    if not least_ie >= 0:
        raise InputError(f"least_ie is {least_ie}; give a share of the gap of 0 or more, such as {LEAST_IE}")
    q, ie = (effects[name].to_numpy(dtype=np.float64) for name in ("q_value", "ie"))
    unstable = effects["unstable_ie"].to_numpy(dtype=bool)
    return np.asarray((q <= most_q) & (np.abs(ie) >= least_ie) & ~unstable, dtype=bool)


def significance_limits(
    effects: pd.DataFrame, *, n_flips: int = N_FLIPS, most_q: float = MOST_Q
) -> list[SignificanceLimit]:
    """For each experiment and direction, what its sites could reach at best; `str` of each says it in a sentence.

    Args:
        effects: a whole table of `site_effects`, made with the same `n_flips`.

    Raises:
        InputError: `most_q` is not between 0 and 1, or fewer than one flip.
    """
    check_q(most_q)
    limits = []
    for (experiment, direction), sites in effects.groupby(["experiment", "direction"], sort=False):
        n_sites, n_queries = len(sites), int(sites["n_queries"].max())
        smallest = smallest_p_value(n_queries, n_flips)
        # less a rounding error: 0.05 * 100 / 0.05 are 100 sites, not 101
        needed = None if math.isnan(smallest) else max(1, math.ceil(smallest * n_sites / most_q - 1e-9))
        limits.append(SignificanceLimit(str(experiment), str(direction), n_sites, n_queries, most_q, smallest, needed))
    return limits


def smallest_p_value(n_queries: int, n_flips: int = N_FLIPS) -> float:
    """The smallest p that the sign-flip test can give: 2 / 2^n where it is exact, else 1 / (1 + n_flips).

    NaN with fewer than two queries. Six queries are the fewest with which p can be below 0.05.
    """
    check_flips(n_flips)
    if n_queries < 2:
        return math.nan
    return _smallest_exact(n_queries) if _exact(n_queries, n_flips) else 1.0 / (1 + n_flips)


def check_flips(n_flips: int) -> None:
    """Refuse a test without any sign flip."""
    if n_flips < 1:
        raise InputError(f"n_flips is {n_flips}; give at least 1")


def check_q(most_q: float) -> None:
    """Refuse a level outside the open interval (0, 1), which often is a percentage by mistake."""
    if not 0.0 < most_q < 1.0:
        raise InputError(f"most_q is {most_q}; give a number between 0 and 1, such as {MOST_Q}")


def _exact(n_queries: int, n_flips: int) -> bool:
    """True if all sign patterns, up to a common sign, are no more than `n_flips`."""
    return n_queries - 1 <= math.log2(n_flips)


def _smallest_exact(n_queries: int) -> float:
    """Only the measured pattern and its opposite, of 2^n."""
    return 2.0 ** (1 - n_queries)


@lru_cache(maxsize=4)
def _all_patterns(n_queries: int) -> Float64[np.ndarray, "query pattern"]:
    """Every pattern in which the first query keeps its sign; the first pattern flips none."""
    flipped = np.arange(2 ** (n_queries - 1)) >> np.arange(n_queries - 1)[:, None] & 1
    signs = np.concatenate([np.ones((1, flipped.shape[1])), 1.0 - 2.0 * flipped])
    signs.flags.writeable = False  # callers share it
    return signs


@lru_cache(maxsize=4)
def _random_patterns(n_queries: int, n_flips: int, seed: int) -> Float64[np.ndarray, "query pattern"]:
    generator = np.random.default_rng(seed)
    signs = 1.0 - 2.0 * generator.integers(0, 2, size=(n_queries, n_flips))
    signs.flags.writeable = False  # callers share it
    return signs
