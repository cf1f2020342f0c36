"""Which site of one run is which site of another?

Sites are matched within an experiment, direction and component:

- by `site`, where both models have as many layers and (for heads) as many heads: the same layer, head and place. A
  place is a region, or the destination and source of an attention edge (`query<-document`).
- by `depth`, where the shapes differ. The layer l of n stands at the relative depth l / (n - 1); it falls into the bin
  of the nearest layer of the shallower model (bins rather than interpolation: between two depths an interpolation
  would pass over layers of the deeper model). A bin's strength is the mean over its layers of the summed |effect| at a
  place: of the one module, or of all heads, since a head's number means nothing in another model.

Places of the same name are matched. A pairwise prompt has documents A and B: where one run has `document_a` and no
`document`, and the other `document` and no `document_a`, they are matched, since both hold the positive document of the
clean prompt. What only one run has is listed, never dropped in silence; so are joint patches and paths, for which each
run takes heads of its own.

Cost: no forward pass; the sites (not the pairs) are gone through once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import sparse

from relscope.analysis.regions import disjoint, region_key
from relscope.analysis.site_changes import SiteChanges, site_changes
from relscope.errors import InputError
from relscope.results import JOINT, PATHS

_OWN_HEADS: Final = {
    JOINT: ("sets of heads", "each run patches sets of heads of its own together"),
    PATHS: ("paths between heads", "each run chooses the heads of its paths itself"),
}
"""Experiments on heads that each run has for itself: what stands for a place, and why they are not compared."""
GROUP: Final = ["experiment", "direction", "component"]
_TARGET = ["layer", "head", "place"]
Which = Literal["one", "other"]


@dataclass(frozen=True)
class RunEffects:
    """The effects of one run, and how many layers and heads its model has."""

    changes: SiteChanges
    n_layers: int
    n_heads: int

    @classmethod
    def of_rows(cls, rows: pd.DataFrame, query_of: Mapping[str, str], n_layers: int, n_heads: int) -> RunEffects:
        """From rows as `Run.rows()` gives them.

        Args:
            rows: those of `NO_EFFECTS` ("judge", ...) are passed over.
            query_of: the query of each pair; the same text in two runs is taken for the same query.
            n_layers: of the model.
            n_heads: of each layer.

        Raises:
            InputError: as `site_changes`.
        """
        return cls(site_changes(rows, query_of), n_layers, n_heads)


@dataclass(frozen=True)
class Side:
    """One run's part of a match: its effects, and how they add up to the strengths that are compared.

    Attributes:
        effects: [site, pair], in logits, of the pairs that have all of these sites.
        query_ids: the query of each pair.
        gather: [target, site]; a target's strength is the sum of |mean effect| under these weights.
        n_incomplete: pairs that lack one of the sites, and are left out.
    """

    effects: Float64[np.ndarray, "site pair"]
    query_ids: tuple[str, ...]
    gather: Any
    n_incomplete: int

    def strengths(self, shares: Float64[np.ndarray, "pair row"]) -> Float64[np.ndarray, "row target"]:
        """Each target's strength, for every column of weights that take the mean over pairs."""
        return np.ascontiguousarray((self.gather @ np.abs(self.effects @ shares)).T)


@dataclass(frozen=True)
class Matched:
    """Sites of one experiment, direction and component that both runs have.

    Attributes:
        by: "site", or "depth" where the models' shapes differ.
        targets: what is compared, one row each: layer (by depth: of the shallower model), head (null unless matched by
            site) and place.
        places: the places compared, in reading order.
        together: True if `places` share no token and are ranked against each other; else there is one place.
        document_a_in: the run whose `document_a` was taken for the `document` of the other; None if neither.
    """

    experiment: str
    direction: str
    component: str
    by: Literal["site", "depth"]
    targets: pd.DataFrame
    places: tuple[str, ...]
    together: bool
    one: Side
    other: Side
    document_a_in: Which | None


@dataclass(frozen=True)
class Unmatched:
    """Sites that were not compared, and why."""

    experiment: str
    direction: str
    component: str
    place: str
    which: Which | None  # the run that has them; None: both do
    n_sites: int
    reason: str


def match_runs(one: RunEffects, other: RunEffects) -> tuple[list[Matched], list[Unmatched]]:
    """What of two runs can be compared: each component over its places together, and at each place; and what can't.

    Raises:
        InputError: the runs have no effects, or no experiment, direction and component in common.
    """
    tables = {"one": _table(one), "other": _table(other)}
    groups = {which: _groups(table) for which, table in tables.items()}
    common = [key for key in groups["one"] if key in groups["other"] and key[0] not in _OWN_HEADS]
    if not common:
        raise InputError(_nothing_common(tables["one"], tables["other"]))
    unmatched = []
    for which, of_run in groups.items():
        for key, sites in of_run.items():
            if key in common:
                continue
            _, reason = _OWN_HEADS.get(key[0], ("", "the other run has no such effects"))
            unmatched += _only(key, sites, which, reason)  # type: ignore[arg-type]
    matched = []
    for key in common:
        found, left = _match(key, (one, groups["one"][key]), (other, groups["other"][key]))
        matched += found
        unmatched += left
    return matched, unmatched


def _groups(table: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The sites of each experiment, direction and component, in the order of first appearance."""
    return {(str(e), str(d), str(c)): sites for (e, d, c), sites in table.groupby(GROUP, sort=False)}


def _table(run: RunEffects) -> pd.DataFrame:
    """The run's sites with their place; the index is the row of `changes.patched`."""
    sites = run.changes.sites
    edges = sites["dest"].astype(object) + "<-" + sites["src"].astype(object)
    experiment = sites["experiment"].astype(object)
    ends = edges.where(
        ~experiment.isin(list(_OWN_HEADS)), experiment.map(lambda name: _OWN_HEADS.get(name, ("", ""))[0])
    )
    place = sites["region"].astype(object).where(sites["region"].notna(), ends)
    return sites.assign(place=place.where(place.notna(), "everywhere").astype(str))


def _match(
    key: tuple[str, str, str], one: tuple[RunEffects, pd.DataFrame], other: tuple[RunEffects, pd.DataFrame]
) -> tuple[list[Matched], list[Unmatched]]:
    """The matches of one experiment, direction and component."""
    (run_one, sites_one), (run_other, sites_other) = one, other
    sites_one, sites_other, document_a_in = _same_document(sites_one, sites_other)
    of_heads = bool(sites_one["head"].notna().any())
    same_shape = run_one.n_layers == run_other.n_layers and (not of_heads or run_one.n_heads == run_other.n_heads)
    if not same_shape:
        n_depths = min(run_one.n_layers, run_other.n_layers)
        sites_one, sites_other = (
            _by_depth(sites, run.n_layers, n_depths) for run, sites in ((run_one, sites_one), (run_other, sites_other))
        )
    targets = sites_one[_TARGET].drop_duplicates().merge(sites_other[_TARGET].drop_duplicates(), on=_TARGET)
    unmatched = []
    kept = []
    for which, sites in (("one", sites_one), ("other", sites_other)):
        there = _target_of(sites, targets) >= 0
        unmatched += _only(key, sites[~there], which, "the other run lacks this place, layer or head")  # type: ignore[arg-type]
        kept.append(sites[there])
    places = tuple(sorted(targets["place"].unique(), key=_place_key))
    together = _sharing_no_token(places)
    matched = []
    for chosen in ([together] if len(together) > 1 else []) + [(place,) for place in places]:
        here = targets[targets["place"].isin(chosen)].reset_index(drop=True)
        first, second = (_side(run, sites, here) for run, sites in zip((run_one, run_other), kept, strict=True))
        by: Literal["site", "depth"] = "site" if same_shape else "depth"
        matched.append(Matched(*key, by, here, chosen, len(chosen) > 1, first, second, document_a_in))
    return matched, unmatched


def _same_document(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, Which | None]:
    """Both tables, with `document_a` of one called `document` where only so the two can meet."""
    has = [{name for place in sites["place"].unique() for name in _regions(place)} for sites in (one, other)]
    bases = [{name.partition(".")[0] for name in names} for names in has]
    for (mine, theirs), which in (((bases[0], bases[1]), "one"), ((bases[1], bases[0]), "other")):
        if "document_a" in mine - theirs and "document" in theirs - mine:
            sites = one if which == "one" else other
            renamed = sites.assign(place=sites["place"].str.replace("document_a", "document"))
            return (renamed, other, "one") if which == "one" else (one, renamed, "other")
    return one, other, None


def _by_depth(sites: pd.DataFrame, n_layers: int, n_depths: int) -> pd.DataFrame:
    """The same with each layer replaced by the nearest of `n_depths` relative depths, and heads taken together."""
    depth = sites["layer"].to_numpy(dtype=np.float64) / max(1, n_layers - 1)
    bins = np.rint(depth * (n_depths - 1)).astype(np.int16)
    nothing = pd.array([pd.NA] * len(sites), dtype="Int16")
    own = sites["layer"].to_numpy(dtype=np.intp)
    return sites.assign(layer=pd.array(bins, dtype="Int16"), head=nothing, own_layer=own)


def _target_of(sites: pd.DataFrame, targets: pd.DataFrame) -> np.ndarray:
    """The row of `targets` that each site belongs to, or -1."""
    numbered = targets.assign(target=np.arange(len(targets)))
    found = sites[_TARGET].merge(numbered, on=_TARGET, how="left")["target"]
    target: np.ndarray = found.fillna(-1).to_numpy(dtype=np.intp)
    return target


def _side(run: RunEffects, sites: pd.DataFrame, targets: pd.DataFrame) -> Side:
    target = _target_of(sites, targets)
    sites, target = sites[target >= 0], target[target >= 0]
    weights = np.ones(len(sites))
    if "own_layer" in sites:  # the mean over the layers of a bin
        n_layers = sites["own_layer"].groupby(target).nunique().to_numpy()
        weights = 1 / n_layers[target]
    gather = sparse.csr_matrix((weights, (target, np.arange(len(sites)))), shape=(len(targets), len(sites)))
    effects = run.changes.patched[sites.index.to_numpy()]
    measured = ~np.isnan(effects)
    complete = measured.all(axis=0)
    query_ids = tuple(query for query, kept in zip(run.changes.query_ids, complete, strict=True) if kept)
    return Side(effects[:, complete], query_ids, gather, int((measured.any(axis=0) & ~complete).sum()))


def _only(key: tuple[str, str, str], sites: pd.DataFrame, which: Which, reason: str) -> list[Unmatched]:
    counts = sites.groupby("place", sort=False).size()
    ordered = sorted(counts.items(), key=lambda item: _place_key(str(item[0])))
    return [Unmatched(*key, str(place), which, int(n), reason) for place, n in ordered]


def _sharing_no_token(places: tuple[str, ...]) -> tuple[str, ...]:
    """Those places whose regions share no token (of edges: neither their destinations nor their sources)."""
    ends = [_regions(place) for place in places]
    kept = [set(disjoint(end[i] for end in ends if i < len(end))) for i in range(2)]
    return tuple(
        place for place, end in zip(places, ends, strict=True) if all(name in kept[i] for i, name in enumerate(end))
    )


def _regions(place: str) -> list[str]:
    return place.split("<-")


def _place_key(place: str) -> list[tuple[int, int, str]]:
    return [region_key(name) for name in _regions(place)]


def _nothing_common(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """What two runs without a common group hold instead."""
    for number, sites in (("first", one), ("second", other)):
        if not len(sites):
            return f"the {number} run has no effects yet: nothing was patched in it, so there is nothing to compare"
    for column in GROUP:
        names = [sorted(sites[column].unique()) for sites in (one, other)]
        if not set(names[0]) & set(names[1]):
            return (
                f"the runs have no {column} in common: {', '.join(names[0])} in the first, {', '.join(names[1])} in "
                "the second; compare runs that measured the same"
            )
    return "the runs have no experiment, direction and component in common; compare runs that measured the same"


def without(matched: Matched, reason: str) -> Unmatched:
    """A match that cannot be compared after all."""
    place = ", ".join(matched.places)
    return Unmatched(
        matched.experiment, matched.direction, matched.component, place, None, len(matched.targets), reason
    )
